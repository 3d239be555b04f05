//! The call that reads a data source.

use outpost_wire::proto::tfplugin5 as wire;

use super::{
    Answer, Service,
    convert::{decode_object, encode_object},
};
use crate::{Call, Diagnostics, settle, validate};

impl<C> Service<C> {
    pub(super) fn read_source(
        &self,
        request: &wire::read_data_source::Request,
    ) -> Answer<(wire::DynamicValue, Diagnostics)> {
        let (source, described) = self.source(&request.type_name)?;
        let fields = &described.schema.fields;
        let config = decode_object(&described.of, request.config.as_ref())?;
        let nulls = validate::null_elements(&config);
        if nulls.has_errors() {
            return Err(nulls);
        }
        let context = self.context()?;
        let call = Call {
            config: &config,
            context: &*context,
        };
        let mut state = settle::configured(fields, &config);
        let warnings = source.read(&mut state, &call)?;
        if !state.has("id") {
            // The SDK stores this for a data source without an id.
            state.set("id", "-");
        }
        Ok((
            encode_object(&described.of, &settle::read(fields, &state)),
            warnings,
        ))
    }
}
