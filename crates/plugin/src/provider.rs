//! The parts of a provider.
//!
//! `C` is the context of a configured provider: environment, URLs, clients. Calls are synchronous and sequential.

use std::collections::BTreeMap;

use outpost_value::Object;

use crate::{Diagnostics, Schema};

/// Warnings after success, errors and warnings after a failure. `?` converts a single
/// [`Diagnostic`](crate::Diagnostic) to the error.
pub type Outcome = Result<Diagnostics, Diagnostics>;

/// Arguments for resources and data sources in addition to their own values.
#[derive(Debug)]
pub struct Call<'a, C> {
    /// The template's configuration, without defaults. Empty when a resource is refreshed or deleted.
    pub config: &'a Object,
    /// Context of the configured provider.
    pub context: &'a C,
}

/// A managed resource of a provider.
pub trait Resource<C>: Send + Sync {
    /// Returns the schema, to which an `id` is added if there is none. Called once.
    fn schema(&self) -> Schema;

    /// Checks a configuration beyond its schema; values may still be unknown.
    fn validate(&self, _config: &Object) -> Diagnostics {
        Diagnostics::none()
    }

    /// Checks the plan of a new or changed resource; values may still be unknown.
    ///
    /// # Errors
    /// The reason why Terraform must not plan it.
    fn check_plan(&self, _prior: Option<&Object>, _planned: &Object) -> Outcome {
        Ok(Diagnostics::none())
    }

    /// Creates the resource. `state` is the plan; computed attributes are null until they are set here, `id` first:
    /// an error after that leaves a tainted resource, one before that none.
    ///
    /// # Errors
    /// The reason why it was not created completely.
    fn create(&self, state: &mut Object, call: &Call<'_, C>) -> Outcome;

    /// Refreshes `state`; an empty or null `id` means that the resource no longer exists.
    ///
    /// # Errors
    /// The reason why its state cannot be determined.
    fn read(&self, _state: &mut Object, _call: &Call<'_, C>) -> Outcome {
        Ok(Diagnostics::none())
    }

    /// Changes the resource in place according to the plan. This is called only for fields that are
    /// `updatable`.
    ///
    /// # Errors
    /// The reason why it was not changed.
    fn update(&self, _prior: &Object, _state: &mut Object, _call: &Call<'_, C>) -> Outcome {
        Ok(Diagnostics::none())
    }

    /// Deletes the managed resource.
    ///
    /// # Errors
    /// The reason why it still exists.
    fn delete(&self, _state: &Object, _call: &Call<'_, C>) -> Outcome {
        Ok(Diagnostics::none())
    }
}

/// A data source, which is read at every plan.
pub trait DataSource<C>: Send + Sync {
    /// Returns the schema, to which an `id` is added if there is none. Called once.
    fn schema(&self) -> Schema;

    /// Checks a configuration beyond its schema; values may still be unknown.
    fn validate(&self, _config: &Object) -> Diagnostics {
        Diagnostics::none()
    }

    /// Sets computed attributes in `state`, which contains the configuration with defaults and, in blocks, zeros.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    fn read(&self, state: &mut Object, call: &Call<'_, C>) -> Outcome;
}

/// Function that creates the context from the template's `provider` block.
pub type Configure<C> = Box<dyn Fn(&Object) -> Result<C, Diagnostics> + Send + Sync>;

/// A provider that can be served.
pub struct Provider<C> {
    /// Schema of the `provider` block.
    pub schema: Schema,
    /// Function that is called once before anything is planned, with the configuration and its defaults.
    pub configure: Configure<C>,
    /// Resources by type, such as `coder_agent`.
    pub resources: BTreeMap<String, Box<dyn Resource<C>>>,
    /// Data sources by type, such as `coder_workspace`.
    pub data_sources: BTreeMap<String, Box<dyn DataSource<C>>>,
}

impl<C> Provider<C> {
    /// Returns a provider without resources.
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

    /// Adds a managed resource to the provider.
    pub fn resource(
        mut self,
        name: impl Into<String>,
        resource: impl Resource<C> + 'static,
    ) -> Self {
        self.resources.insert(name.into(), Box::new(resource));
        self
    }

    /// Adds a data source to the provider.
    pub fn data_source(
        mut self,
        name: impl Into<String>,
        source: impl DataSource<C> + 'static,
    ) -> Self {
        self.data_sources.insert(name.into(), Box::new(source));
        self
    }
}
