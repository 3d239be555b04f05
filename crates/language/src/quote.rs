//! Writes strings in quotes.

/// Quotes a string for Terraform's language so that nothing in it is a template.
pub fn quote(text: &str) -> String {
    let escaped = escape(text).replace("${", "$${").replace("%{", "%%{");
    format!("\"{escaped}\"")
}

/// Quotes a string for the first version of HCL, the language of Terraform's CLI configuration. Its only escape for
/// the beginning of a template is that of the brace.
pub(super) fn first_version(text: &str) -> String {
    format!("\"{}\"", escape(text).replace("${", "$\\u007b"))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quoted_string_is_read_as_it_was(text in "\\PC{0,20}|[\\x00-\\x1f$%{\"\\\\]{0,10}") {
            let expr = hcl_edit::parser::parse_expr(&quote(&text)).unwrap();
            prop_assert_eq!(expr.as_str(), Some(text.as_str()));
        }
    }
}
