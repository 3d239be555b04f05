//! Terraform's JSON syntax, rewritten in the native one so that everything has a place.
//!
//! The parser of the native syntax knows where each part stands. So a JSON file is written out as native text, and each
//! piece of it remembers which part of the JSON it came from.

use std::ops::Range;

use hcl_edit::{Ident, Span, parser::parse_template, template::Element};

/// Containers within containers that are read at most; the strict parser has refused deeper ones.
const MAX_DEPTH: usize = 130;

/// Native text, and where its pieces come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Rewritten {
    pub(super) text: String,
    /// Ranges of the text and the ranges of the JSON that they stand for.
    pub(super) marks: Vec<(Range<usize>, Range<usize>)>,
}

/// Rewrites a file that the strict parser has accepted; `None` if it is not what Terraform's JSON syntax expects.
pub(super) fn rewrite(json: &str) -> Option<Rewritten> {
    let mut parser = Parser { text: json, at: 0 };
    let root = parser.value(0)?;
    let mut out = Rewritten::default();
    for object in root.objects()? {
        for member in object {
            if let Some(labels) = label_count(&member.key) {
                let mut path = vec![member];
                out.blocks(&mut path, labels, &member.value, true);
            }
        }
    }
    Some(out)
}

/// The number of levels of objects below a kind of block that are labels.
fn label_count(kind: &str) -> Option<usize> {
    match kind {
        "resource" | "data" | "ephemeral" => Some(2),
        "variable" | "output" | "module" | "provider" | "check" => Some(1),
        "terraform" | "locals" | "moved" | "import" | "removed" => Some(0),
        _ => None,
    }
}

/// The number of labels of a block inside of another one; `None` for an argument. Only a schema could tell the blocks of
/// other providers apart, and there it makes no difference to any rule.
fn inner_labels(kind: &str, of: &str, key: &str) -> Option<usize> {
    match (kind, key) {
        ("terraform", "required_providers" | "cloud") => Some(0),
        ("terraform", "backend") => Some(1),
        ("variable" | "output", "validation" | "precondition") => Some(0),
        ("resource" | "data", "lifecycle" | "connection") => Some(0),
        ("resource" | "data", "provisioner" | "dynamic") => Some(1),
        ("lifecycle", "precondition" | "postcondition") => Some(0),
        ("dynamic", "content") => Some(0),
        ("resource" | "data", _) if of.starts_with("coder_") => match key {
            "option"
            | "validation"
            | "metadata"
            | "item"
            | "healthcheck"
            | "prebuilds"
            | "display_apps"
            | "resources_monitoring"
            | "rule" => Some(0),
            _ => None,
        },
        ("prebuilds", "expiration_policy" | "scheduling") => Some(0),
        ("scheduling", "schedule") => Some(0),
        ("resources_monitoring", "memory" | "volume") => Some(0),
        _ => None,
    }
}

impl Rewritten {
    fn mark(&mut self, start: usize, of: &Range<usize>) {
        self.marks.push((start..self.text.len(), of.clone()));
    }

