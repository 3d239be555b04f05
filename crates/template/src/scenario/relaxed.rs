//! Blocks on one line with several arguments, which scenarios may have and HCL may not.
//!
//! `assert { condition = true  error_message = "no" }` becomes five lines before it is parsed. Only line ends are
//! inserted, and their offsets are kept, so that places stay those of the author's text.

/// A text in which every argument and every brace of a block has a line of its own.
pub(super) struct Relaxed {
    pub(super) text: String,
    /// Offsets in `text` of the line ends that were inserted, in order.
    inserted: Vec<usize>,
}

impl Relaxed {
    pub(super) fn new(text: &str) -> Self {
        let mut relaxer = Relaxer {
            text,
            at: 0,
            out: Self {
                text: String::with_capacity(text.len()),
                inserted: Vec::new(),
            },
            brackets: 0,
            is_expression: false,
            previous: Previous::LineEnd,
        };
        while relaxer.at < text.len() {
            relaxer.token();
        }
        relaxer.out
    }

    /// The offset in the author's text.
    pub(super) fn original(&self, offset: usize) -> usize {
        offset - self.inserted.partition_point(|at| *at < offset)
    }
}

/// The last token that is no blank.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    LineEnd,
    /// Something that can end an expression, or the name or label of a block.
    Operand,
    Operator,
    /// A closing brace of a block.
    BlockEnd,
}

struct Relaxer<'t> {
    text: &'t str,
    at: usize,
    out: Relaxed,
    /// Brackets of any kind that are open in an expression.
    brackets: usize,
    is_expression: bool,
    previous: Previous,
}

