//! Go's dialect of regular expressions, translated to that of the `regex` crate.

use regex::Regex;

/// Compiles an expression of Go's `regexp`.
///
/// Both dialects come from RE2. Differences: in Go `\d`, `\s`, `\w` and `\b` match ASCII only, brackets inside a
/// class are literal, and `\Q…\E` quotes.
///
/// # Errors
/// The problem, as text for the author.
pub(crate) fn regex(pattern: &str) -> Result<Regex, String> {
    // The error of `regex` spans several lines; the last one has the reason.
    Regex::new(&translate(pattern)).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim().to_owned();
        last.strip_prefix("error: ")
            .map_or(last.clone(), str::to_owned)
    })
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut class = Class::Outside;
    while let Some(character) = rest.chars().next() {
        let taken = match character {
            '\\' => escape(rest, class, &mut out),
            '[' if class == Class::Outside => open_class(rest, &mut out, &mut class),
            '[' => inner_bracket(rest, &mut out),
            ']' if class == Class::Inside => {
                class = Class::Outside;
                plain(character, &mut out)
            }
            // Doubled, these would be set operations.
            '&' | '~' if class == Class::Inside => {
                out.push('\\');
                plain(character, &mut out)
            }
            _ => plain(character, &mut out),
        };
        rest = &rest[taken..];
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Outside,
    Inside,
}

fn plain(character: char, out: &mut String) -> usize {
    out.push(character);
    character.len_utf8()
}

/// Begins a class. A closing bracket at its beginning is literal.
fn open_class(rest: &str, out: &mut String, class: &mut Class) -> usize {
    *class = Class::Inside;
    for opening in ["[^]", "[]", "[^", "["] {
        if rest.starts_with(opening) {
            out.push_str(&opening.replace(']', r"\]"));
            return opening.len();
        }
    }
    0
}

/// Translates a bracket inside a class: that of a named class such as `[:alpha:]`, or a literal one.
fn inner_bracket(rest: &str, out: &mut String) -> usize {
    let named = rest
        .strip_prefix("[:")
        .and_then(|rest| rest.split_once(":]"));
    match named {
        Some((name, _)) if name.bytes().all(|b| b.is_ascii_lowercase() || b == b'^') => {
            let length = name.len() + 4;
            out.push_str(&rest[..length]);
            length
        }
        _ => {
            out.push_str(r"\[");
            1
        }
    }
}

fn escape(rest: &str, class: Class, out: &mut String) -> usize {
    if let Some(quoted) = rest.strip_prefix(r"\Q") {
        let end = quoted.find(r"\E");
        let text = &quoted[..end.unwrap_or(quoted.len())];
        out.push_str(&regex::escape(text));
        return 2 + text.len() + if end.is_some() { 2 } else { 0 };
    }
    let Some(escaped) = rest.chars().nth(1) else {
        return plain('\\', out);
    };
    match (escaped, class) {
        ('d', _) => out.push_str("[0-9]"),
        ('D', _) => out.push_str("[^0-9]"),
        ('s', _) => out.push_str(r"[\t\n\f\r ]"),
        ('S', _) => out.push_str(r"[^\t\n\f\r ]"),
        ('w', _) => out.push_str("[0-9A-Za-z_]"),
        ('W', _) => out.push_str("[^0-9A-Za-z_]"),
        ('b', Class::Outside) => out.push_str(r"(?-u:\b)"),
        _ => out.push_str(&rest[..1 + escaped.len_utf8()]),
    }
    1 + escaped.len_utf8()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        regex(pattern).unwrap().is_match(text)
    }

    #[test]
    fn classes_know_ascii_only() {
        assert!(matches(r"^\d+\s[\w-]+$", "12 a-b"));
        assert!(!matches(r"^\d$", "٣"));
        assert!(!matches(r"^\w$", "ä"));
        assert!(matches(r"^[^\s]$", "x"));
        assert!(matches(r"\bword\b", "a word."));
    }

    #[test]
    fn brackets_and_ampersands_inside_a_class_are_themselves() {
        assert!(matches(r"^[[(]$", "["));
        assert!(matches(r"^[]a]+$", "]a"));
        assert!(matches(r"^[^]]$", "x"));
        assert!(matches(r"^[a&&b]+$", "&"));
        assert!(matches(r"^[[:alpha:]_]+$", "a_b"));
    }

    #[test]
    fn quoted_text_is_itself() {
        assert!(matches(r"^\Qa.b*\E+$", "a.b**"));
        assert!(!matches(r"^\Qa.b\E$", "axb"));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        assert_eq!(regex("(").unwrap_err(), "unclosed group");
    }
}
