//! Suggestions for names that do not exist.

/// `; did you mean "NAME"?` with the name that differs least, or the few names that there are; empty if neither helps.
pub(super) fn suggestion<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    const FEW: usize = 12;
    let known: Vec<&str> = known.into_iter().collect();
    let near = known.iter().min_by_key(|other| edits(name, other));
    match near {
        Some(near) if edits(name, near) <= 1 + name.chars().count() / 4 => {
            format!("; did you mean `{near}`?")
        }
        Some(_) if known.len() <= FEW => format!("; there is {}", known.join(", ")),
        _ => String::new(),
    }
}

/// Longer names are compared by their beginnings.
const COMPARED: usize = 100;

/// Letters to insert, remove or replace to get from one word to another.
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