    /// Writes the blocks below `path`, whose first member is the kind and whose others are labels.
    fn blocks<'a>(
        &mut self,
        path: &mut Vec<&'a Member>,
        labels: usize,
        value: &'a Node,
        is_top: bool,
    ) {
        for object in value.objects().into_iter().flatten() {
            if labels == 0 {
                self.block(path, object, &value.span, is_top);
                continue;
            }
            for member in object.iter().filter(|member| member.key != "//") {
                path.push(member);
                self.blocks(path, labels - 1, &member.value, is_top);
                path.pop();
            }
        }
    }

    fn block(&mut self, path: &[&Member], members: &[Member], span: &Range<usize>, is_top: bool) {
        let start = self.text.len();
        for (index, member) in path.iter().enumerate() {
            let from = self.text.len();
            match index {
                0 => self.text.push_str(&member.key),
                _ => {
                    self.text.push('"');
                    escape(&member.key, &mut self.text);
                    self.text.push('"');
                }
            }
            self.mark(from, &member.key_span);
            self.text.push(' ');
        }
        let last = path.last().map_or(span, |member| &member.key_span);
        self.mark(start, last);
        self.text.push_str("{\n");
        let kind = path.first().map_or("", |member| member.key.as_str());
        let of = match is_top {
            true => path.get(1).map_or("", |member| member.key.as_str()),
            false => "",
        };
        for member in members.iter().filter(|member| member.key != "//") {
            self.member(kind, of, member);
        }
        self.text.push('}');
        self.mark(start, &(last.start..span.end));
        self.text.push('\n');
    }

    fn member(&mut self, kind: &str, of: &str, member: &Member) {
        let is_block = member.value.objects().is_some();
        if let Some(labels) = inner_labels(kind, of, &member.key).filter(|_| is_block) {
            let mut path = vec![member];
            return self.blocks(&mut path, labels, &member.value, false);
        }
        if Ident::try_new(member.key.as_str()).is_err() {
            return;
        }
        let start = self.text.len();
        self.text.push_str(&member.key);
        self.mark(start, &member.key_span);
        self.text.push_str(" = ");
        // Values of variables are taken as they are; elsewhere strings are templates.
        self.expr(&member.value, kind != "variable");
        self.mark(start, &(member.key_span.start..member.value.span.end));
        self.text.push('\n');
    }

    fn expr(&mut self, node: &Node, is_template: bool) {
        let start = self.text.len();
        match &node.kind {
            Kind::Literal(text) => self.text.push_str(text),
            Kind::String(text) => self.string(text, is_template),
            Kind::Array(items) => {
                self.text.push('[');
                for item in items {
                    self.expr(item, is_template);
                    self.text.push_str(", ");
                }
                self.text.push(']');
            }
            Kind::Object(members) => {
                self.text.push_str("{\n");
                for member in members {
                    let from = self.text.len();
                    match self.bare_interpolation(&member.key, is_template) {
                        Some(expr) => self.text.push_str(&format!("({expr})")),
                        None => self.string(&member.key, is_template),
                    }
                    self.mark(from, &member.key_span);
                    self.text.push_str(" = ");
                    self.expr(&member.value, is_template);
                    self.text.push('\n');
                }
                self.text.push('}');
            }
        }
        self.mark(start, &node.span);
    }

    /// The expression of a text that is nothing but `${…}`.
    fn bare_interpolation(&self, text: &str, is_template: bool) -> Option<String> {
        if !is_template || !text.starts_with("${") {
            return None;
        }
        let template = parse_template(text).ok()?;
        let Some(Element::Interpolation(only)) = template.as_single_element() else {
            return None;
        };
        Some(text.get(only.expr.span()?)?.to_owned())
    }

    fn string(&mut self, text: &str, is_template: bool) {
        if let Some(expr) = self.bare_interpolation(text, is_template) {
            return self.text.push_str(&expr);
        }
        self.text.push('"');
        match is_template.then(|| parse_template(text)) {
            Some(Ok(template)) => {
                for element in template.iter() {
                    let source = element.span().and_then(|span| text.get(span));
                    match (element, source) {
                        (Element::Literal(_), Some(source)) => escape(source, &mut self.text),
                        (Element::Literal(literal), None) => escape(literal, &mut self.text),
                        (Element::Interpolation(_) | Element::Directive(_), source) => {
                            self.text.push_str(source.unwrap_or_default());
                        }
                    }
                }
            }
            _ => {
                let literal = text.replace("${", "$${").replace("%{", "%%{");
                escape(&literal, &mut self.text);
            }
        }
        self.text.push('"');
    }
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if other.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(other))),
            other => out.push(other),
        }
    }
}

/// A JSON value and where it stands.
#[derive(Debug)]
struct Node {
    span: Range<usize>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Null, a bool or a number, which both syntaxes write alike.
    Literal(String),
    String(String),
    Array(Vec<Node>),
    Object(Vec<Member>),
}

/// A key of an object and its value.
#[derive(Debug)]
struct Member {
    key: String,
    key_span: Range<usize>,
    value: Node,
}

impl Node {
    /// An object, or the objects in an array; `None` if there is anything else.
    fn objects(&self) -> Option<Vec<&[Member]>> {
        match &self.kind {
            Kind::Object(members) => Some(vec![members]),
            Kind::Array(items) if !items.is_empty() => {
                let object = |item: &'_ Node| match &item.kind {
                    Kind::Object(_) => true,
                    Kind::Literal(_) | Kind::String(_) | Kind::Array(_) => false,
                };
                items.iter().all(object).then(|| {
                    items
                        .iter()
                        .filter_map(|item| match &item.kind {
                            Kind::Object(members) => Some(members.as_slice()),
                            Kind::Literal(_) | Kind::String(_) | Kind::Array(_) => None,
                        })
                        .collect()
                })
            }
            Kind::Literal(_) | Kind::String(_) | Kind::Array(_) => None,
        }
    }
}

