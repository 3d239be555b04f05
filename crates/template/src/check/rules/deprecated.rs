//! Arguments and types that a provider's schema marks as deprecated.

use std::collections::BTreeMap;

use outpost_coder_provider as coder;
use outpost_plugin::Field;

use super::Check;
use crate::check::model::{Argument, Decl};

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    let provider = coder::provider(BTreeMap::new(), None);
    for decl in &model.decls {
        let schema = match decl.is_data {
            true => provider.data_sources.get(decl.kind).map(|it| it.schema()),
            false => provider.resources.get(decl.kind).map(|it| it.schema()),
        };
        let Some(schema) = schema else { continue };
        if let Some(why) = &schema.deprecated {
            let message = format!("`{}` is deprecated: {why}", decl.kind);
            check.report(
                "deprecated",
                check.block(decl),
                message,
                "use what the message names instead",
            );
            continue;
        }
        for (name, why, argument) in arguments(decl, &schema.fields) {
            let message = format!("`{name}` is deprecated: {why}");
            let spot = check.spot(decl, argument.place());
            check.report(
                "deprecated",
                spot,
                message,
                "use what the message names instead",
            );
        }
    }
}

/// Deprecated arguments that a declaration sets, also in blocks inside of it.
fn arguments<'a>(decl: &Decl<'a>, fields: &[Field]) -> Vec<(String, String, Argument<'a>)> {
    let mut found = Vec::new();
    for field in fields {
        let why = field.deprecated.as_deref();
        if let (Some(argument), Some(why)) = (decl.argument(&field.name), why) {
            found.push((field.name.to_string(), why.to_owned(), argument));
        }
        let Some(block) = field.block() else { continue };
        for (file, body) in decl
            .nested(&field.name)
            .into_iter()
            .map(|it| (it.file, it.body))
        {
            for inner in &block.fields {
                let Some(why) = inner.deprecated.as_deref() else {
                    continue;
                };
                if let Some(attribute) = body.get_attribute(&inner.name) {
                    let argument = Argument { file, attribute };
                    found.push((
                        format!("{}.{}", field.name, inner.name),
                        why.to_owned(),
                        argument,
                    ));
                }
            }
        }
    }
    found
}
