//! Checks of a parameter's value against its author's rules.

use outpost_plugin::Diagnostic;

use super::form::{self, Form};
use crate::go;

/// An option that a user may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Name that the user sees.
    pub(super) name: String,
    /// Value that the template gets.
    pub(super) value: String,
}

/// The rules of a `validation` block. Strings are empty if they are not set.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Validation {
    /// Minimum; `None` if the configuration has none, even if the provider shows zero.
    pub(super) min: Option<i64>,
    /// Maximum; `None` if the configuration has none, even if the provider shows zero.
    pub(super) max: Option<i64>,
    /// Direction in which values may change: `increasing` or `decreasing`.
    pub(super) monotonic: String,
    /// Regular expression in Go's dialect.
    pub(super) regex: String,
    /// Message in place of ours, in which `{min}`, `{max}` and `{value}` are replaced.
    pub(super) error: String,
}

/// The properties of a parameter that matter for its value.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Rules {
    /// Type, one of [`form::TYPES`].
    pub(super) kind: String,
    /// Requested control, or empty.
    pub(super) form_type: String,
    /// Value if the user gives none.
    pub(super) default: Option<String>,
    /// Options to choose from; empty for free input.
    pub(super) choices: Vec<Choice>,
    /// The `validation` block, if there is one.
    pub(super) validation: Option<Validation>,
}

/// Result for a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Value for the template.
    pub(super) value: String,
    /// Control of the form.
    pub(super) form_type: String,
}

impl Rules {
    /// Determines the value. `input` is the user's value, `previous` that of the previous build.
    ///
    /// # Errors
    /// The first check that fails, in the order of spec §10.3.
    pub(super) fn decide(
        &self,
        input: Option<&str>,
        previous: Option<&str>,
    ) -> Result<Answer, Diagnostic> {
        let form = form::choose(&self.kind, !self.choices.is_empty(), &self.form_type).map_err(
            |error| {
                Diagnostic::error("Invalid form_type for parameter")
                    .detail(error)
                    .at("form_type")
            },
        )?;
        self.check_choices(form)?;
        let value = input.or(self.default.as_deref());
        if value.is_some() || self.validation.is_some() {
            let candidate = Candidate {
                value: value.unwrap_or_default(),
                previous,
                is_default: input.is_none() && self.default.is_some(),
            };
            self.check_value(&candidate, form)?;
        }
        Ok(Answer {
            value: value.unwrap_or_default().to_owned(),
            form_type: form.control.to_owned(),
        })
    }

    fn check_choices(&self, form: Form<'_>) -> Result<(), Diagnostic> {
        for (index, choice) in self.choices.iter().enumerate() {
            let before = &self.choices[..index];
            if before.iter().any(|other| other.name == choice.name) {
                let detail = format!(
                    "multiple options found with the same name {:?}",
                    choice.name
                );
                return Err(Diagnostic::error("Option names must be unique.").detail(detail));
            }
            if before.iter().any(|other| other.value == choice.value) {
                let detail = format!(
                    "multiple options found with the same value {:?}",
                    choice.value
                );
                return Err(Diagnostic::error("Option values must be unique.").detail(detail));
            }
            check_type(form.option_type, &choice.value).map_err(|detail| {
                let Choice { name, value } = choice;
                let kind = form.option_type;
                let summary =
                    format!("Option {name:?} with value={value:?} is not of type {kind:?}");
                Diagnostic::error(summary).detail(detail)
            })?;
        }
        Ok(())
    }

    fn check_value(&self, candidate: &Candidate<'_>, form: Form<'_>) -> Result<(), Diagnostic> {
        if !self.choices.is_empty() {
            self.check_chosen(candidate, form)?;
        }
        if let Some(validation) = &self.validation {
            validation.check(&self.kind, candidate).map_err(|detail| {
                let name = candidate.name().to_lowercase();
                let summary = format!("Invalid parameter {name} according to 'validation' block");
                candidate.problem(summary, detail)
            })?;
        }
        check_type(&self.kind, candidate.value).map_err(|detail| {
            let kind = &self.kind;
            Diagnostic::error(format!("Parameter value is not of type {kind:?}")).detail(detail)
        })
    }

    fn check_chosen(&self, candidate: &Candidate<'_>, form: Form<'_>) -> Result<(), Diagnostic> {
        let offered = |value: &str| self.choices.iter().any(|choice| choice.value == value);
        if form.option_type != self.kind {
            return check_all_chosen(candidate, offered);
        }
        if offered(candidate.value) {
            return Ok(());
        }
        let hint = match candidate.value {
            "" => {
                ". The value is empty, did you forget to set it with a default or from user input?"
            }
            _ => "",
        };
        Err(candidate.problem(
            format!("{} must be a valid option{hint}", candidate.name()),
            format!(
                "the value {:?} must be defined as one of options",
                candidate.value
            ),
        ))
    }
}

