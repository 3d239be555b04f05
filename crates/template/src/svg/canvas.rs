//! Shapes and texts as elements of SVG.

use std::fmt::Write;

/// Letters of a name that fit into a box; further ones are left out of the middle.
const MAX_NAME: usize = 46;
const MAX_SMALL: usize = 60;

/// Elements drawn so far.
#[derive(Default)]
pub(super) struct Canvas(String);

/// Appearance of a text.
#[derive(Clone, Copy)]
pub(super) enum Style {
    /// Heading above a column.
    Heading,
    /// Name of something, in a monospaced font.
    Name,
    /// Further text about it.
    Small,
    /// Below everything; as long as it is.
    Note,
}

impl Canvas {
    /// Begins a group, whose full name is shown where a mouse points.
    pub(super) fn group(&mut self, name: &str) {
        self.push(format_args!("<g><title>{}</title>", escaped(name)));
    }

    pub(super) fn end_group(&mut self) {
        self.push(format_args!("</g>"));
    }

    /// A box with round corners: left, top, width, height.
    pub(super) fn rect(
        &mut self,
        (left, top, width, height): (u32, u32, u32, u32),
        fill: &str,
        stroke: &str,
        dashes: &str,
    ) {
        let dashes = dashed(dashes);
        self.push(format_args!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.5\"{dashes}/>"
        ));
    }

    /// A line along `points`, in the words of SVG.
    pub(super) fn path(&mut self, points: &str, stroke: &str, weight: u32, dashes: &str) {
        let dashes = dashed(dashes);
        self.push(format_args!(
            "<path d=\"{points}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{weight}\"{dashes}/>"
        ));
    }

    /// A line of text that begins at `left` and stands on `baseline`.
    pub(super) fn text(&mut self, left: u32, baseline: u32, text: &str, style: Style) {
        let (class, text) = match style {
            Style::Heading => ("heading", text.to_owned()),
            Style::Name => ("name", clipped(text, MAX_NAME)),
            Style::Small => ("small", clipped(text, MAX_SMALL)),
            Style::Note => ("small", text.to_owned()),
        };
        let text = escaped(&text);
        self.push(format_args!(
            "<text x=\"{left}\" y=\"{baseline}\" class=\"{class}\">{text}</text>"
        ));
    }

    /// Returns the whole document.
    pub(super) fn finish(self, width: u32, height: u32) -> String {
        let body = self.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <style>\n\
             text {{ font-family: ui-sans-serif, system-ui, \"Helvetica Neue\", Arial, sans-serif; fill: #1f2937 }}\n\
             .heading {{ font-size: 15px; font-weight: 600 }}\n\
             .name {{ font-size: 13px; font-family: ui-monospace, \"DejaVu Sans Mono\", monospace; font-weight: 600 }}\n\
             .small {{ font-size: 12px; fill: #4b5563 }}\n\
             </style>\n\
             <rect x=\"0\" y=\"0\" width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             {body}</svg>\n"
        )
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing into a String does not fail.
        let _ = writeln!(self.0, "{element}");
    }
}

fn dashed(dashes: &str) -> String {
    match dashes {
        "" => String::new(),
        dashes => format!(" stroke-dasharray=\"{dashes}\""),
    }
}

/// At most so many letters; an ellipsis stands for those left out of the middle.
pub(super) fn clipped(text: &str, most: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return text.to_owned();
    }
    let head = most / 2;
    let tail = most - head - 1;
    let (head, tail) = (&letters[..head], &letters[letters.len() - tail..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

/// Text without what XML would understand or refuse.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_lose_their_middle() {
        assert_eq!(clipped("abcdefgh", 5), "ab…gh");
        assert_eq!(clipped("abcde", 5), "abcde");
        assert_eq!(clipped("äöüäöü", 4), "äö…ü");
    }

    #[test]
    fn nothing_that_xml_refuses_is_left() {
        assert_eq!(
            escaped("a\u{0}<b>&\"\u{ffff}"),
            "a &lt;b&gt;&amp;&quot;\u{fffd}"
        );
    }
}
