//! Types of parameters and the form controls for them.

/// Valid values of `type`, in the order in which errors list them.
pub(super) const TYPES: [&str; 4] = ["string", "number", "bool", "list(string)"];

/// Valid values of `form_type`.
pub(super) const FORM_TYPES: [&str; 10] = [
    "radio",
    "slider",
    "input",
    "dropdown",
    "checkbox",
    "switch",
    "multi-select",
    "tag-select",
    "textarea",
    "error",
];

/// Returns the controls for a type, the default first; none for a type that does not exist.
fn controls(kind: &str, with_options: bool) -> &'static [&'static str] {
    match (kind, with_options) {
        ("string" | "number" | "bool", true) => &["radio", "dropdown"],
        ("list(string)", true) => &["radio", "multi-select"],
        ("string", false) => &["input", "textarea"],
        ("number", false) => &["input", "slider"],
        ("bool", false) => &["checkbox", "switch"],
        ("list(string)", false) => &["tag-select"],
        _ => &[],
    }
}

/// A form control, and the type of its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form<'a> {
    /// Control, one of [`FORM_TYPES`].
    pub(super) control: &'a str,
    /// Type of an option's value. It differs from the parameter's for `multi-select` only.
    pub(super) option_type: &'a str,
}

/// Chooses the control for a parameter of type `kind`; `wanted` is empty for the default.
///
/// # Errors
/// The available controls, if `wanted` is not one of them.
///
/// # Source
/// spec §10.3; the provider's `provider/testdata/parameter_table.md`.
pub(super) fn choose<'a>(
    kind: &'a str,
    with_options: bool,
    wanted: &'a str,
) -> Result<Form<'a>, String> {
    let allowed = controls(kind, with_options);
    let Some(default) = allowed.first() else {
        let types = TYPES.join(" ");
        return Err(format!(
            r#""type" attribute="{kind}" is not supported, choose one of [{types}]"#
        ));
    };
    let control = if wanted.is_empty() { default } else { wanted };
    if !allowed.contains(&control) {
        return Err(not_allowed(kind, with_options, control, allowed));
    }
    let option_type = match control {
        "multi-select" => "string",
        _ => kind,
    };
    Ok(Form {
        control,
        option_type,
    })
}

fn not_allowed(kind: &str, with_options: bool, control: &str, allowed: &[&str]) -> String {
    let when = match (
        controls(kind, !with_options).contains(&control),
        with_options,
    ) {
        (false, _) => "",
        (true, true) => " when options exist",
        (true, false) => " when options do not exist",
    };
    let allowed = allowed.join(" ");
    format!(
        r#""form_type" attribute="{control}" is not supported for "type"="{kind}"{when}, choose one of [{allowed}]"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_wish_the_first_control_is_taken() {
        for (kind, options, control) in [
            ("string", true, "radio"),
            ("string", false, "input"),
            ("number", false, "input"),
            ("bool", true, "radio"),
            ("bool", false, "checkbox"),
            ("list(string)", true, "radio"),
            ("list(string)", false, "tag-select"),
        ] {
            assert_eq!(choose(kind, options, "").unwrap().control, control);
        }
    }

    #[test]
    fn options_of_a_multi_select_are_strings() {
        let multi = choose("list(string)", true, "multi-select").unwrap();
        let radio = choose("list(string)", true, "radio").unwrap();

        assert_eq!(
            (multi.option_type, radio.option_type),
            ("string", "list(string)")
        );
    }

    #[test]
    fn a_control_that_only_misses_options_is_told_so() {
        let error = choose("number", true, "slider").unwrap_err();

        assert!(
            error.contains(r#""slider" is not supported for "type"="number" when options exist"#)
        );
        let error = choose("bool", false, "slider").unwrap_err();
        assert!(
            error.contains(r#""type"="bool", choose one of [checkbox switch]"#),
            "{error}"
        );
    }

    #[test]
    fn every_control_belongs_to_some_type_but_the_one_for_errors() {
        for control in FORM_TYPES {
            let used = TYPES.iter().any(|kind| {
                [true, false]
                    .iter()
                    .any(|options| choose(kind, *options, control).is_ok())
            });
            assert_eq!(used, control != "error", "{control}");
        }
    }
}
