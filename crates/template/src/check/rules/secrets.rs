//! Rules about secrets: in the source, and on their way to where people see them.

use std::{ops::Range, sync::LazyLock};

use hcl_edit::{
    Span,
    expr::{Expression, Object, ObjectKey},
    structure::{Attribute, Block},
    template::Element,
    visit::{self, Visit},
};
use regex::Regex;

use super::{Check, Spot};
use crate::check::{
    model::{Decl, label},
    source::File,
    trace::Traced,
};

/// Keys and tokens that begin as their issuers have announced.
static KNOWN: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let known = [
        ("an access key of AWS", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        (
            "a token of GitHub",
            r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        ),
        (
            "a token of GitLab",
            r"\bgl(?:pat|dt|rt|ptt)-[A-Za-z0-9_\-]{20,}",
        ),
        ("a token of Slack", r"\bxox[abeoprs]-[A-Za-z0-9\-]{10,}"),
        ("a key of Stripe", r"\b[rs]k_live_[A-Za-z0-9]{16,}"),
        ("a key of Google", r"\bAIza[0-9A-Za-z_\-]{35}"),
        ("a token of npm", r"\bnpm_[A-Za-z0-9]{36}"),
        ("a token of Docker", r"\bdckr_pat_[A-Za-z0-9_\-]{20,}"),
        ("a key of Anthropic", r"\bsk-ant-[A-Za-z0-9_\-]{20,}"),
        ("a key of OpenAI", r"\bsk-(?:proj-)?[A-Za-z0-9_\-]{32,}"),
        ("a token of Hugging Face", r"\bhf_[A-Za-z0-9]{30,}"),
        (
            "a token of HashiCorp Vault",
            r"\bhv[sbr]\.[A-Za-z0-9_\-]{24,}",
        ),
        ("a token of DigitalOcean", r"\bdo[opr]_v1_[a-f0-9]{64}"),
        // With some of a key behind the line: a placeholder is none.
        (
            "a private key",
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s|\\[nr])+(?:[A-Za-z-]+: [^\n]*\s+)*[A-Za-z0-9+/=]{24}",
        ),
    ];
    let compile = |(what, pattern)| (what, Regex::new(pattern).expect("is valid"));
    known.into_iter().map(compile).collect()
});

/// Names of arguments and variables that hold secrets.
static KEY_LIKE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)(?:passw(?:or)?d|secret|token|api_?key|access_?key|private_?key|credential)s?$",
    )
    .expect("is valid")
});

/// Characters of a text that may be a secret by its entropy.
const LONG: usize = 16;
/// Bits for each character, from which on a text is probably made by chance.
const CHANCE: f64 = 3.5;

/// Attributes that hold secrets, by type.
const SENSITIVE: [(&str, &str); 12] = [
    ("coder_agent", "token"),
    ("coder_external_auth", "access_token"),
    ("coder_git_auth", "access_token"),
    ("coder_workspace_owner", "session_token"),
    ("coder_workspace_owner", "oidc_access_token"),
    ("coder_workspace_owner", "ssh_private_key"),
    ("coder_secret", "value"),
    ("random_password", "result"),
    ("random_password", "bcrypt_hash"),
    ("tls_private_key", "private_key_pem"),
    ("tls_private_key", "private_key_openssh"),
    ("vault_generic_secret", "data"),
];

pub(super) fn check(check: &mut Check<'_, '_>) {
    literals(check);
    exposed(check);
    readme(check);
}

fn literals(check: &mut Check<'_, '_>) {
    let mut found = Vec::new();
    for module in &check.model.sources.modules {
        for file in &module.files {
            let mut scan = Scan::default();
            scan.visit_body(file.body());
            found.extend(scan.found.into_iter().map(|(part, what)| {
                let spot = Spot {
                    place: file.place(&part),
                    address: String::new(),
                    module: module.fetched.clone(),
                };
                (spot, what)
            }));
        }
    }
    for (spot, what) in found {
        let message = format!(
            "the template has {what} in its source, where everybody who may read it sees it"
        );
        let remedy = "revoke it, and pass a new one as a sensitive variable, or take it from where the provisioner runs";
        check.report("secret-in-template", spot, message, remedy);
    }
}

