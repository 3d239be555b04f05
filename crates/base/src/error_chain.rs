//! An error and its causes in one line.

use std::error::Error;

/// Joins the texts of `error` and of its sources with `: `, and leaves out a source whose text only repeats the end
/// of what precedes it.
pub fn error_chain(error: &dyn Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
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
