//! Suggestions for names that do not exist.

/// The name that differs least, if it differs little.
pub(super) fn nearest<'n>(
    name: &str,
    names: impl Iterator<Item = &'n String>,
) -> Option<&'n String> {
    let distance = |other: &&String| edits(name, other);
    let near = names.min_by_key(distance)?;
    (edits(name, near) <= 1 + name.chars().count() / 4).then_some(near)
}

/// Letters to insert, remove or replace to get from one word to another.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let names = ["region".to_owned(), "size".to_owned()];

        assert_eq!(
            nearest("regoin", names.iter()).map(String::as_str),
            Some("region")
        );
        assert_eq!(nearest("zone", names.iter()), None);
        assert_eq!(edits("", "abc"), 3);
    }
}
