//! Values of a template's parameters: which one each parameter gets, and whether it is allowed. Pure.

use std::{collections::BTreeMap, fmt};

use outpost_base::job::{Parameter, ParameterValue, Preset, Transition};
use regex::Regex;

/// Sources of parameter values for one build.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    /// Values that the caller gave.
    pub given: &'a [ParameterValue],
    /// Preset that the caller chose.
    pub preset: Option<&'a Preset>,
    /// All values of the previous build; `None` for the first build.
    pub previous: Option<&'a [ParameterValue]>,
}

/// A parameter value that is missing or not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the parameter.
    pub parameter: String,
    /// Reason why the value is refused.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parameter `{}` {}", self.parameter, self.reason)
    }
}

/// Decides the value of every parameter: the given one, else the preset's, else the previous one, else the default.
///
/// A stop or a destruction uses existing values and refuses nothing, because a workspace must always be removable.
///
/// # Errors
/// All problems at once: names that the template does not have, answers that are missing, not allowed, or may not
/// change.
///
/// # Source
/// coder `codersdk/richparameters.go`, `ParameterResolver.ValidateResolve`.
pub fn resolve(
    parameters: &[Parameter],
    answers: Answers<'_>,
    transition: Transition,
) -> Result<Vec<ParameterValue>, Vec<Problem>> {
    let given = by_name(answers.given);
    let preset = by_name(answers.preset.map_or(&[], |preset| &preset.parameters));
    let previous = by_name(answers.previous.unwrap_or_default());
    let mut problems = Vec::new();
    if transition == Transition::Start {
        problems.extend(unknown(parameters, &given));
        problems.extend(contradictions(&given, &preset));
    }
    let mut values = Vec::with_capacity(parameters.len());
    for parameter in parameters {
        let name = parameter.name.as_str();
        let answer = given.get(name).or_else(|| preset.get(name)).copied();
        let before = previous.get(name).copied();
        let kept = before.filter(|_| !parameter.ephemeral);
        let value = answer.or(kept).unwrap_or(&parameter.default_value);
        if transition == Transition::Start
            && let Err(reason) = check(parameter, answer, before, value)
        {
            problems.push(Problem {
                parameter: name.to_owned(),
                reason,
            });
        }
        values.push(ParameterValue {
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
    if problems.is_empty() {
        Ok(values)
    } else {
        Err(problems)
    }
}

fn by_name(values: &[ParameterValue]) -> BTreeMap<&str, &str> {
    values
        .iter()
        .map(|value| (value.name.as_str(), value.value.as_str()))
        .collect()
}

fn unknown(parameters: &[Parameter], given: &BTreeMap<&str, &str>) -> Vec<Problem> {
    let names: Vec<_> = parameters
        .iter()
        .map(|parameter| parameter.name.as_str())
        .collect();
    let known = match names.as_slice() {
        [] => "it has none".to_owned(),
        names => format!("it has {}", names.join(", ")),
    };
    given
        .keys()
        .filter(|name| !names.contains(name))
        .map(|name| Problem {
            parameter: (*name).to_owned(),
            reason: format!("is not one of the template's ({known})"),
        })
        .collect()
}

fn contradictions(given: &BTreeMap<&str, &str>, preset: &BTreeMap<&str, &str>) -> Vec<Problem> {
    preset
        .iter()
        .filter_map(|(name, value)| Some((name, value, given.get(name)?)))
        .filter(|(_, preset, given)| preset != given)
        .map(|(name, preset, given)| Problem {
            parameter: (*name).to_owned(),
            reason: format!("is {given:?}, and the preset makes it {preset:?}"),
        })
        .collect()
}

fn check(
    parameter: &Parameter,
    answer: Option<&str>,
    before: Option<&str>,
    value: &str,
) -> Result<(), String> {
    if let (false, Some(answer), Some(before)) = (parameter.mutable, answer, before)
        && answer != before
    {
        return Err(format!("cannot change; it is {before:?}"));
    }
    let has_answer = answer.is_some() || before.is_some_and(|_| !parameter.ephemeral);
    if parameter.required && !has_answer {
        return Err("needs a value".to_owned());
    }
    if !parameter.options.is_empty() {
        return check_option(parameter, value);
    }
    check_value(parameter, before, value)
}

fn check_option(parameter: &Parameter, value: &str) -> Result<(), String> {
    let allowed: Vec<_> = parameter
        .options
        .iter()
        .map(|option| option.value.as_str())
        .collect();
    let chosen = match serde_json::from_str::<Vec<String>>(value) {
        // Several options at once are given as a list; a list can also be a single option.
        Ok(chosen) if parameter.kind == "list(string)" && !allowed.contains(&value) => chosen,
        Ok(_) | Err(_) => vec![value.to_owned()],
    };
    match chosen
        .iter()
        .find(|choice| !allowed.contains(&choice.as_str()))
    {
        Some(choice) => Err(format!(
            "is {choice:?}, which is not one of {}",
            allowed.join(", ")
        )),
        None => Ok(()),
    }
}

fn check_value(parameter: &Parameter, before: Option<&str>, value: &str) -> Result<(), String> {
    match parameter.kind.as_str() {
        "bool" if value != "true" && value != "false" => {
            Err(format!("is {value:?}, which is neither true nor false"))
        }
        "number" => check_number(parameter, before, value),
        "string" if !parameter.validation_regex.is_empty() => check_text(parameter, value),
        "list(string)" if serde_json::from_str::<Vec<String>>(value).is_err() => {
            Err(format!("is {value:?}, which is not a JSON list of strings"))
        }
        _ => Ok(()),
    }
}

fn check_number(parameter: &Parameter, before: Option<&str>, value: &str) -> Result<(), String> {
    let number: i64 = value
        .parse()
        .map_err(|_| format!("is {value:?}, which is not a whole number"))?;
    let own_words = |text: String| explain(parameter, value, text);
    if let Some(min) = parameter.validation_min
        && number < i64::from(min)
    {
        return Err(own_words(format!("is {number}, below {min}")));
    }
    if let Some(max) = parameter.validation_max
        && number > i64::from(max)
    {
        return Err(own_words(format!("is {number}, above {max}")));
    }
    let Some(before) = before.and_then(|before| before.parse::<i64>().ok()) else {
        return Ok(());
    };
    match parameter.validation_monotonic.as_str() {
        "increasing" if number < before => {
            Err(format!("is {number} and may only grow; it is {before}"))
        }
        "decreasing" if number > before => {
            Err(format!("is {number} and may only shrink; it is {before}"))
        }
        _ => Ok(()),
    }
}

fn check_text(parameter: &Parameter, value: &str) -> Result<(), String> {
    let regex = Regex::new(&parameter.validation_regex)
        .map_err(|error| format!("has an invalid regular expression: {error}"))?;
    if regex.is_match(value) {
        return Ok(());
    }
    let expression = &parameter.validation_regex;
    Err(explain(
        parameter,
        value,
        format!("is {value:?}, which does not match {expression}"),
    ))
}

/// Returns the template author's own message for a value that is not allowed, if there is one.
fn explain(parameter: &Parameter, value: &str, otherwise: String) -> String {
    if parameter.validation_error.is_empty() {
        return otherwise;
    }
    let bound = |bound: Option<i32>| bound.map(|bound| bound.to_string()).unwrap_or_default();
    let words = parameter
        .validation_error
        .replace("{min}", &bound(parameter.validation_min))
        .replace("{max}", &bound(parameter.validation_max))
        .replace("{value}", value);
    format!("is not valid: {words}")
}

#[cfg(test)]
mod tests {
    use outpost_base::job::ParameterOption;

    use super::*;

    fn parameter(name: &str, kind: &str) -> Parameter {
        Parameter {
            name: name.to_owned(),
            kind: kind.to_owned(),
            mutable: true,
            ..Parameter::default()
        }
    }

    fn values(values: &[(&str, &str)]) -> Vec<ParameterValue> {
        values
            .iter()
            .map(|(name, value)| ParameterValue {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            })
            .collect()
    }

    fn one(
        parameter: &Parameter,
        given: &[(&str, &str)],
        previous: Option<&[(&str, &str)]>,
    ) -> Result<String, String> {
        let given = values(given);
        let previous = previous.map(values);
        let answers = Answers {
            given: &given,
            preset: None,
            previous: previous.as_deref(),
        };
        resolve(std::slice::from_ref(parameter), answers, Transition::Start)
            .map(|mut values| values.remove(0).value)
            .map_err(|problems| problems[0].to_string())
    }

    #[test]
    fn a_value_is_the_given_one_else_the_previous_one_else_the_default() {
        let parameter = Parameter {
            default_value: "default".to_owned(),
            ..parameter("a", "string")
        };

        assert_eq!(
            one(&parameter, &[("a", "new")], Some(&[("a", "old")])).unwrap(),
            "new"
        );
        assert_eq!(one(&parameter, &[], Some(&[("a", "old")])).unwrap(), "old");
        assert_eq!(one(&parameter, &[], None).unwrap(), "default");
    }

    #[test]
    fn an_ephemeral_value_counts_for_one_build() {
        let mut parameter = Parameter {
            ephemeral: true,
            default_value: "no".to_owned(),
            ..parameter("a", "string")
        };
        assert_eq!(one(&parameter, &[], Some(&[("a", "yes")])).unwrap(), "no");

        parameter.required = true;
        let error = one(&parameter, &[], Some(&[("a", "yes")])).unwrap_err();
        assert_eq!(error, "parameter `a` needs a value");
    }

    #[test]
    fn an_immutable_value_stays() {
        let parameter = Parameter {
            mutable: false,
            ..parameter("a", "string")
        };

        assert_eq!(one(&parameter, &[("a", "x")], None).unwrap(), "x");
        assert_eq!(
            one(&parameter, &[("a", "x")], Some(&[("a", "x")])).unwrap(),
            "x"
        );
        let error = one(&parameter, &[("a", "y")], Some(&[("a", "x")])).unwrap_err();
        assert_eq!(error, "parameter `a` cannot change; it is \"x\"");
    }

    #[test]
    fn names_that_the_template_does_not_have_are_refused() {
        let error = one(&parameter("size", "string"), &[("sise", "1")], None).unwrap_err();

        assert_eq!(
            error,
            "parameter `sise` is not one of the template's (it has size)"
        );
    }

    #[test]
    fn values_are_checked_by_type_options_and_validation() {
        let option = |value: &str| ParameterOption {
            value: value.to_owned(),
            ..ParameterOption::default()
        };
        let chosen = Parameter {
            options: vec![option("a"), option("b")],
            ..parameter("p", "string")
        };
        let several = Parameter {
            kind: "list(string)".to_owned(),
            ..chosen.clone()
        };
        let number = Parameter {
            validation_min: Some(1),
            validation_max: Some(5),
            validation_monotonic: "increasing".to_owned(),
            ..parameter("p", "number")
        };
        let text = Parameter {
            validation_regex: "^[a-z]+$".to_owned(),
            validation_error: "only letters, not {value}".to_owned(),
            ..parameter("p", "string")
        };
        let cases = [
            (&chosen, "b", None),
            (&chosen, "c", Some("is \"c\", which is not one of a, b")),
            (&several, r#"["a","b"]"#, None),
            (
                &several,
                r#"["a","c"]"#,
                Some("is \"c\", which is not one of a, b"),
            ),
            (&number, "3", None),
            (&number, "0", Some("is 0, below 1")),
            (&number, "6", Some("is 6, above 5")),
            (&number, "2", Some("is 2 and may only grow; it is 3")),
            (&number, "x", Some("is \"x\", which is not a whole number")),
            (&text, "abc", None),
            (&text, "1", Some("is not valid: only letters, not 1")),
        ];
        for (parameter, value, expected) in cases {
            let checked = one(parameter, &[("p", value)], Some(&[("p", "3")]));
            let expected = expected.map_or(Ok(value.to_owned()), |reason| {
                Err(format!("parameter `p` {reason}"))
            });
            assert_eq!(checked, expected);
        }
        let error = one(&parameter("p", "bool"), &[("p", "yes")], None).unwrap_err();
        assert_eq!(
            error,
            "parameter `p` is \"yes\", which is neither true nor false"
        );
    }

    #[test]
    fn a_preset_answers_and_contradictions_are_refused() {
        let parameters = [parameter("a", "string"), parameter("b", "string")];
        let preset = Preset {
            parameters: values(&[("a", "1")]),
            ..Preset::default()
        };
        let with = |given: &[(&str, &str)]| {
            let given = values(given);
            let answers = Answers {
                given: &given,
                preset: Some(&preset),
                previous: None,
            };
            resolve(&parameters, answers, Transition::Start)
        };

        assert_eq!(
            with(&[("b", "2")]).unwrap(),
            values(&[("a", "1"), ("b", "2")])
        );
        let problems = with(&[("a", "2")]).unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            "parameter `a` is \"2\", and the preset makes it \"1\""
        );
    }

    #[test]
    fn a_workspace_can_be_removed_whatever_its_answers_are() {
        let parameters = [Parameter {
            required: true,
            ..parameter("a", "number")
        }];
        let answers = Answers {
            given: &[],
            preset: None,
            previous: None,
        };

        for transition in [Transition::Stop, Transition::Destroy] {
            assert_eq!(
                resolve(&parameters, answers, transition).unwrap(),
                values(&[("a", "")])
            );
        }
    }
}
