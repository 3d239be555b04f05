//! An error and its causes in one line.

use std::error::Error;

/// Joins the texts of `error` and of its sources by [`join_causes`].
pub fn error_chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |link| (*link).source());
    let causes = causes.map(ToString::to_string);
    join_causes(std::iter::once(error.to_string()).chain(causes))
}

/// Joins the texts of an error and of its causes with `: `, and leaves out one that only repeats the end of what precedes it.
pub fn join_causes(texts: impl IntoIterator<Item = String>) -> String {
    let mut all = String::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        if !all.ends_with(&text) {
            let separator = if all.is_empty() { "" } else { ": " };
            all.push_str(separator);
            all.push_str(&text);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn link(text: &'static str, source: Option<Link>) -> Link {
        let source = source.map(Box::new);
        Link { text, source }
    }

    #[test]
    fn every_cause_is_said_once() {
        let error = link("disk full", None);
        let error = link("write x: disk full", Some(error));
        let error = link("store", Some(link("cannot", Some(error))));
        assert_eq!(error_chain(&error), "store: cannot: write x: disk full");
    }
}
