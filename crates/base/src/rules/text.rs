//! Characters that texts for people must not contain, because terminals interpret them.

use std::borrow::Cow;

/// Returns whether a character moves the cursor, changes colours, or changes the order in which a text is read.
pub fn is_control(character: char) -> bool {
    // Overrides, embeddings and isolates of Unicode's bidirectional algorithm.
    let is_order = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || is_order
}

/// Escapes such characters, as in `\u{1b}[2J`, except line breaks, tabs, and sequences that only change colours.
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_harmless = |character| matches!(character, '\n' | '\t') || !is_control(character);
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(character) = rest.chars().next() {
        let length = colour(rest).unwrap_or(0);
        if length > 0 {
            shown.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            // A line ending of programs that write for old terminals.
            '\r' if rest.starts_with('\n') || rest.is_empty() => {}
            _ if is_harmless(character) => shown.push(character),
            _ => shown.extend(character.escape_default()),
        }
    }
    Cow::Owned(shown)
}

/// Returns the length in bytes of the sequence at the beginning of `text` that sets colours and weights, if there is
/// one.
fn colour(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("\u{1b}[")?;
    let end = rest.find(|character: char| !character.is_ascii_digit() && character != ';')?;
    rest[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert_eq!(visible("two\nlines\tand übung"), "two\nlines\tand übung");
        assert_eq!(visible("\u{1b}[31mred\u{1b}[0m"), "\u{1b}[31mred\u{1b}[0m");
        assert_eq!(visible("\u{1b}[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(
            visible("\u{1b}]52;c;ZXZpbA==\u{7}"),
            "\\u{1b}]52;c;ZXZpbA==\\u{7}"
        );
        assert_eq!(visible("safe\rfake"), "safe\\rfake");
        assert_eq!(visible("line\r\nnext\r"), "line\nnext");
        assert_eq!(visible("\u{9b}1m \u{202e}txt"), "\\u{9b}1m \\u{202e}txt");
        assert_eq!(visible("\u{1b}["), "\\u{1b}[");
        assert_eq!(visible("\u{1b}[1;2"), "\\u{1b}[1;2");
    }
}