/// Checks every element of a list against the options.
fn check_all_chosen(
    candidate: &Candidate<'_>,
    offered: impl Fn(&str) -> bool,
) -> Result<(), Diagnostic> {
    let Candidate { value, .. } = candidate;
    let Some(items) = go::string_list(value) else {
        return Err(candidate.problem(
            "When using list(string) type, value must be a json encoded list of strings".to_owned(),
            format!("value {value:?} is not a valid list of strings"),
        ));
    };
    let missing: Vec<String> = items.into_iter().filter(|item| !offered(item)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (name, missing) = (candidate.name(), missing.join(", "));
    Err(candidate.problem(
        format!("{name}s must be a valid option"),
        format!("{name} {value:?} is not a valid option, values {missing:?} are missing from the options"),
    ))
}

/// A value that is being checked.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    value: &'a str,
    previous: Option<&'a str>,
    is_default: bool,
}

impl Candidate<'_> {
    fn name(&self) -> &'static str {
        match self.is_default {
            true => "Default value",
            false => "Value",
        }
    }

    fn problem(&self, summary: String, detail: String) -> Diagnostic {
        let problem = Diagnostic::error(summary).detail(detail);
        match self.is_default {
            true => problem.at("default"),
            false => problem,
        }
    }
}

impl Validation {
    fn check(&self, kind: &str, candidate: &Candidate<'_>) -> Result<(), String> {
        self.check_applies(kind)?;
        let value = candidate.value;
        match kind {
            "bool" if !["true", "false"].contains(&value) => {
                Err(r#"boolean value can be either "true" or "false""#.to_owned())
            }
            "string" => self.check_text(value),
            "number" => self.check_number(candidate),
            "list(string)" if go::string_list(value).is_none() => {
                Err(format!("value {value:?} is not valid list of strings"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the rules apply to parameters of this type.
    fn check_applies(&self, kind: &str) -> Result<(), String> {
        let number = kind == "number";
        if !number && self.min.is_some() {
            return Err(format!("a min cannot be specified for a {kind} type"));
        }
        if !number && self.max.is_some() {
            return Err(format!("a max cannot be specified for a {kind} type"));
        }
        if !number && !self.monotonic.is_empty() {
            return Err(format!(
                "monotonic validation can only be specified for number types, not {kind} types"
            ));
        }
        if kind != "string" && !self.regex.is_empty() {
            return Err(format!("a regex cannot be specified for a {kind} type"));
        }
        Ok(())
    }

    fn check_text(&self, value: &str) -> Result<(), String> {
        let Self { regex, error, .. } = self;
        if regex.is_empty() {
            return Ok(());
        }
        let compiled = go::regex(regex).map_err(|why| format!("compile regex {regex:?}: {why}"))?;
        if error.is_empty() {
            return Err("an error must be specified with a regex validation".to_owned());
        }
        if !compiled.is_match(value) {
            return Err(format!(
                "{error} (value {value:?} does not match {regex:?})"
            ));
        }
        Ok(())
    }

    fn check_number(&self, candidate: &Candidate<'_>) -> Result<(), String> {
        let value = candidate.value;
        let or_own = |text: String| Err(self.own_error(value).unwrap_or(text));
        let Some(number) = go::integer(value) else {
            return or_own(format!("value {value:?} is not a number"));
        };
        if let Some(min) = self.min.filter(|min| number < *min) {
            return or_own(format!("value {number} is less than the minimum {min}"));
        }
        if let Some(max) = self.max.filter(|max| number > *max) {
            return or_own(format!("value {number} is more than the maximum {max}"));
        }
        // A previous value that is not a number is ignored, because nobody could correct it.
        self.check_monotonic(number, candidate.previous.and_then(go::integer))
    }

    fn check_monotonic(&self, number: i64, previous: Option<i64>) -> Result<(), String> {
        let (wrong, expected) = match self.monotonic.as_str() {
            "" => return Ok(()),
            "increasing" => (
                previous.is_some_and(|previous| number < previous),
                "greater",
            ),
            "decreasing" => (previous.is_some_and(|previous| number > previous), "lower"),
            _ => {
                return Err(
                    r#"number monotonicity can be either "increasing" or "decreasing""#.to_owned(),
                );
            }
        };
        match previous.filter(|_| wrong) {
            Some(previous) => Err(format!(
                "parameter value '{number}' must be equal or {expected} than previous value: {previous}"
            )),
            None => Ok(()),
        }
    }

    fn own_error(&self, value: &str) -> Option<String> {
        let filled = self
            .error
            .replace("{min}", &self.min.unwrap_or_default().to_string())
            .replace("{max}", &self.max.unwrap_or_default().to_string())
            .replace("{value}", value);
        Some(filled).filter(|_| !self.error.is_empty())
    }
}

fn check_type(kind: &str, value: &str) -> Result<(), String> {
    match kind {
        "number" if !go::is_number(value) => Err(format!("{value:?} is not a number")),
        "bool" if !go::is_bool(value) => Err(format!("{value:?} is not a bool")),
        "list(string)" if go::string_list(value).is_none() => {
            Err(format!("value {value:?} is not a valid list of strings"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(kind: &str) -> Rules {
        Rules {
            kind: kind.to_owned(),
            ..Rules::default()
        }
    }

    fn with_default(kind: &str, default: &str) -> Rules {
        Rules {
            default: Some(default.to_owned()),
            ..rules(kind)
        }
    }

    fn with_choices(self_: Rules, values: &[&str]) -> Rules {
        let choice = |value: &&str| Choice {
            name: value.to_uppercase(),
            value: (*value).to_owned(),
        };
        Rules {
            choices: values.iter().map(choice).collect(),
            ..self_
        }
    }

    fn validated(kind: &str, validation: Validation) -> Rules {
        Rules {
            validation: Some(validation),
            ..rules(kind)
        }
    }

    fn value(rules: &Rules, input: Option<&str>) -> String {
        rules.decide(input, None).unwrap().value
    }

    fn problem(rules: &Rules, input: Option<&str>) -> (String, String) {
        let problem = rules.decide(input, None).unwrap_err();
        (problem.summary, problem.detail)
    }

    #[test]
    fn the_users_value_wins_over_the_default_even_if_it_is_empty() {
        let rules = with_default("string", "x");

        assert_eq!(value(&rules, None), "x");
        assert_eq!(value(&rules, Some("y")), "y");
        assert_eq!(value(&rules, Some("")), "");
    }

    #[test]
    fn without_value_and_validation_every_type_is_empty() {
        for kind in form::TYPES {
            assert_eq!(value(&rules(kind), None), "");
        }
    }

    #[test]
    fn an_empty_value_is_validated_if_there_is_a_block() {
        let (summary, detail) = problem(&validated("number", Validation::default()), None);

        assert_eq!(
            summary,
            "Invalid parameter value according to 'validation' block"
        );
        assert_eq!(detail, r#"value "" is not a number"#);
    }

    #[test]
    fn a_value_must_be_one_of_the_options() {
        let rules = with_choices(rules("string"), &["a", "b"]);

        assert_eq!(value(&rules, Some("b")), "b");
        let (summary, detail) = problem(&rules, Some("c"));
        assert_eq!(summary, "Value must be a valid option");
        assert_eq!(detail, r#"the value "c" must be defined as one of options"#);
        let empty = problem(&rules, Some("")).0;
        assert!(empty.ends_with("did you forget to set it with a default or from user input?"));
    }

    #[test]
    fn a_wrong_default_is_blamed_on_the_default() {
        let rules = with_choices(with_default("string", "c"), &["a"]);

        let problem = rules.decide(None, None).unwrap_err();

        assert_eq!(problem.summary, "Default value must be a valid option");
        assert_eq!(problem.path, "default".into());
    }

    #[test]
    fn every_element_of_a_multi_select_must_be_an_option() {
        let rules = Rules {
            form_type: "multi-select".to_owned(),
            ..with_choices(rules("list(string)"), &["a", "b"])
        };

        assert_eq!(value(&rules, Some(r#"["b","a"]"#)), r#"["b","a"]"#);
        let (summary, detail) = problem(&rules, Some(r#"["a","x","y"]"#));
        assert_eq!(summary, "Values must be a valid option");
        assert!(detail.contains(r#"values "x, y" are missing"#), "{detail}");
        assert!(problem(&rules, Some("a")).0.contains("json encoded list"));
    }

    #[test]
    fn options_are_unique_and_of_their_type() {
        let mut twice = with_choices(rules("string"), &["a", "b"]);
        twice.choices[1].name = "A".to_owned();
        assert_eq!(problem(&twice, None).0, "Option names must be unique.");
        twice.choices[1] = Choice {
            name: "B".to_owned(),
            value: "a".to_owned(),
        };
        assert_eq!(problem(&twice, None).0, "Option values must be unique.");
        let number = with_choices(rules("number"), &["one"]);
        assert_eq!(
            problem(&number, Some("one")).0,
            r#"Option "ONE" with value="one" is not of type "number""#
        );
    }

    #[test]
    fn a_value_has_its_type() {
        for (kind, good, bad) in [
            ("number", "1.5", "x"),
            ("bool", "T", "yes"),
            ("list(string)", "[]", "a"),
        ] {
            assert_eq!(value(&rules(kind), Some(good)), good);
            assert_eq!(
                problem(&rules(kind), Some(bad)).0,
                format!("Parameter value is not of type {kind:?}")
            );
        }
    }

    #[test]
    fn bounds_hold_for_whole_numbers_and_zero_is_a_bound() {
        let rules = validated(
            "number",
            Validation {
                min: Some(0),
                max: Some(0),
                ..Validation::default()
            },
        );

        assert_eq!(value(&rules, Some("0")), "0");
        assert_eq!(
            problem(&rules, Some("-1")).1,
            "value -1 is less than the minimum 0"
        );
        assert_eq!(
            problem(&rules, Some("1")).1,
            "value 1 is more than the maximum 0"
        );
        assert_eq!(
            problem(&rules, Some("0.5")).1,
            r#"value "0.5" is not a number"#
        );
    }

    #[test]
    fn an_own_error_is_filled_in() {
        let rules = validated(
            "number",
            Validation {
                min: Some(1),
                max: Some(5),
                error: "{value} is not in {min}..{max}".to_owned(),
                ..Validation::default()
            },
        );

        assert_eq!(problem(&rules, Some("9")).1, "9 is not in 1..5");
        assert_eq!(problem(&rules, Some("x")).1, "x is not in 1..5");
    }

    #[test]
    fn a_text_matches_its_expression_or_the_authors_error_is_shown() {
        let mut rules = validated(
            "string",
            Validation {
                regex: "^[a-z]+$".to_owned(),
                ..Validation::default()
            },
        );

        assert!(
            problem(&rules, Some("abc"))
                .1
                .contains("an error must be specified")
        );
        if let Some(validation) = &mut rules.validation {
            validation.error = "lower case".to_owned();
        }
        assert_eq!(value(&rules, Some("abc")), "abc");
        assert_eq!(
            problem(&rules, Some("ABC")).1,
            r#"lower case (value "ABC" does not match "^[a-z]+$")"#
        );
    }

    #[test]
    fn a_monotonic_number_is_compared_with_the_one_before() {
        for (monotonic, value, previous, ok) in [
            ("increasing", "2", Some("1"), true),
            ("increasing", "1", Some("1"), true),
            ("increasing", "0", Some("1"), false),
            ("decreasing", "2", Some("1"), false),
            ("decreasing", "0", Some("1"), true),
            ("increasing", "0", Some("no number"), true),
            ("increasing", "0", None, true),
            ("sideways", "0", None, false),
        ] {
            let rules = validated(
                "number",
                Validation {
                    monotonic: monotonic.to_owned(),
                    ..Validation::default()
                },
            );
            let decided = rules.decide(Some(value), previous);
            assert_eq!(decided.is_ok(), ok, "{monotonic} {value} {previous:?}");
        }
    }

    #[test]
    fn rules_of_another_type_are_refused() {
        let cases = [
            (
                Validation {
                    min: Some(1),
                    ..Validation::default()
                },
                "a min cannot be specified",
            ),
            (
                Validation {
                    max: Some(1),
                    ..Validation::default()
                },
                "a max cannot be specified",
            ),
            (
                Validation {
                    monotonic: "increasing".to_owned(),
                    ..Validation::default()
                },
                "monotonic validation can only",
            ),
        ];
        for (validation, why) in cases {
            let (_, detail) = problem(&validated("string", validation), Some("x"));
            assert!(detail.starts_with(why), "{detail}");
        }
        let regex = Validation {
            regex: "x".to_owned(),
            ..Validation::default()
        };
        let (_, detail) = problem(&validated("number", regex), Some("1"));
        assert_eq!(detail, "a regex cannot be specified for a number type");
    }

    #[test]
    fn a_validated_bool_is_written_in_full() {
        let rules = validated("bool", Validation::default());

        assert_eq!(value(&rules, Some("true")), "true");
        assert!(problem(&rules, Some("1")).1.contains("either"));
    }
}
