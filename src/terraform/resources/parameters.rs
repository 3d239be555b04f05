//! Parameters: what a template asks.

use std::collections::BTreeSet;

use super::{ConvertError, decode::Attributes, index::Index};
use crate::{
    job::{FormType, Parameter, ParameterOption},
    terraform::plan::ResourceValues,
};

pub(super) fn collect(index: &Index<'_>) -> Result<Vec<Parameter>, ConvertError> {
    let parameters = index
        .in_order("coder_parameter")
        .iter()
        .map(|resource| read(resource));
    let parameters = parameters.collect::<Result<Vec<_>, _>>()?;
    check_unique(&parameters)?;
    Ok(parameters)
}

fn read(resource: &ResourceValues) -> Result<Parameter, ConvertError> {
    let what = format!("decode map values for coder_parameter.{}", resource.name);
    let values = Attributes::new(&what, &resource.values);
    let mut parameter = Parameter {
        name: values.string("name")?,
        display_name: values.string("display_name")?,
        description: values.string("description")?,
        kind: values.string("type")?,
        mutable: values.bool("mutable")?,
        default_value: values.string("default")?,
        icon: values.string("icon")?,
        options: values
            .objects("option")?
            .iter()
            .map(read_option)
            .collect::<Result<_, _>>()?,
        required: !values.bool("optional")?,
        order: values.i32("order")?,
        ephemeral: values.bool("ephemeral")?,
        ..Parameter::default()
    };
    let form_type = values.string("form_type")?;
    let unsupported = || ConvertError::FormType(resource.name.clone(), form_type.clone());
    parameter.form_type = read_form_type(&form_type).ok_or_else(unsupported)?;
    if let [validation] = &values.objects("validation")?[..] {
        read_validation(&mut parameter, validation)?;
    }
    Ok(parameter)
}

fn read_option(option: &Attributes<'_>) -> Result<ParameterOption, ConvertError> {
    Ok(ParameterOption {
        name: option.string("name")?,
        description: option.string("description")?,
        value: option.string("value")?,
        icon: option.string("icon")?,
    })
}

/// Providers before 0.8.2 do not say whether a bound is set; for them two zeros mean none.
fn read_validation(
    parameter: &mut Parameter,
    validation: &Attributes<'_>,
) -> Result<(), ConvertError> {
    parameter.validation_regex = validation.string("regex")?;
    parameter.validation_error = validation.string("error")?;
    parameter.validation_monotonic = validation.string("monotonic")?;
    let (min, max) = (validation.i32("min")?, validation.i32("max")?);
    let is_unset = !validation.has("min_disabled") && min == 0 && max == 0;
    let (min_disabled, max_disabled) = (
        validation.bool("min_disabled")?,
        validation.bool("max_disabled")?,
    );
    parameter.validation_min = (!is_unset && !min_disabled).then_some(min);
    parameter.validation_max = (!is_unset && !max_disabled).then_some(max);
    Ok(())
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
        let name = format!("{:?}", parameter.name);
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
