//! Calls about a template's text: the provider's own configuration, and checks of all blocks.

use std::sync::{Arc, PoisonError};

use outpost_wire::proto::tfplugin5 as wire;

use super::{
    Answer, Service,
    convert::{decode_object, encode_object},
};
use crate::{Diagnostic, Diagnostics, Schema, settle, validate};

impl<C> Service<C> {
    pub(super) fn prepare(
        &self,
        request: wire::prepare_provider_config::Request,
    ) -> Answer<wire::DynamicValue> {
        let schema = &self.provider.schema;
        let config = decode_object(&schema.value_type(), request.config.as_ref())?;
        let prepared = settle::with_defaults(&schema.fields, &config);
        let mut found = validate::null_elements(&prepared);
        found.extend(validate::validate(&schema.fields, &prepared));
        match found.has_errors() {
            true => Err(found),
            false => Ok(encode_object(&schema.value_type(), &prepared)),
        }
    }

    pub(super) fn configure(&self, request: wire::configure::Request) -> Answer<Diagnostics> {
        let schema = &self.provider.schema;
        let config = decode_object(&schema.value_type(), request.config.as_ref())?;
        let config = settle::with_defaults(&schema.fields, &config);
        let context = (self.provider.configure)(&config)?;
        let mut held = self.context.write().unwrap_or_else(PoisonError::into_inner);
        *held = Some(Arc::new(context));
        Ok(Diagnostics::none())
    }

    pub(super) fn validate_resource(
        &self,
        request: wire::validate_resource_type_config::Request,
    ) -> Answer<Diagnostics> {
        let (resource, described) = self.resource(&request.type_name)?;
        let config = decode_object(&described.of, request.config.as_ref())?;
        let mut found = validate::validate(&described.schema.fields, &config);
        found.extend(resource.validate(&config));
        found.extend(deprecation(&described.schema));
        Ok(found)
    }

    pub(super) fn validate_source(
        &self,
        request: wire::validate_data_source_config::Request,
    ) -> Answer<Diagnostics> {
        let (source, described) = self.source(&request.type_name)?;
        let config = decode_object(&described.of, request.config.as_ref())?;
        let mut found = validate::null_elements(&config);
        if !found.has_errors() {
            found.extend(validate::validate(&described.schema.fields, &config));
            found.extend(source.validate(&config));
        }
        found.extend(deprecation(&described.schema));
        Ok(found)
    }
}

/// Returns a warning about a deprecated block. The SDK says "resource" for data sources, too.
fn deprecation(schema: &Schema) -> Option<Diagnostic> {
    let why = schema.deprecated.as_ref()?;
    Some(Diagnostic::warning("Deprecated Resource").detail(why.clone()))
}
