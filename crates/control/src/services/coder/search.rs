//! Searches as Coder's clients write them: `owner:me status:"running" name`. Pure.
//!
//! # Source
//! coder `coderd/searchquery/search.go`.

use axum::http::StatusCode;

use super::answer::Refusal;

/// Longest search, in characters.
const MAX_SEARCH: usize = 4096;

/// Terms of a search, with names in lower case. A word without a name is part of the name that is searched for.
pub(super) fn terms(search: &str, known: &[&str]) -> Result<Vec<(String, String)>, Refusal> {
    let wrong =
        |why: String| Refusal::new(StatusCode::BAD_REQUEST, "Invalid search query.").at("q", why);
    if search.len() > MAX_SEARCH {
        return Err(wrong(format!("it has more than {MAX_SEARCH} characters")));
    }
    let terms = words(search).into_iter().map(|word| {
        let (name, value) = word.split_once(':').unwrap_or(("name", &word));
        let name = name.to_lowercase();
        if !known.contains(&name.as_str()) {
            let known = known.join(", ");
            return Err(wrong(format!("{name:?} is not one of {known}")));
        }
        Ok((name, value.to_owned()))
    });
    terms.collect()
}

/// Splits at blanks; quoted blanks belong to a word, and the quotes do not.
fn words(search: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for c in search.chars() {
        match c {
            _ if is_escaped => {
                word.push(c);
                is_escaped = false;
            }
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c if c.is_whitespace() && !is_quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_have_names_and_values_with_or_without_quotes() {
        let known = ["owner", "name", "status"];

        let found = terms(r#"owner:me  Status:"a \"b\" c" dev"#, &known).unwrap();

        let expected = [("owner", "me"), ("status", r#"a "b" c"#), ("name", "dev")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
        assert!(terms("", &known).unwrap().is_empty());
        assert!(terms("colour:red", &known).is_err());
        assert!(terms(&"x".repeat(MAX_SEARCH + 1), &known).is_err());
    }
}
