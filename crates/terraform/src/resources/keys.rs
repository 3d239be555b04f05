//! Keys of instances: labels in a graph have none, and related instances have the same.

use std::borrow::Cow;

use crate::address::{Key, Step, steps};

/// Returns the address of an instance's block: `module.a.coder_agent.dev` for `module.a[0].coder_agent.dev["x"]`.
/// Text that is not an address is returned unchanged.
pub fn without_keys(address: &str) -> Cow<'_, str> {
    if !address.contains('[') {
        return Cow::Borrowed(address);
    }
    let Some(steps) = steps(address) else {
        return Cow::Borrowed(address);
    };
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    Cow::Owned(names.join("."))
}

/// Returns the keys of an address joined by hyphens, strings without quotes: `0-x`. `None` if there are none.
pub(super) fn joined_keys(address: &str) -> Option<String> {
    let keys = steps(address)?.into_iter().filter_map(|step| step.key);
    let texts = keys.map(|key| match key {
        Key::Index(index) => index.to_string(),
        Key::Name(name) => name,
    });
    let texts: Vec<_> = texts.collect();
    (!texts.is_empty()).then(|| texts.join("-"))
}

/// Returns the `candidates` that most likely correspond to `owner`: in the same instance of the modules around both,
/// with the same further keys. If no keys agree, all candidates are returned.
pub(super) fn counterparts<'a>(owner: &str, candidates: &[&'a str]) -> Vec<&'a str> {
    let steps = |address| steps(address).unwrap_or_default();
    let owner = steps(owner);
    let agreed: Vec<_> = candidates
        .iter()
        .filter_map(|candidate| Some((*candidate, agree(&owner, &steps(candidate))?)))
        .collect();
    let equal = agreed.iter().filter(|(_, is_equal)| *is_equal);
    let equal: Vec<_> = equal.map(|(candidate, _)| *candidate).collect();
    let near: Vec<_> = agreed.iter().map(|(candidate, _)| *candidate).collect();
    [equal, near]
        .into_iter()
        .find(|found| !found.is_empty())
        .unwrap_or_else(|| candidates.to_vec())
}

/// Returns whether two addresses have the same keys after their common modules; `None` if they are in different
/// instances of those.
fn agree<'a>(a: &'a [Step<'_>], b: &'a [Step<'_>]) -> Option<bool> {
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
    let keys = |steps: &'a [Step<'_>]| steps[shared..].iter().filter_map(|step| step.key.as_ref());
    Some(keys(a).eq(keys(b)))
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
                Some(r#"k.]"[-2-x"#),
            ),
            ("a.b[", "a.b[", None),
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
