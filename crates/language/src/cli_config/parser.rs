//! The first version of HCL, as far as configurations use it.

use super::{CliConfigError, Entry, Node};

/// Maximum nesting of blocks and lists.
const MAX_DEPTH: usize = 32;

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, CliConfigError> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let entries = parser.entries(None)?;
    Ok(entries)
}

struct Parser<'a> {
    text: &'a str,
    /// Position in the text in bytes.
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, CliConfigError>;

impl Parser<'_> {
    fn error<T>(&self, reason: &'static str) -> Parsed<T> {
        let before = self.text.as_bytes().iter().take(self.at);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Err(CliConfigError::Syntax { line, reason })
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    /// Skips spaces, comments, and optional commas between entries.
    fn skip(&mut self, with_commas: bool) -> Parsed<()> {
        loop {
            let rest = self.rest();
            if rest.starts_with('#') || rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                let Some(end) = rest.find("*/") else {
                    return self.error("a comment does not end");
                };
                self.at += end + 2;
            } else {
                match self.peek() {
                    Some(c) if c.is_whitespace() || (c == ',' && with_commas) => {
                        self.bump();
                    }
                    _ => return Ok(()),
                }
            }
        }
    }

    /// Parses entries up to `end`, or to the end of the text.
    fn entries(&mut self, end: Option<char>) -> Parsed<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            self.skip(true)?;
            match (self.peek(), end) {
                (None, None) => return Ok(entries),
                (None, Some(_)) => return self.error("a block does not end"),
                (Some(c), Some(end)) if c == end => {
                    self.bump();
                    return Ok(entries);
                }
                _ => entries.push(self.entry()?),
            }
        }
    }

    fn entry(&mut self) -> Parsed<Entry> {
        let mut keys = Vec::new();
        loop {
            self.skip(false)?;
            match self.peek() {
                Some('"') => keys.push(self.string()?),
                Some(c) if is_word(c) => keys.push(self.word()),
                Some('=') if keys.len() == 1 => {
                    self.bump();
                    self.skip(false)?;
                    let value = self.value()?;
                    return Ok(Entry {
                        keys,
                        is_assigned: true,
                        value,
                    });
                }
                Some('{') if !keys.is_empty() => {
                    let value = self.value()?;
                    return Ok(Entry {
                        keys,
                        is_assigned: false,
                        value,
                    });
                }
                _ => return self.error("expected a name, then an equals sign or a brace"),
            }
        }
    }

    fn word(&mut self) -> String {
        let length = self
            .rest()
            .find(|c| !is_word(c))
            .unwrap_or(self.rest().len());
        let word = self.rest()[..length].to_owned();
        self.at += length;
        word
    }

    fn value(&mut self) -> Parsed<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error("blocks and lists are nested too deeply");
        }
        let value = match self.peek() {
            Some('"') => Node::Text(self.string()?),
            Some('<') => Node::Text(self.heredoc()?),
            Some('{') => {
                self.bump();
                Node::Block(self.entries(Some('}'))?)
            }
            Some('[') => {
                self.bump();
                Node::List(self.items()?)
            }
            Some(c) if is_word(c) => Node::Bare(self.word()),
            _ => return self.error("expected a value"),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn items(&mut self) -> Parsed<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            self.skip(true)?;
            if self.eat(']') {
                return Ok(items);
            }
            items.push(self.value()?);
        }
    }

    /// Parses a string. Text between `${` and `}` is kept unchanged, including quotes.
    fn string(&mut self) -> Parsed<String> {
        self.bump();
        let (mut out, mut braces) = (String::new(), 0usize);
        while let Some(c) = self.bump() {
            match c {
                '"' if braces == 0 => return Ok(out),
                '\n' if braces == 0 => return self.error("a string does not end"),
                '$' if self.peek() == Some('{') => {
                    out.push(c);
                    if braces == 0 {
                        out.extend(self.bump());
                        braces = 1;
                    }
                    continue;
                }
                '{' if braces > 0 => braces += 1,
                '}' if braces > 0 => braces -= 1,
                '\\' if braces == 0 => {
                    out.push(self.escape()?);
                    continue;
                }
                _ => {}
            }
            out.push(c);
        }
        self.error("a string does not end")
    }

    fn escape(&mut self) -> Parsed<char> {
        Ok(match self.bump() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c @ ('"' | '\\')) => c,
            Some('u') => return self.code_point(4),
            Some('U') => return self.code_point(8),
            _ => return self.error("unknown escape sequence in a string"),
        })
    }

    fn code_point(&mut self, digits: usize) -> Parsed<char> {
        let code = self.rest().get(..digits);
        let code = code.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match code.and_then(char::from_u32) {
            Some(c) => {
                self.at += digits;
                Ok(c)
            }
            None => self.error("invalid code point in a string"),
        }
    }

    fn heredoc(&mut self) -> Parsed<String> {
        let Some(start) = self.rest().strip_prefix("<<") else {
            return self.error("expected a value");
        };
        let is_indented = start.starts_with('-');
        let start = start.strip_prefix('-').unwrap_or(start);
        let Some((marker, body)) = start.split_once('\n') else {
            return self.error("a heredoc does not end");
        };
        let marker = marker.trim_end();
        let (mut out, mut length) = (String::new(), self.rest().len() - body.len());
        for line in body.split_inclusive('\n') {
            length += line.len();
            let ends = if is_indented {
                line.trim()
            } else {
                line.trim_end()
            };
            if ends == marker && !marker.is_empty() {
                self.at += length;
                return Ok(out);
            }
            out.push_str(if is_indented {
                line.trim_start_matches([' ', '\t'])
            } else {
                line
            });
        }
        self.error("a heredoc does not end")
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_-.+".contains(c)
}