/// Reads JSON that is known to be valid.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn skip_blanks(&mut self) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_blanks();
        self.text.get(self.at..)?.chars().next()
    }

    fn eat(&mut self, wanted: char) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += wanted.len_utf8())
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        let first = self.peek().filter(|_| depth < MAX_DEPTH)?;
        let start = self.at;
        let kind = match first {
            '{' => self.object(depth)?,
            '[' => self.array(depth)?,
            '"' => Kind::String(self.string()?),
            _ => {
                let rest = self.text.get(start..)?;
                let end = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']);
                self.at = start + end.unwrap_or(rest.len());
                Kind::Literal(self.text.get(start..self.at)?.to_owned())
            }
        };
        let span = start..self.at;
        Some(Node { span, kind })
    }

    fn object(&mut self, depth: usize) -> Option<Kind> {
        self.eat('{')?;
        let mut members = Vec::new();
        while self.peek()? != '}' {
            let start = self.at;
            let key = self.string()?;
            let key_span = start..self.at;
            self.eat(':')?;
            let value = self.value(depth + 1)?;
            members.push(Member {
                key,
                key_span,
                value,
            });
            if self.peek()? == ',' {
                self.eat(',')?;
            }
        }
        self.eat('}')?;
        Some(Kind::Object(members))
    }

    fn array(&mut self, depth: usize) -> Option<Kind> {
        self.eat('[')?;
        let mut items = Vec::new();
        while self.peek()? != ']' {
            items.push(self.value(depth + 1)?);
            if self.peek()? == ',' {
                self.eat(',')?;
            }
        }
        self.eat(']')?;
        Some(Kind::Array(items))
    }

    fn string(&mut self) -> Option<String> {
        self.skip_blanks();
        let rest = self.text.get(self.at..)?;
        let mut is_escaped = false;
        let end = rest.bytes().enumerate().skip(1).find(|(_, byte)| {
            let ends = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            ends
        });
        let (end, _) = end?;
        let text = serde_json::from_str(rest.get(..=end)?).ok()?;
        self.at += end + 1;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        rewrite(json).unwrap().text
    }

    #[test]
    fn blocks_labels_and_nested_blocks_come_out_in_the_native_syntax() {
        let json = r#"{"data": {"coder_parameter": {"size": {"name": "size", "option": [{"name": "a", "value": 1}], "//": "x"}}}}"#;

        let expected = "data \"coder_parameter\" \"size\" {\nname = \"size\"\noption {\nname = \"a\"\nvalue = 1\n}\n}\n";
        assert_eq!(text(json), expected);
    }

    #[test]
    fn templates_stay_templates_and_quotes_are_escaped() {
        let json = r#"{"locals": {"a": "${var.b}", "c": "say \"${lower(\"X\")}\"\n", "d": {"${var.k}": "$${no}"}}}"#;

        let expected = "locals {\na = var.b\nc = \"say \\\"${lower(\"X\")}\\\"\\n\"\nd = {\n(var.k) = \"$${no}\"\n}\n}\n";
        assert_eq!(text(json), expected);
    }

    #[test]
    fn defaults_of_variables_are_no_templates() {
        let json = r#"{"variable": {"v": {"default": "${x}"}}}"#;

        assert_eq!(text(json), "variable \"v\" {\ndefault = \"$${x}\"\n}\n");
    }

    #[test]
    fn every_piece_remembers_where_it_came_from() {
        let json = "{\n \"resource\": {\"a\": {\"b\": {\"x\": \"y\"}}}\n}";

        let rewritten = rewrite(json).unwrap();

        let from = |piece: &str| {
            let start = rewritten.text.find(piece).unwrap();
            let wanted = start..start + piece.len();
            let found = rewritten.marks.iter().find(|(range, _)| *range == wanted);
            &json[found.unwrap().1.clone()]
        };
        assert_eq!(from("\"y\""), "\"y\"");
        assert_eq!(from("x = \"y\""), "\"x\": \"y\"");
        assert_eq!(from("\"b\""), "\"b\"");
    }

    #[test]
    fn what_is_no_object_is_nothing() {
        assert!(rewrite("[1]").is_none());
        assert!(rewrite("").is_none());
        assert_eq!(text("{\"resource\": 1}"), "");
    }
}
