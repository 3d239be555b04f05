//! Common parts of all resources and data sources.

use outpost_plugin::{self as plugin, Diagnostic, Diagnostics, Outcome, Schema};
use outpost_value::Object;
use uuid::Uuid;

use crate::context::Context;

/// Arguments of a call to a resource or a data source.
pub(super) type Call<'a> = plugin::Call<'a, Context>;

/// A resource that exists in the state only, so that there is nothing to update or to delete.
pub(super) struct Resource {
    pub(super) schema: fn() -> Schema,
    /// Checks a plan, which may contain unknown values.
    pub(super) check_plan: fn(&Object) -> Result<(), Diagnostic>,
    /// Sets computed attributes at the creation.
    pub(super) create: fn(&mut Object, &Call<'_>) -> Outcome,
    /// Renews values that change from build to build.
    pub(super) refresh: fn(&mut Object, &Context),
}

impl Resource {
    /// Returns a resource that only gets an id when it is created.
    pub(super) fn plain(schema: fn() -> Schema) -> Self {
        Self {
            schema,
            check_plan: |_| Ok(()),
            create: |state, _| {
                state.set("id", new_id());
                Ok(Diagnostics::none())
            },
            refresh: |_, _| {},
        }
    }
}

impl plugin::Resource<Context> for Resource {
    fn schema(&self) -> Schema {
        (self.schema)()
    }

    fn validate(&self, config: &Object) -> Diagnostics {
        refuse_id(&self.schema(), config)
    }

    fn check_plan(&self, _prior: Option<&Object>, planned: &Object) -> Outcome {
        (self.check_plan)(planned)?;
        Ok(Diagnostics::none())
    }

    fn create(&self, state: &mut Object, call: &Call<'_>) -> Outcome {
        (self.create)(state, call)
    }

    fn read(&self, state: &mut Object, call: &Call<'_>) -> Outcome {
        (self.refresh)(state, call.context);
        Ok(Diagnostics::none())
    }
}

/// A data source, which is read at every plan.
pub(super) struct DataSource {
    pub(super) schema: fn() -> Schema,
    /// Sets computed attributes. The configuration has null where `state` has a default or zero.
    pub(super) read: fn(&mut Object, &Call<'_>) -> Result<(), Diagnostic>,
}

impl plugin::DataSource<Context> for DataSource {
    fn schema(&self) -> Schema {
        (self.schema)()
    }

    fn validate(&self, config: &Object) -> Diagnostics {
        refuse_id(&self.schema(), config)
    }

    fn read(&self, state: &mut Object, call: &Call<'_>) -> Outcome {
        (self.read)(state, call)?;
        Ok(Diagnostics::none())
    }
}

/// Refuses an `id` in a block. Every block has one to refer to, but an author cannot set it unless its schema says
/// so.
fn refuse_id(schema: &Schema, config: &Object) -> Diagnostics {
    let is_declared = schema.fields.iter().any(|field| field.name == "id");
    match is_declared || config.get("id").is_null() {
        true => Diagnostics::none(),
        false => Diagnostic::error("Invalid or unknown key").at("id").into(),
    }
}

pub(super) fn new_id() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use outpost_plugin::{DataSource as _, Resource as _};

    use super::*;

    #[test]
    fn an_id_is_set_by_the_author_only_where_the_schema_has_one() {
        let config = Object::from([("id", "mine")]);

        assert!(crate::app::app().validate(&config).has_errors());
        let auth = crate::small::external_auth();
        assert!(!auth.validate(&config).has_errors());
        assert!(!crate::app::app().validate(&Object::new()).has_errors());
    }
}