/// Looks at all literal texts.
#[derive(Default)]
struct Scan {
    /// The name of the argument or key around.
    name: String,
    found: Vec<(Range<usize>, String)>,
}

impl Scan {
    fn text(&mut self, text: &str, part: Option<Range<usize>>, is_whole: bool) {
        let Some(part) = part else { return };
        if let Some((what, _)) = KNOWN.iter().find(|(_, pattern)| pattern.is_match(text)) {
            return self.found.push((part, format!("what looks like {what}")));
        }
        if is_whole && KEY_LIKE.is_match(&self.name) && is_random(text) {
            let what = format!("a text made by chance as `{}`", self.name);
            self.found.push((part, what));
        }
    }

    fn named(&mut self, name: &str, look: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.name, name.to_owned());
        look(self);
        self.name = outer;
    }
}

impl Visit for Scan {
    fn visit_block(&mut self, block: &Block) {
        // The name of a variable says what its default is.
        let name = match block.ident.as_str() {
            "variable" => label(block, 0).to_owned(),
            _ => String::new(),
        };
        self.named(&name, |scan| visit::visit_block(scan, block));
    }

    fn visit_attr(&mut self, attribute: &Attribute) {
        let name = match (attribute.key.as_str(), self.name.as_str()) {
            ("default", variable) if !variable.is_empty() => variable.to_owned(),
            (key, _) => key.to_owned(),
        };
        self.named(&name, |scan| scan.visit_expr(&attribute.value));
    }

    fn visit_object(&mut self, object: &Object) {
        for (key, value) in object {
            let name = match key {
                ObjectKey::Ident(name) => name.as_str(),
                ObjectKey::Expression(expr) => expr.as_str().unwrap_or_default(),
            };
            self.named(name, |scan| scan.visit_expr(value.expr()));
        }
    }

    fn visit_expr(&mut self, expr: &Expression) {
        if let Expression::String(text) = expr {
            return self.text(text.value(), expr.span(), true);
        }
        if let Expression::HeredocTemplate(heredoc) = expr {
            let lines: Vec<_> = heredoc
                .template
                .iter()
                .filter_map(Element::as_literal)
                .collect();
            let found = lines
                .iter()
                .find(|text| KNOWN.iter().any(|(_, pattern)| pattern.is_match(text)));
            if let Some(text) = found {
                let part = text.span().map(|span| secret_in(text, span));
                return self.text(text, part, false);
            }
        }
        visit::visit_expr(self, expr);
    }

    fn visit_literal(&mut self, literal: &hcl_edit::Spanned<String>) {
        self.text(literal, literal.span(), false);
    }
}

/// The part of a long text that is the secret, as far as the text is as it stands in the file.
fn secret_in(text: &str, span: Range<usize>) -> Range<usize> {
    let found = KNOWN.iter().find_map(|(_, pattern)| pattern.find(text));
    match found {
        Some(found) if span.len() == text.len() => {
            span.start + found.start()..span.start + found.end()
        }
        _ => span,
    }
}

/// Tells whether a text is long, has no words in it and looks like chance.
fn is_random(text: &str) -> bool {
    let is_key = |c: char| c.is_ascii_alphanumeric() || "+/=_-.".contains(c);
    let has = |wanted: fn(&char) -> bool| text.chars().any(|c| wanted(&c));
    text.len() >= LONG
        && text.chars().all(is_key)
        && has(char::is_ascii_digit)
        && has(char::is_ascii_alphabetic)
        && entropy(text) >= CHANCE
}

