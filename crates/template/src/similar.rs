//! Suggestions for names that do not exist.

/// Letters of a name that are compared; longer names are compared by their beginnings.
const COMPARED: usize = 100;
/// Number of names up to which all of them are listed if none is near.
const FEW: usize = 12;

/// Returns the name that differs least from `name`, if it differs little.
pub(crate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = names.min_by_key(|other| edits(name, other))?;
    (edits(name, near) <= 1 + name.chars().count() / 4).then_some(near)
}

/// Returns the end of an error text, with the nearest name or with all of a few; empty if neither helps.
pub(crate) fn suggestion<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if known.is_empty() || known.len() > FEW => String::new(),
        None => format!("; there is {}", known.join(", ")),
    }
}

/// Returns the number of letters to insert, remove or replace to get from one word to another.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(COMPARED).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().take(COMPARED).enumerate() {
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
        let names = ["region", "size"];

        assert_eq!(nearest("regoin", names.into_iter()), Some("region"));
        assert_eq!(nearest("zone", names.into_iter()), None);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn a_near_name_is_suggested_and_otherwise_all_of_a_few() {
        let known = ["transition", "preset"];

        assert_eq!(
            suggestion("transitoin", known),
            "; did you mean `transition`?"
        );
        assert_eq!(suggestion("x", known), "; there is transition, preset");
        assert_eq!(suggestion("x", []), "");
    }
}
