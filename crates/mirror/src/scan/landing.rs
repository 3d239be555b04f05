//! Addresses that are not those of archives: their server announces the module's address in a header or on its page.
//! Pure. Pure.
//!
//! # Source
//! go-getter, `get_http.go`.

use regex::Regex;
use std::sync::LazyLock;
use url::Url;

/// Maximum length of an address on such a page.
const MAX_TARGET_BYTES: usize = 4096;

static META: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?is)<meta\s((?:"[^"]*"|'[^']*'|[^>"'])*)>"#));
static END: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)</head\s*>|<body[\s>]"));
static ATTRIBUTE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?is)([a-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"#));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("it is a pattern")
}

/// Returns the request of an engine to such a server, with the query in the engine's order.
pub fn landing(url: &Url) -> Url {
    let mut asked = for_the_server(url);
    asked.query_pairs_mut().append_pair("terraform-get", "1");
    sorted(&asked)
}

/// Parameters of a query that the engine interprets and does not send.
const FOR_THE_ENGINE: [&str; 3] = ["archive", "checksum", "filename"];

/// Returns an address without the parameters that the engine interprets, with its query in the engine's order.
pub(crate) fn for_the_server(url: &Url) -> Url {
    let mut clean = url.clone();
    let kept: Vec<_> = url
        .query_pairs()
        .filter(|(name, _)| !FOR_THE_ENGINE.contains(&name.as_ref()))
        .collect();
    clean.set_query(None);
    if !kept.is_empty() {
        clean.query_pairs_mut().extend_pairs(kept);
    }
    clean.set_fragment(None);
    sorted(&clean)
}

/// Returns whether two addresses are the same regardless of the order and encoding of their queries.
pub(crate) fn same_query(url: &Url, text: &str) -> bool {
    if url.as_str() == text {
        return true;
    }
    // Few files have a query, so parsing their addresses is usually unnecessary.
    let other = Url::parse(text).ok().filter(|_| text.contains('?'));
    other.is_some_and(|other| sorted(url) == sorted(&other))
}

fn sorted(url: &Url) -> Url {
    let mut pairs: Vec<_> = url.query_pairs().into_owned().collect();
    // A stable sort keeps the order of several values with one name.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let mut sorted = url.clone();
    sorted.set_query(None);
    if !pairs.is_empty() {
        sorted.query_pairs_mut().extend_pairs(pairs);
    }
    sorted
}

/// Returns the module's address on a page.
pub fn target(page: &str) -> Option<String> {
    let head = &page[..END.find(page).map_or(page.len(), |end| end.start())];
    let named = META.captures_iter(head).find_map(|meta| {
        let value = |wanted: &str| {
            ATTRIBUTE.captures_iter(&meta[1]).find_map(|it| {
                let value = [2, 3, 4].into_iter().find_map(|group| it.get(group))?;
                (it[1].eq_ignore_ascii_case(wanted)).then(|| unescaped(value.as_str()))
            })
        };
        let is_it = value("name").is_some_and(|name| name == "terraform-get");
        value("content").filter(|text| is_it && !text.is_empty())
    });
    named.filter(|text| text.len() <= MAX_TARGET_BYTES)
}

/// Returns a page that announces this address.
pub fn page(target: &str) -> String {
    let target = target
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!("<html><head><meta name=\"terraform-get\" content=\"{target}\"/></head></html>\n")
}

fn unescaped(text: &str) -> String {
    let entities = [
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&apos;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    let text = text.to_owned();
    entities
        .iter()
        .fold(text, |text, (entity, plain)| text.replace(entity, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_its_module_in_its_head_alone() {
        let target_of =
            |head: &str| target(&format!("<!doctype html><html><head>{head}</head><body>"));
        for head in [
            "<meta name=\"terraform-get\" content=\"git::https://git.example/x?a=1&amp;b=2\">",
            "<META charset=utf-8>\n<meta\n  content='git::https://git.example/x?a=1&b=2' name=terraform-get />",
        ] {
            let found = target_of(head);
            assert_eq!(
                found.as_deref(),
                Some("git::https://git.example/x?a=1&b=2"),
                "{head}"
            );
        }
        for none in [
            "",
            "<meta name=\"go-import\" content=\"x\">",
            "<meta name=\"terraform-get\" content=\"\">",
            "</head><body><meta name=\"terraform-get\" content=\"x\">",
        ] {
            assert_eq!(target_of(none), None, "{none}");
        }
        assert_eq!(
            target(&format!(
                "<meta name=terraform-get content={}>",
                "x".repeat(5000)
            )),
            None
        );
    }

    #[test]
    fn a_page_of_ours_names_what_it_was_made_for() {
        let text = "git::https://git.example/x//sub?a=\"1\"&b=<2>";

        assert_eq!(target(&page(text)).as_deref(), Some(text));
    }

    #[test]
    fn a_query_is_asked_for_as_engines_ask() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let cases = [
            (
                "https://a.example/x?version=2&archive=zip&file=1&checksum=md5:0",
                "https://a.example/x?file=1&version=2",
            ),
            (
                "https://a.example/x.zip?archive=zip",
                "https://a.example/x.zip",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(for_the_server(&url(text)).as_str(), expected);
        }
        assert_eq!(
            landing(&url("https://a.example/vpc?version=2&checksum=md5:0")).as_str(),
            "https://a.example/vpc?terraform-get=1&version=2"
        );
    }
}
