//! HTML in which no foreign text can become markup. Pure: no socket, no file.

/// Maximum number of characters of a text that are shown; names in a mirror may be much longer.
const MAX_CHARS: usize = 400;

/// A page, or a part of one.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends a text, shortened if it is very long.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        match text.char_indices().nth(MAX_CHARS) {
            None => self.whole(text),
            Some((end, _)) => self.whole(&text[..end]).raw("…"),
        }
    }

    /// Appends a complete text.
    pub(super) fn whole(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(c),
                c if c.is_control() || is_invisible(c) => self.0.push(char::REPLACEMENT_CHARACTER),
                c => self.0.push(c),
            }
        }
        self
    }

    /// Appends a part that was made before.
    pub(super) fn part(&mut self, part: &Self) -> &mut Self {
        self.0.push_str(&part.0);
        self
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Returns whether a character changes the order of a line, and so the apparent meaning of a name.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns `3 versions` or `1 version`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

/// Returns a length for people: `12.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "";
    for next in UNITS {
        if tenths < 10 * 1024 {
            break;
        }
        (tenths, unit) = (tenths / 1024, next);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup_or_turns_a_line_around() {
        let mut html = Html::default();

        html.raw("<b>")
            .text("<script>'\"&\u{202e}\u{1b}[2J")
            .raw("</b>");

        let expected = "<b>&lt;script&gt;&#39;&quot;&amp;\u{fffd}\u{fffd}[2J</b>";
        assert_eq!(html.into_string(), expected);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut html = Html::default();

        html.text(&"ä".repeat(MAX_CHARS + 1));

        assert_eq!(html.into_string(), format!("{}…", "ä".repeat(MAX_CHARS)));
    }

    #[test]
    fn lengths_have_units_that_people_read() {
        let all = [0, 1023, 1024, 1536, 150 << 20, u64::MAX].map(size);

        let expected = [
            "0 B",
            "1023 B",
            "1.0 KiB",
            "1.5 KiB",
            "150.0 MiB",
            "16383.9 PiB",
        ];
        assert_eq!(all, expected);
    }
}