/// Shannon's entropy of a text, in bits for each byte.
fn entropy(text: &str) -> f64 {
    let mut counts = [0_u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    #[expect(clippy::cast_precision_loss, reason = "texts are short")]
    let length = text.len() as f64;
    let shares = counts
        .into_iter()
        .filter(|count| *count > 0)
        .map(|count| f64::from(count) / length);
    -shares.map(|share| share * share.log2()).sum::<f64>()
}

fn exposed(check: &mut Check<'_, '_>) {
    let model = check.model;
    for decl in model.of_kind("coder_metadata") {
        for item in decl.nested("item") {
            let is_hidden = item
                .argument("sensitive")
                .is_some_and(|it| it.attribute.value.as_bool() == Some(true));
            if let Some(argument) = item.argument("value").filter(|_| !is_hidden) {
                let spot = check.spot(decl, argument.place());
                report(
                    check,
                    decl,
                    &argument.attribute.value,
                    spot,
                    "the metadata of a resource",
                );
            }
        }
    }
    for (kind, name, what) in [
        ("coder_app", "url", "the address of an app"),
        (
            "data.coder_parameter",
            "default",
            "the default of a parameter",
        ),
    ] {
        for decl in model.of_kind(kind) {
            if let Some(argument) = decl.argument(name) {
                let spot = check.spot(decl, argument.place());
                report(check, decl, &argument.attribute.value, spot, what);
            }
        }
    }
}

fn report(
    check: &mut Check<'_, '_>,
    decl: &Decl<'_>,
    expr: &Expression,
    spot: Spot,
    whereto: &str,
) {
    let traced = check.tracer.in_decl(decl, expr);
    let Some(what) = secret(check, &traced) else {
        return;
    };
    let message = format!("`{what}` is a secret, and everybody who sees {whereto} sees it");
    let remedy = "leave it out there: people and programs in the workspace can get it from the agent's environment";
    check.report("secret-exposed", spot, message, remedy);
}

/// A secret that an expression leads to.
fn secret(check: &Check<'_, '_>, traced: &Traced) -> Option<String> {
    if traced.functions.contains("sensitive") {
        return Some("sensitive(…)".to_owned());
    }
    // What is said not to be one is the author's decision.
    if traced.functions.contains("nonsensitive") {
        return None;
    }
    for (index, attribute) in &traced.decls {
        let decl = &check.model.decls[*index];
        let attribute = attribute.as_deref().unwrap_or_default();
        if SENSITIVE.contains(&(decl.kind, attribute)) {
            return Some(format!("{}.{attribute}", decl.address));
        }
    }
    let variables = traced.variables.iter();
    variables
        .filter(|(instance, name)| is_sensitive(check, *instance, name))
        .map(|(instance, name)| format!("{}var.{name}", check.model.instances[*instance].prefix))
        .next()
}

fn is_sensitive(check: &Check<'_, '_>, instance: usize, name: &str) -> bool {
    variables(check, instance).any(|(_, block)| {
        let sensitive = block.body.get_attribute("sensitive");
        label(block, 0) == name && sensitive.is_some_and(|it| it.value.as_bool() == Some(true))
    })
}

fn variables<'a>(
    check: &Check<'a, '_>,
    instance: usize,
) -> impl Iterator<Item = (&'a File, &'a Block)> + use<'a> {
    let source = check.model.instances[instance].source;
    source.files.iter().flat_map(|file| {
        let blocks = file
            .body()
            .blocks()
            .filter(|block| block.ident.as_str() == "variable");
        blocks.map(move |block| (file, block))
    })
}

/// Defaults of sensitive variables that stand in the README.
fn readme(check: &mut Check<'_, '_>) {
    let Some(readme) = &check.model.sources.readme else {
        return;
    };
    let mut found = Vec::new();
    for (_, block) in variables(check, 0) {
        let name = label(block, 0);
        let default = block
            .body
            .get_attribute("default")
            .and_then(|it| it.value.as_str());
        let Some(text) = default.filter(|text| text.len() >= 8 && is_sensitive(check, 0, name))
        else {
            continue;
        };
        if let Some(start) = readme.text.find(text) {
            found.push((name.to_owned(), readme.place(&(start..start + text.len()))));
        }
    }
    for (name, place) in found {
        let spot = Spot {
            place,
            address: String::new(),
            module: String::new(),
        };
        let message = format!(
            "the value of the sensitive variable `{name}` is in the README, which everybody reads"
        );
        check.report(
            "secret-exposed",
            spot,
            message,
            "remove it from the README, and change the secret",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_told_from_words_and_placeholders() {
        for (text, random) in [
            ("f3Kq9ZpX2mVb7TnL", true),
            ("changeme-changeme", false),
            ("aaaaaaaa11111111", false),
            ("short1", false),
            ("my secret value 1", false),
        ] {
            assert_eq!(is_random(text), random, "{text}");
        }
    }
}