impl Relaxer<'_> {
    /// Copies one token, with a line end around it where HCL wants one.
    fn token(&mut self) {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else {
            return;
        };
        match first {
            '\n' => self.line_end(),
            _ if first.is_whitespace() => self.copy(first.len_utf8()),
            '#' => self.copy(line_length(rest)),
            '/' if rest.starts_with("//") => self.copy(line_length(rest)),
            '/' if rest.starts_with("/*") => {
                self.copy(rest.find("*/").map_or(rest.len(), |end| end + 2))
            }
            '"' => self.operand(string_length(rest)),
            '<' if self.is_heredoc(rest) => self.operand(heredoc_length(rest)),
            '(' | '[' => self.open(),
            ')' | ']' => self.close(),
            '{' if self.is_expression || self.brackets > 0 => self.open(),
            '}' if self.brackets > 0 => self.close(),
            '{' => self.block_begins(rest),
            '}' => self.block_ends(),
            '=' if self.is_assignment(rest) => {
                self.is_expression = true;
                self.operator('=');
            }
            _ if is_word(first) => self.word(rest),
            _ => self.operator(first),
        }
    }

    fn copy(&mut self, length: usize) {
        self.out
            .text
            .push_str(&self.text[self.at..self.at + length]);
        self.at += length;
    }

    fn insert_line_end(&mut self) {
        self.out.inserted.push(self.out.text.len());
        self.out.text.push('\n');
    }

    fn line_end(&mut self) {
        self.copy(1);
        if self.brackets == 0 {
            self.is_expression = false;
            self.previous = Previous::LineEnd;
        }
    }

    fn operand(&mut self, length: usize) {
        self.copy(length);
        self.previous = Previous::Operand;
    }

    fn operator(&mut self, sign: char) {
        self.copy(sign.len_utf8());
        self.previous = Previous::Operator;
    }

    fn open(&mut self) {
        self.brackets += 1;
        self.copy(1);
        self.previous = Previous::Operator;
    }

    fn close(&mut self) {
        self.brackets = self.brackets.saturating_sub(1);
        self.operand(1);
    }

    fn block_begins(&mut self, rest: &str) {
        self.copy(1);
        self.previous = Previous::LineEnd;
        let behind = rest[1..].trim_start_matches([' ', '\t', '\r']);
        if !behind.is_empty() && !behind.starts_with(['\n', '}', '#']) && !behind.starts_with("//")
        {
            self.insert_line_end();
        }
    }

    fn block_ends(&mut self) {
        let line = self.out.text.rsplit('\n').next().unwrap_or_default();
        let begins_here = line.trim_end().ends_with('{');
        if !line.trim().is_empty() && !begins_here {
            self.insert_line_end();
        }
        self.copy(1);
        (self.is_expression, self.previous) = (false, Previous::BlockEnd);
    }

    /// A name behind a whole expression is the next argument's, as no operator of HCL is a name.
    fn word(&mut self, rest: &str) {
        let is_next = self.is_expression && self.previous == Previous::Operand;
        if self.brackets == 0 && (is_next || self.previous == Previous::BlockEnd) {
            self.insert_line_end();
            self.is_expression = false;
        }
        let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        self.operand(length);
    }

    fn is_assignment(&self, rest: &str) -> bool {
        self.brackets == 0 && !self.is_expression && !rest.starts_with("==")
    }

    fn is_heredoc(&self, rest: &str) -> bool {
        rest.starts_with("<<") && self.is_expression && self.previous == Previous::Operator
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

fn line_length(rest: &str) -> usize {
    rest.find('\n').unwrap_or(rest.len())
}

/// Up to the line with the delimiter, without its end.
fn heredoc_length(rest: &str) -> usize {
    let first = line_length(rest);
    let delimiter = rest[2..first].trim_start_matches('-').trim();
    let mut at = first;
    while at < rest.len() {
        let line = &rest[at + 1..];
        let length = line_length(line);
        at += 1 + length;
        if line[..length].trim() == delimiter {
            break;
        }
    }
    at
}

/// A quoted template with everything that is interpolated in it. An open one ends with its line.
fn string_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut open, mut at) = (vec![b'"'], 1);
    while let (Some(inside), Some(byte)) = (open.last(), bytes.get(at)) {
        let next = bytes.get(at + 1);
        at += match (inside, byte) {
            (b'"', b'\n') => break,
            (b'"', b'\\') => 2,
            (b'"', b'$' | b'%') if next == Some(byte) && bytes.get(at + 2) == Some(&b'{') => 3,
            (b'"', b'$' | b'%') if next == Some(&b'{') => {
                open.push(b'{');
                2
            }
            (b'{', b'"' | b'{') => {
                open.push(*byte);
                1
            }
            (b'"', b'"') | (b'{', b'}') => {
                open.pop();
                1
            }
            _ => 1,
        };
    }
    at = at.min(rest.len());
    // A backslash may stand before a character of several bytes.
    (at..=rest.len())
        .find(|at| rest.is_char_boundary(*at))
        .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_braces_on_one_line_get_lines_of_their_own() {
        let text = "run \"a\" { assert { condition = x[\"}\"] == { a = 1 } error_message = \"b ${\"}\"}\" } }\n";

        let relaxed = Relaxed::new(text);

        let lines: Vec<&str> = relaxed.text.lines().map(str::trim).collect();
        let expected = [
            "run \"a\" {",
            "assert {",
            "condition = x[\"}\"] == { a = 1 }",
            "error_message = \"b ${\"}\"}\"",
            "}",
            "}",
        ];
        assert_eq!(lines, expected);
        let at = relaxed.text.find("error_message").unwrap();
        assert_eq!(relaxed.original(at), text.find("error_message").unwrap());
    }

    #[test]
    fn what_hcl_takes_stays_as_it_is() {
        let text = "a = <<-EOT\n  x = { y z }\n  EOT\nb {\n  c = [\n    1, # {\n  ] /* d = \"\n */\n}\nd {}\ne { f = 1\n}\n";

        let relaxed = Relaxed::new(text);

        assert_eq!(relaxed.text, text.replace("e { f = 1", "e {\n f = 1"));
    }
}
