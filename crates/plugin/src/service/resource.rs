//! Calls about the life cycle of a resource.

use outpost_value::{Object, Value};
use outpost_wire::proto::tfplugin5 as wire;

use super::{
    Answer, Service,
    convert::{self, decode, diagnostics, encode, encode_object},
    messages,
};
use crate::{Call, Diagnostic, Diagnostics, plan, settle, validate};

impl<C> Service<C> {
    /// Converts a stored state. Our schemas have only ever grown, so its version does not matter.
    pub(super) fn upgrade(
        &self,
        request: wire::upgrade_resource_state::Request,
    ) -> Answer<Option<wire::DynamicValue>> {
        let (_, described) = self.resource(&request.type_name)?;
        let raw = request.raw_state.unwrap_or_default();
        if raw.json.is_empty() {
            return match raw.flatmap.is_empty() {
                true => Ok(None),
                false => Err(flatmap(&request.type_name).into()),
            };
        }
        let state = Value::from_state_json(&described.of, &raw.json).map_err(|error| {
            let summary = format!(
                "the stored state of a {} cannot be decoded",
                request.type_name
            );
            Diagnostic::error(summary).detail(error.to_string())
        })?;
        let Value::Object(state) = state else {
            return Ok(Some(encode(&described.of, &Value::Null)));
        };
        let state = settle::stored(&described.schema.fields, &state);
        Ok(Some(encode_object(&described.of, &state)))
    }

    pub(super) fn read(
        &self,
        request: &wire::read_resource::Request,
    ) -> Answer<(wire::DynamicValue, Diagnostics)> {
        let (resource, described) = self.resource(&request.type_name)?;
        let Some(mut state) = decode(&described.of, request.current_state.as_ref())?.object()?
        else {
            return Ok((encode(&described.of, &Value::Null), Diagnostics::none()));
        };
        let context = self.context()?;
        let call = Call {
            config: &Object::new(),
            context: &*context,
        };
        let warnings = resource.read(&mut state, &call)?;
        if !state.has("id") {
            return Ok((encode(&described.of, &Value::Null), warnings));
        }
        let state = settle::refreshed(&described.schema.fields, &state);
        Ok((encode_object(&described.of, &state), warnings))
    }

    pub(super) fn plan(
        &self,
        request: wire::plan_resource_change::Request,
    ) -> Answer<wire::plan_resource_change::Response> {
        let (resource, described) = self.resource(&request.type_name)?;
        let fields = &described.schema.fields;
        let prior = decode(&described.of, request.prior_state.as_ref())?.object()?;
        let Some(proposed) =
            decode(&described.of, request.proposed_new_state.as_ref())?.object()?
        else {
            return Ok(messages::planned(
                request.proposed_new_state,
                request.prior_private,
            ));
        };
        let nulls = validate::null_elements(&proposed);
        if nulls.has_errors() {
            return Err(nulls);
        }
        let planned = plan::plan(fields, prior.as_ref(), &proposed);
        if !planned.changed {
            return Ok(messages::planned(
                request.prior_state,
                request.prior_private,
            ));
        }
        let warnings = resource.check_plan(prior.as_ref(), &planned.state)?;
        let state = encode_object(&described.of, &planned.state);
        let mut response =
            messages::planned(Some(state), messages::private(described.schema.version));
        response.requires_replace = planned.replace.iter().map(convert::path).collect();
        response.diagnostics = diagnostics(warnings);
        Ok(response)
    }

    pub(super) fn apply(
        &self,
        request: wire::apply_resource_change::Request,
    ) -> Answer<wire::apply_resource_change::Response> {
        let (resource, described) = self.resource(&request.type_name)?;
        let prior = decode(&described.of, request.prior_state.as_ref())?.object()?;
        let planned = decode(&described.of, request.planned_state.as_ref())?.object()?;
        let config = decode(&described.of, request.config.as_ref())?
            .object()?
            .unwrap_or_default();
        let context = self.context()?;
        let call = Call {
            config: &config,
            context: &*context,
        };
        let (state, outcome) = match (&prior, &planned) {
            (Some(prior), None) => match resource.delete(prior, &call) {
                Ok(warnings) => (None, Ok(warnings)),
                Err(errors) => (Some(prior.clone()), Err(errors)),
            },
            (prior, Some(planned)) => {
                let fields = &described.schema.fields;
                let mut state = settle::start(fields, planned);
                let outcome = match prior {
                    Some(prior) => resource.update(prior, &mut state, &call),
                    None => resource.create(&mut state, &call),
                };
                let state = settle::created(fields, planned, &state);
                (Some(state).filter(|state| state.has("id")), outcome)
            }
            (None, None) => (None, Ok(Diagnostics::none())),
        };
        let state = state.map_or(Value::Null, Value::Object);
        Ok(messages::applied(
            encode(&described.of, &state),
            messages::private(described.schema.version),
            diagnostics(outcome.unwrap_or_else(|errors| errors)),
        ))
    }
}

fn flatmap(name: &str) -> Diagnostic {
    Diagnostic::error(format!("the stored state of a {name} is older than Terraform 0.12"))
        .detail("Run `terraform refresh` with the registry's provider once, so that the state is rewritten.")
}
