//! What a provider is made of.
//!
//! `C` is what the provider knows after it has been configured: environment, URLs, clients. Calls are synchronous and
//! come one after another.

use std::collections::BTreeMap;

use outpost_value::Object;

use crate::{Diagnostics, Schema};

/// Warnings if it worked, errors (and warnings) if not. A single [`Diagnostic`](crate::Diagnostic) turns into
/// the error by `?`.
pub type Outcome = Result<Diagnostics, Diagnostics>;

/// What resources and data sources are called with beside their own values.
#[derive(Debug)]
pub struct Call<'a, C> {
    /// What the template says, without defaults. Empty when a resource is refreshed or deleted.
    pub config: &'a Object,
    /// What the provider knows since it has been configured.
    pub context: &'a C,
}

/// A managed resource.
pub trait Resource<C>: Send + Sync {
    /// What it looks like; an `id` is added if there is none. Asked for once.
    fn schema(&self) -> Schema;

    /// Checks a configuration beyond what its schema says; values may still be unknown.
    fn validate(&self, _config: &Object) -> Diagnostics {
        Diagnostics::none()
    }

    /// Checks what is planned for a new or changed resource; values may still be unknown.
    ///
    /// # Errors
    /// What keeps Terraform from planning it.
    fn check_plan(&self, _prior: Option<&Object>, _planned: &Object) -> Outcome {
        Ok(Diagnostics::none())
    }

    /// Creates it. `state` is what is planned; computed attributes are null until they are set here, `id` first:
    /// an error after that leaves a tainted resource, one before that none.
    ///
    /// # Errors
    /// Why it was not created, or not to the end.
    fn create(&self, state: &mut Object, call: &Call<'_, C>) -> Outcome;

    /// Refreshes `state`; an empty or null `id` says that the resource is gone.
    ///
    /// # Errors
    /// Why it cannot be said what became of it.
    fn read(&self, _state: &mut Object, _call: &Call<'_, C>) -> Outcome {
        Ok(Diagnostics::none())
    }

    /// Changes it in place to what is planned. Only fields that are [`updatable`](crate::Field::updatable)
    /// get here.
    ///
    /// # Errors
    /// Why it was not changed.
    fn update(&self, _prior: &Object, _state: &mut Object, _call: &Call<'_, C>) -> Outcome {
        Ok(Diagnostics::none())
    }

    /// Deletes it.
    ///
    /// # Errors
    /// Why it is still there.
    fn delete(&self, _state: &Object, _call: &Call<'_, C>) -> Outcome {
        Ok(Diagnostics::none())
    }
}

/// A data source: read at every plan.
pub trait DataSource<C>: Send + Sync {
    /// What it looks like; an `id` is added if there is none. Asked for once.
    fn schema(&self) -> Schema;

    /// Checks a configuration beyond what its schema says; values may still be unknown.
    fn validate(&self, _config: &Object) -> Diagnostics {
        Diagnostics::none()
    }

    /// Fills what is computed into `state`, which holds the configuration with defaults and, in blocks, zeros.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, state: &mut Object, call: &Call<'_, C>) -> Outcome;
}

/// Makes what the resources are called with out of the template's `provider` block.
pub type Configure<C> = Box<dyn Fn(&Object) -> Result<C, Diagnostics> + Send + Sync>;

/// A provider, ready to be served.
pub struct Provider<C> {
    /// Its configuration.
    pub schema: Schema,
    /// Called once before anything is planned, with the configuration and its defaults.
    pub configure: Configure<C>,
    /// By type, such as `coder_agent`.
    pub resources: BTreeMap<String, Box<dyn Resource<C>>>,
    /// By type, such as `coder_workspace`.
    pub data_sources: BTreeMap<String, Box<dyn DataSource<C>>>,
}

impl<C> Provider<C> {
    /// A provider without resources.
    pub fn new(
        schema: Schema,
        configure: impl Fn(&Object) -> Result<C, Diagnostics> + Send + Sync + 'static,
    ) -> Self {
        Self {
            schema,
            configure: Box::new(configure),
            resources: BTreeMap::new(),
            data_sources: BTreeMap::new(),
        }
    }

    /// The same with a resource more.
    pub fn resource(
        mut self,
        name: impl Into<String>,
        resource: impl Resource<C> + 'static,
    ) -> Self {
        self.resources.insert(name.into(), Box::new(resource));
        self
    }

    /// The same with a data source more.
    pub fn data_source(
        mut self,
        name: impl Into<String>,
        source: impl DataSource<C> + 'static,
    ) -> Self {
        self.data_sources.insert(name.into(), Box::new(source));
        self
    }
}
