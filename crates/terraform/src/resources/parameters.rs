//! Parameters of a template: `coder_parameter` data sources.

use std::collections::BTreeSet;

use outpost_base::job::{FormType, Parameter, ParameterOption};

use super::{
    ConvertError,
    decode::{Attributes, decode},
    index::Index,
};
use crate::{go_text::quoted, plan::ResourceValues};

pub(super) fn collect(index: &Index<'_>) -> Result<Vec<Parameter>, ConvertError> {
    let parameters = index
        .in_order("coder_parameter")
        .iter()
        .map(|resource| read(resource));
    let parameters = parameters.collect::<Result<Vec<_>, _>>()?;
    check_unique(&parameters)?;
    Ok(parameters)
}

/// Reads a parameter. The keys are spelled as in the reference's decoder, because errors repeat them.
fn read(resource: &ResourceValues) -> Result<Parameter, ConvertError> {
    let what = format!("decode map values for coder_parameter.{}", resource.name);
    let (form_type, mut parameter) = decode(&what, &resource.values, |values| {
        let options = values.objects("Option");
        let mut parameter = Parameter {
            name: values.string("Name"),
            display_name: values.string("display_name"),
            description: values.string("Description"),
            kind: values.string("Type"),
            mutable: values.bool("Mutable"),
            default_value: values.string("Default"),
            icon: values.string("Icon"),
            options: options.iter().map(read_option).collect(),
            required: !values.bool("Optional"),
            order: values.int("Order") as i32,
            ephemeral: values.bool("Ephemeral"),
            ..Parameter::default()
        };
        read_validation(&mut parameter, &values.objects("Validation"));
        let form_type = values.word("form_type", "provider.ParameterFormType");
        (form_type, parameter)
    })?;
    parameter.form_type = read_form_type(&form_type)
        .ok_or_else(|| ConvertError::FormType(resource.name.clone(), form_type))?;
    Ok(parameter)
}

fn read_option(option: &Attributes<'_>) -> ParameterOption {
    ParameterOption {
        name: option.string("Name"),
        description: option.string("Description"),
        value: option.string("Value"),
        icon: option.string("Icon"),
    }
}

/// Reads the validation; only one block counts. Providers before 0.8.2 do not tell whether a bound is set; for them
/// two zeros mean none.
fn read_validation(parameter: &mut Parameter, blocks: &[Attributes<'_>]) {
    for block in blocks {
        let (min, max) = (block.int("Min"), block.int("Max"));
        let (min_disabled, max_disabled) = (block.bool("min_disabled"), block.bool("max_disabled"));
        let (regex, error) = (block.string("Regex"), block.string("Error"));
        let monotonic = block.string("Monotonic");
        if blocks.len() > 1 {
            continue;
        }
        let (has_min, has_max) = if block.has("min_disabled") || !block.is_object() {
            (!min_disabled, !max_disabled)
        } else {
            let is_set = min != 0 || max != 0;
            (is_set, is_set)
        };
        parameter.validation_min = has_min.then_some(min as i32);
        parameter.validation_max = has_max.then_some(max as i32);
        parameter.validation_regex = regex;
        parameter.validation_error = error;
        parameter.validation_monotonic = monotonic;
    }
}

fn read_form_type(word: &str) -> Option<FormType> {
    Some(match word {
        "" => FormType::Default,
        "error" => FormType::Error,
        "radio" => FormType::Radio,
        "dropdown" => FormType::Dropdown,
        "input" => FormType::Input,
        "textarea" => FormType::Textarea,
        "slider" => FormType::Slider,
        "checkbox" => FormType::Checkbox,
        "switch" => FormType::Switch,
        "tag-select" => FormType::TagSelect,
        "multi-select" => FormType::MultiSelect,
        _ => return None,
    })
}

fn check_unique(parameters: &[Parameter]) -> Result<(), ConvertError> {
    let (mut seen, mut repeated) = (BTreeSet::new(), Vec::new());
    for parameter in parameters {
        let name = quoted(&parameter.name);
        if !seen.insert(&parameter.name) && !repeated.contains(&name) {
            repeated.push(name);
        }
    }
    let text = match &repeated[..] {
        [] => return Ok(()),
        [one] => format!("{one} appears multiple times"),
        [init @ .., last] => format!("{} and {last} appear multiple times", init.join(", ")),
    };
    Err(ConvertError::DuplicateParameters(text))
}
