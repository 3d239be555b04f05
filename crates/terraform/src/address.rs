//! Addresses of resources, in Terraform's notation and in that of authors.

use std::{iter::Peekable, str::CharIndices};

/// Key of an instance of a resource or module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Index of an instance of `count`.
    Index(u64),
    /// Key of an instance of `for_each`.
    Name(String),
}

/// A name in an address, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step<'a> {
    pub(super) name: &'a str,
    pub(super) key: Option<Key>,
    /// Position of the byte after it.
    pub(super) end: usize,
}

/// The address of one instance of a resource or data source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance<'a> {
    text: &'a str,
    /// Modules around the instance, from the outermost; the end of a step is that of the module's own address.
    pub(super) modules: Vec<Step<'a>>,
    pub(super) is_data: bool,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) key: Option<Key>,
}

impl<'a> Instance<'a> {
    /// Parses an address such as `module.a["b"].data.c.d[0]`; `None` if it is not one.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut steps = steps(text)?.into_iter().peekable();
        let mut modules = Vec::new();
        while steps.next_if(|step| is_bare(step, "module")).is_some() {
            modules.push(steps.next()?);
        }
        let is_data = steps.next_if(|step| is_bare(step, "data")).is_some();
        let (kind, last) = (steps.next()?, steps.next()?);
        (kind.key.is_none() && steps.next().is_none()).then_some(Self {
            text,
            modules,
            is_data,
            kind: kind.name,
            name: last.name,
            key: last.key,
        })
    }

    /// Returns the address of the module instance around it; empty for the root module.
    pub(super) fn module(&self) -> &'a str {
        let end = self.modules.last().map_or(0, |step| step.end);
        &self.text[..end]
    }

    /// Returns the address of one of the modules around it.
    pub(super) fn up_to(&self, step: &Step<'_>) -> &'a str {
        &self.text[..step.end]
    }

    /// Returns the address without any keys, as a configuration and its graph have it.
    pub(super) fn declared(&self) -> String {
        let modules = self.modules.iter();
        let mut text: String = modules.map(|it| format!("module.{}.", it.name)).collect();
        text += &format!("{}.{}", self.kind, self.name);
        text
    }
}

fn is_bare(step: &Step<'_>, name: &str) -> bool {
    step.name == name && step.key.is_none()
}

/// Parses names between dots, each with at most one key; `None` for any other text.
pub(super) fn steps(text: &str) -> Option<Vec<Step<'_>>> {
    let mut letters = text.char_indices().peekable();
    let mut steps = Vec::new();
    loop {
        let name = name(text, &mut letters)?;
        let key = match letters.next_if(|(_, letter)| *letter == '[') {
            Some(_) => Some(key(text, &mut letters)?),
            None => None,
        };
        let end = letters.peek().map_or(text.len(), |(at, _)| *at);
        steps.push(Step { name, key, end });
        match letters.next() {
            None => return Some(steps),
            Some((_, '.')) => {}
            Some(_) => return None,
        }
    }
}

type Letters<'a> = Peekable<CharIndices<'a>>;

fn name<'a>(text: &'a str, letters: &mut Letters<'_>) -> Option<&'a str> {
    let (start, first) = letters.next()?;
    let is_first = |letter: char| letter.is_alphabetic() || letter == '_';
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
    if !is_first(first) {
        return None;
    }
    while letters.next_if(|(_, letter)| is_part(*letter)).is_some() {}
    let end = letters.peek().map_or(text.len(), |(at, _)| *at);
    Some(&text[start..end])
}

fn key(text: &str, letters: &mut Letters<'_>) -> Option<Key> {
    let start = letters.peek()?.0;
    if letters.next_if(|(_, letter)| *letter == '"').is_some() {
        let name = quoted(letters)?;
        return (letters.next()?.1 == ']').then_some(Key::Name(name));
    }
    while letters.next_if(|(_, it)| it.is_ascii_digit()).is_some() {}
    let (end, close) = letters.next()?;
    let index = text[start..end].parse().ok()?;
    (close == ']').then_some(Key::Index(index))
}

/// Parses the rest of a quoted string; `None` for one with a template, which has no fixed value.
fn quoted(letters: &mut Letters<'_>) -> Option<String> {
    let mut out = String::new();
    loop {
        match letters.next()?.1 {
            '"' => return Some(out),
            '\\' => out.push(escaped(letters)?),
            '\n' => return None,
            sigil @ ('$' | '%') => {
                let mut run = 1;
                while letters.next_if(|(_, it)| *it == sigil).is_some() {
                    run += 1;
                }
                // Before a brace, a doubled character only escapes the beginning of a template.
                let opens = letters.peek().is_some_and(|(_, it)| *it == '{');
                match (opens, run) {
                    (true, 1) => return None,
                    (true, _) => out.extend(std::iter::repeat_n(sigil, run - 1)),
                    (false, _) => out.extend(std::iter::repeat_n(sigil, run)),
                }
            }
            letter => out.push(letter),
        }
    }
}

fn escaped(letters: &mut Letters<'_>) -> Option<char> {
    let digits = match letters.next()?.1 {
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        letter @ ('"' | '\\') => return Some(letter),
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let code: Option<String> = (0..digits).map(|_| Some(letters.next()?.1)).collect();
    char::from_u32(u32::from_str_radix(&code?, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use outpost_language::quote;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_names_its_modules_its_type_and_its_instance() {
        let text = r#"module.a["x.]\""].module.b[1].data.coder_script_order.start[0]"#;

        let address = Instance::parse(text).unwrap();

        assert!(address.is_data);
        let names: Vec<_> = address.modules.iter().map(|step| step.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(
            address.modules[0].key,
            Some(Key::Name(r#"x.]""#.to_owned()))
        );
        assert_eq!(address.module(), r#"module.a["x.]\""].module.b[1]"#);
        assert_eq!(
            (address.kind, address.name),
            ("coder_script_order", "start")
        );
        assert_eq!(address.key, Some(Key::Index(0)));
        assert_eq!(
            address.declared(),
            "module.a.module.b.coder_script_order.start"
        );
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "a",
            "a.",
            "a.b.c",
            "a.b[",
            "a.b[]",
            "a.b[-1]",
            "a.b[0",
            "a.b[\"x]",
            "a.b[\"${x}\"]",
            "a[0].b",
            "module.m",
            "module.m[0]",
            "a. b",
            "1.b",
        ] {
            assert_eq!(Instance::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_terraform_wrote_it(key in "\\PC{0,12}|[\\x00-\\x1f$%{\"\\\\.\\]]{0,8}") {
            let text = format!("a.b[{}]", quote(&key));
            let address = Instance::parse(&text).unwrap();
            prop_assert_eq!(address.key, Some(Key::Name(key)));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[\"a-z\\[\\]$%{}\\\\.0-9 é]{0,40}") {
            let _ = Instance::parse(&text);
        }
    }
}
