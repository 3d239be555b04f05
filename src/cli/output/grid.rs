//! Table that is at most as wide as the terminal: the widest columns give way, and texts break where people would
//! break them. Pure: no terminal.

use comfy_table::{ContentArrangement, Table, presets};

/// Characters after which a text without blanks breaks: addresses, versions and paths have these.
const BREAKS: &[char] = &['/', ',', ';', ':', '-', '_', '@', '=', '&', '?', '.'];

/// Narrowest column that can be read, in characters; below that, each row becomes a list of its own.
const NARROWEST: usize = 8;

/// Formats the rows under their headings, in at most `width` characters if that is known.
pub(super) fn grid(columns: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let natural = natural(columns, rows);
    // A border at each end and three characters between two columns.
    let available = width.map(|width| width.saturating_sub(3 * columns.len() + 1));
    let widths = match available {
        Some(available) if natural.iter().sum::<usize>() > available => {
            if available < NARROWEST * columns.len() {
                return lists(columns, rows);
            }
            shared(&natural, available)
        }
        _ => natural,
    };
    let fit = |cells: &[String]| -> Vec<String> {
        let cells = cells.iter().zip(&widths);
        cells.map(|(cell, width)| wrapped(cell, *width)).collect()
    };
    let headings: Vec<_> = columns
        .iter()
        .map(|heading| (*heading).to_owned())
        .collect();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(fit(&headings));
    for row in rows {
        table.add_row(fit(row));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Length of the longest line of each column, in characters.
fn natural(columns: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let longest = |text: &str| text.lines().map(|line| line.chars().count()).max();
    let of_column = |(index, heading): (usize, &&str)| {
        let cells = rows.iter().filter_map(|row| longest(row.get(index)?));
        cells.chain(longest(heading)).max().unwrap_or(0)
    };
    columns.iter().enumerate().map(of_column).collect()
}

/// Returns widths that add up to `available`: only columns that are wider than their share give way.
fn shared(natural: &[usize], available: usize) -> Vec<usize> {
    let sum = |limit: usize| {
        natural
            .iter()
            .map(|width| (*width).min(limit))
            .sum::<usize>()
    };
    let limit = (1..=available).rev().find(|limit| sum(*limit) <= available);
    let limit = limit.unwrap_or(1);
    let mut left = available.saturating_sub(sum(limit));
    let width = |natural: &usize| {
        let more = usize::from(*natural > limit && left > 0);
        left -= more;
        (*natural).min(limit + more)
    };
    natural.iter().map(width).collect()
}

/// Breaks a text into lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        while let Some((end, _)) = rest.char_indices().nth(width) {
            let (line, next) = cut(rest, end);
            lines.push(line);
            rest = next;
        }
        lines.push(rest);
    }
    lines.join("\n")
}

/// Splits off the first line of a text, which has room up to byte `end`.
fn cut(text: &str, end: usize) -> (&str, &str) {
    if text[end..].starts_with(' ') {
        return (&text[..end], text[end..].trim_start());
    }
    let blank = text[..end].rfind(' ').filter(|at| *at > 0);
    if let Some(at) = blank {
        return (text[..at].trim_end(), text[at..].trim_start());
    }
    let after = text[..end].rfind(BREAKS).map(|at| at + 1);
    text.split_at(after.unwrap_or(end))
}

/// Formats each row by itself, one cell a line.
fn lists(columns: &[&str], rows: &[Vec<String>]) -> String {
    let of_row = |row: &Vec<String>| {
        let cells = columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
        let pairs: Vec<_> = cells
            .map(|(name, cell)| (*name, cell.replace('\n', ", ")))
            .collect();
        super::facts(&pairs)
    };
    rows.iter().map(of_row).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "registry.terraform.io/kreuzwerker/docker";

    fn rows() -> Vec<Vec<String>> {
        let row = |name: &str, detail: &str| {
            ["provider", name, "3.6.2", detail]
                .map(str::to_owned)
                .to_vec()
        };
        vec![
            row(
                ADDRESS,
                "none of the platforms that templates want is there",
            ),
            row("coder/coder", "present"),
        ]
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap()
    }

    #[test]
    fn a_table_fits_and_only_its_widest_columns_give_way() {
        let columns = ["Kind", "Name", "Version", "Detail"];
        for width in [50, 60, 80, 100] {
            let text = grid(&columns, &rows(), Some(width));
            assert!(widest(&text) <= width, "{width}\n{text}");
            assert!(
                text.contains("│ provider ┆ ") && text.contains("┆ 3.6.2   ┆"),
                "{text}"
            );
        }
        let text = grid(&columns, &rows(), Some(80));
        assert!(
            text.contains("registry.terraform.io/"),
            "it breaks where a part ends\n{text}"
        );
        let all = grid(&columns, &rows(), None);
        assert!(all.contains(ADDRESS), "{all}");
        assert_eq!(grid(&columns, &rows(), Some(1000)), all);
    }

    #[test]
    fn where_no_table_fits_each_row_is_a_list() {
        let text = grid(&["Kind", "Name", "Version", "Detail"], &rows(), Some(30));

        let expected = format!("Kind     provider\nName     {ADDRESS}\nVersion  3.6.2\n");
        assert!(text.starts_with(&expected), "{text}");
    }

    #[test]
    fn texts_break_at_blanks_then_at_the_end_of_a_part_and_else_anywhere() {
        for (text, width, expected) in [
            ("one two three", 7, "one two\nthree"),
            (
                "registry.example/acme/demo",
                17,
                "registry.example/\nacme/demo",
            ),
            ("abcdefgh", 3, "abc\ndef\ngh"),
            ("ä ö ü", 3, "ä ö\nü"),
            ("", 3, ""),
        ] {
            assert_eq!(wrapped(text, width), expected);
        }
    }
}
