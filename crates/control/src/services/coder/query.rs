//! Parameters in the query of a request's URL.

use url::form_urlencoded;

/// Value of a parameter of the query; the first one if it is repeated.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut all = form_urlencoded::parse(query.as_bytes());
    let found = all.find(|(key, value)| key == name && !value.is_empty())?;
    Some(found.1.into_owned())
}

/// Returns whether there is such a parameter, with or without a value.
pub(super) fn has_parameter(query: &str, name: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == name)
}
