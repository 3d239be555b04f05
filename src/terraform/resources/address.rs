//! Addresses of instances: without their keys the labels of a graph, with them what tells instances apart.

use std::borrow::Cow;

/// One part of an address between two dots, with the key behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step<'a> {
    name: &'a str,
    /// A number, or a quoted text.
    key: Option<&'a str>,
}

/// Splits at the dots outside of keys. A key may hold dots and brackets inside its quotes.
fn steps(address: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = address;
    while !rest.is_empty() {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        let key = tail.strip_prefix('[').map(|tail| &tail[..key_length(tail)]);
        let length = key.map_or(0, |key| key.len() + 2).min(tail.len());
        rest = tail[length..].strip_prefix('.').unwrap_or(&tail[length..]);
        steps.push(Step { name, key });
    }
    steps
}

/// Bytes of a key up to its closing bracket, or all of them.
fn key_length(text: &str) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b']' if !is_quoted => return at,
            _ => {}
        }
    }
    text.len()
}

/// The address of the block behind an instance: `module.a.coder_agent.dev` for `module.a[0].coder_agent.dev["x"]`.
pub fn without_keys(address: &str) -> Cow<'_, str> {
    if !address.contains('[') {
        return Cow::Borrowed(address);
    }
    let names: Vec<_> = steps(address).iter().map(|step| step.name).collect();
    Cow::Owned(names.join("."))
}

/// The keys of an address joined by hyphens, texts without quotes: `0-x`. `None` if there are none.
pub(super) fn joined_keys(address: &str) -> Option<String> {
    let keys = steps(address).into_iter().filter_map(|step| step.key);
    let keys: Vec<_> = keys.map(|key| key.trim_matches('"')).collect();
    (!keys.is_empty()).then(|| keys.join("-"))
}

/// Those of `candidates` that most likely go with `owner`: in the same instance of the modules around both, with the
/// same keys behind that. All candidates count where no key agrees.
pub(super) fn counterparts<'a>(owner: &str, candidates: &[&'a str]) -> Vec<&'a str> {
    let owner = steps(owner);
    let mut near: Vec<_> = candidates.to_vec();
    near.retain(|candidate| agree(&owner, &steps(candidate)).is_some());
    let mut equal = near.clone();
    equal.retain(|candidate| agree(&owner, &steps(candidate)) == Some(true));
    [equal, near]
        .into_iter()
        .find(|found| !found.is_empty())
        .unwrap_or_else(|| candidates.to_vec())
}

/// Whether both addresses have the same keys behind the modules that they share; `None` if they are in different
/// instances of those.
fn agree(a: &[Step<'_>], b: &[Step<'_>]) -> Option<bool> {
    let mut shared = 0;
    while let (Some([word, a_module]), Some([other, b_module])) =
        (a.get(shared..shared + 2), b.get(shared..shared + 2))
        && (word.name, other.name) == ("module", "module")
        && a_module.name == b_module.name
    {
        if a_module.key != b_module.key {
            return None;
        }
        shared += 2;
    }
    let a = a[shared..].iter().filter_map(|step| step.key);
    Some(a.eq(b[shared..].iter().filter_map(|step| step.key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_names() {
        let cases = [
            ("a.b", "a.b", None),
            ("a.b[0]", "a.b", Some("0")),
            (
                r#"module.m["k.]\"["].module.n[2].a.b["x"]"#,
                "module.m.module.n.a.b",
                Some(r#"k.]\"[-2-x"#),
            ),
            ("a.b[", "a.b", Some("")),
        ];
        for (address, block, keys) in cases {
            assert_eq!(without_keys(address), block);
            assert_eq!(joined_keys(address).as_deref(), keys);
        }
    }

    #[test]
    fn what_goes_together_is_in_one_module_and_has_equal_keys() {
        let cases: [(&str, &[&str], &[&str]); 6] = [
            ("m.m[1]", &["a.b[0]", "a.b[1]"], &["a.b[1]"]),
            (
                "module.x[1].m.m",
                &["module.x[0].a.b", "module.x[1].a.b"],
                &["module.x[1].a.b"],
            ),
            ("module.x[1].m.m", &["a.b[0]", "a.b[1]"], &["a.b[1]"]),
            (
                r#"module.x["k"].m.m[0]"#,
                &[
                    r#"module.x["k"].a.b[0]"#,
                    r#"module.x["k"].a.b[1]"#,
                    r#"module.x["l"].a.b[0]"#,
                ],
                &[r#"module.x["k"].a.b[0]"#],
            ),
            ("m.m", &["a.b[0]", "a.b[1]"], &["a.b[0]", "a.b[1]"]),
            (r#"m.m["x"]"#, &["a.b"], &["a.b"]),
        ];
        for (owner, candidates, expected) in cases {
            assert_eq!(counterparts(owner, candidates), expected, "{owner}");
        }
    }
}
