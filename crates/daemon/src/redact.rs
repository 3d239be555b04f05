//! Redaction of known secrets in an engine's output, wherever a line was cut. Pure.

use std::ops::Range;

use aho_corasick::AhoCorasick;

/// Text in place of a secret.
const HIDDEN: &str = "[redacted]";
/// Length of the shortest secret that is hidden. Shorter values are words such as `true`; hiding them would only make
/// a log unreadable.
const SHORTEST: usize = 6;
/// Length of the parts in which a secret is searched for, and so of the text that must be held back between two
/// pieces.
const PART_BYTES: usize = 1024;

/// Search for secrets: each line of them separately, because a log shows a key line by line.
#[derive(Default)]
pub(super) struct Redactor {
    matcher: Option<AhoCorasick>,
    /// Number of bytes at the end of a piece in which a secret may have begun.
    reach: usize,
}

/// Held-back end of a piece, in which a secret may have begun.
#[derive(Default)]
pub(super) struct Held {
    text: String,
    /// Number of bytes at its beginning that belong to a secret that was hidden already.
    hidden: usize,
}

impl Redactor {
    /// Prepares the search for each of `secrets`.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parts: Vec<String> = secrets.into_iter().flat_map(parts).collect();
        parts.sort_unstable();
        parts.dedup();
        let longest = parts.iter().map(String::len).max();
        Self {
            reach: longest.map_or(0, |longest| longest - 1),
            matcher: longest.and_then(|_| AhoCorasick::new(&parts).ok()),
        }
    }

    /// Hides secrets in a whole line.
    pub(super) fn redact(&self, text: String) -> String {
        let found = self.find(&text, 0);
        if found.is_empty() {
            return text;
        }
        hide(&text, &found, false)
    }

    /// Hides secrets in a piece of a line and returns the part that is already safe to show.
    pub(super) fn redact_piece(&self, held: &mut Held, piece: String, is_last: bool) -> String {
        let Held { text, hidden } = std::mem::take(held);
        let mut text = match text.is_empty() {
            true => piece,
            false => text + &piece,
        };
        let mut found = self.find(&text, hidden);
        let end = match is_last {
            true => text.len(),
            false => text.floor_char_boundary(text.len().saturating_sub(self.reach)),
        };
        // A match that begins in the held-back part will be found again, together with the next piece.
        found.retain(|range| range.start < end || range.start == 0 && hidden > 0);
        if let Some(last) = found.last_mut()
            && last.end > end
        {
            held.hidden = last.end - end;
            last.end = end;
        }
        held.text.push_str(&text[end..]);
        text.truncate(end);
        if found.is_empty() {
            return text;
        }
        hide(&text, &found, hidden > 0)
    }

    /// Returns the positions of secrets, in order and without overlaps; the first `hidden` bytes are known to be part
    /// of one.
    fn find(&self, text: &str, hidden: usize) -> Vec<Range<usize>> {
        let Some(matcher) = &self.matcher else {
            return Vec::new();
        };
        let matches = matcher
            .find_overlapping_iter(text)
            .map(|found| found.range());
        let mut all: Vec<_> = matches.collect();
        if hidden > 0 {
            all.push(0..hidden);
        }
        all.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in all {
            match merged.last_mut() {
                Some(last) if range.start < last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// Replaces the secrets that were found. One that `goes_on` from the previous piece has its mark already.
fn hide(text: &str, found: &[Range<usize>], goes_on: bool) -> String {
    let (mut safe, mut at) = (String::with_capacity(text.len()), 0);
    for range in found {
        safe.push_str(&text[at..range.start]);
        if range.start > 0 || !goes_on {
            safe.push_str(HIDDEN);
        }
        at = range.end;
    }
    safe.push_str(&text[at..]);
    safe
}

/// Returns the texts to search for: the lines of a secret, as they are and as in JSON, in parts of limited length.
fn parts(secret: &str) -> Vec<String> {
    let lines = secret.lines().map(str::trim);
    let lines = lines.filter(|line| line.len() >= SHORTEST && !line.starts_with("-----"));
    let mut parts = Vec::new();
    for line in lines {
        split(line, &mut parts);
        let quoted = serde_json::Value::from(line).to_string();
        let quoted = &quoted[1..quoted.len() - 1];
        if quoted != line {
            split(quoted, &mut parts);
        }
    }
    parts
}

/// Splits one line into parts; the last one overlaps the one before, so that none is short.
fn split(line: &str, parts: &mut Vec<String>) {
    let mut rest = line;
    while rest.len() > PART_BYTES {
        let (part, after) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
        parts.push(part.to_owned());
        rest = after;
    }
    let from = line.ceil_char_boundary(line.len().saturating_sub(PART_BYTES));
    parts.push(line[from..].to_owned());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_pieces(redactor: &Redactor, pieces: &[&str]) -> String {
        let (mut held, mut shown) = (Held::default(), String::new());
        for (number, piece) in pieces.iter().enumerate() {
            let is_last = number + 1 == pieces.len();
            shown.push_str(&redactor.redact_piece(&mut held, (*piece).to_owned(), is_last));
        }
        shown
    }

    #[test]
    fn a_secret_is_hidden_and_its_surroundings_stay() {
        let redactor = Redactor::new(["hunter2!"]);

        assert_eq!(redactor.redact("a hunter2!b".to_owned()), "a [redacted]b");
        assert_eq!(redactor.redact("a hunter b".to_owned()), "a hunter b");
    }

    #[test]
    fn secrets_that_overlap_are_hidden_together() {
        let redactor = Redactor::new(["abcdefgh", "efghijkl"]);

        assert_eq!(redactor.redact("-abcdefghijkl-".to_owned()), "-[redacted]-");
    }

    #[test]
    fn a_key_is_hidden_line_by_line_and_as_json() {
        let key = "-----BEGIN KEY-----\nAAAAAAAAAA\nBBBB\"BBBB\n-----END KEY-----\n";
        let redactor = Redactor::new([key]);

        let json = serde_json::json!({ "key": key }).to_string();
        let expected =
            r#"{"key":"-----BEGIN KEY-----\n[redacted]\n[redacted]\n-----END KEY-----\n"}"#;
        assert_eq!(redactor.redact(json), expected);
        assert_eq!(redactor.redact("BBBB\"BBBB".to_owned()), "[redacted]");
    }

    #[test]
    fn words_are_left_alone() {
        assert_eq!(
            Redactor::new(["true", "", "1"]).redact("true 1".to_owned()),
            "true 1"
        );
    }

    #[test]
    fn a_very_long_secret_leaves_nothing_behind() {
        let secret: String = (0..2000).map(|number| format!("{number:x}ä")).collect();
        let redactor = Redactor::new([secret.as_str()]);

        let shown = redactor.redact(format!("<{secret}>"));

        assert_eq!(shown.replace(HIDDEN, ""), "<>");
        assert!(redactor.reach < PART_BYTES);
    }

    proptest! {
        #[test]
        fn pieces_show_what_the_whole_shows(text in "[ab ]{0,12}(secret|crets-a|[abä]{3}){0,5}[a-e]{0,8}",
            cuts in prop::collection::vec(0_usize..60, 0..6)) {
            let redactor = Redactor::new(["secret", "crets-a", "ababab"]);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| text.floor_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();

            prop_assert_eq!(in_pieces(&redactor, &pieces), redactor.redact(text.clone()));
        }
    }
}
