//! Differences in the forms that people read.

use serde_json::Value;

use super::{super::columns::aligned, Change, Changed, ChangedResource, Difference};

/// Longest value that is shown, in characters.
const MAX_SHOWN: usize = 60;

impl Difference {
    /// The difference as text: what changed, a line each.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (title, rows) in self.sections() {
            text.push_str(&format!("{title}\n"));
            let lines = aligned(&rows);
            lines
                .lines()
                .for_each(|line| text.push_str(&format!("  {line}\n")));
            text.push('\n');
        }
        text + &self.last_line() + "\n"
    }

    /// The difference in Markdown, for a comment on a pull request.
    pub fn markdown(&self) -> String {
        let mut text = "### Changes of the template\n\n".to_owned();
        for (title, rows) in self.sections() {
            text.push_str(&format!("| {title} | | |\n| --- | --- | --- |\n"));
            for row in rows {
                let cells: Vec<_> = row.iter().map(|cell| escaped(cell)).collect();
                text.push_str(&format!("| {} |\n", cells.join(" | ")));
            }
            text.push('\n');
        }
        text + &match self.loses() {
            true => format!("**{}**\n", self.last_line()),
            false => format!("{}\n", self.last_line()),
        }
    }

    /// Titles, and rows of name, change and details; sections without a change are left out.
    fn sections(&self) -> Vec<(&'static str, Vec<Vec<String>>)> {
        let rows = |changes: &[Changed]| changes.iter().map(row).collect::<Vec<_>>();
        let changed = self.resources.iter().filter(|it| it.change != "kept");
        let all = vec![
            ("Parameters", rows(&self.parameters)),
            ("Presets", rows(&self.presets)),
            ("Agents", rows(&self.agents)),
            ("Apps", rows(&self.apps)),
            (
                "Resources of a running workspace",
                changed.map(resource).collect(),
            ),
        ];
        all.into_iter()
            .filter(|(_, rows)| !rows.is_empty())
            .collect()
    }

    fn last_line(&self) -> String {
        let it = &self.summary;
        let counts = [
            (it.kept, "kept"),
            (it.created, "created"),
            (it.updated, "updated"),
            (it.replaced, "replaced"),
            (it.destroyed, "destroyed"),
        ];
        let counts = counts
            .iter()
            .filter(|(count, what)| *count > 0 || *what == "kept");
        let counts: Vec<_> = counts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let lost: Vec<_> = self.resources.iter().filter(|it| it.lost).collect();
        let lost: Vec<_> = lost.iter().map(|it| format!("`{}`", it.address)).collect();
        match lost.is_empty() {
            true => format!(
                "Resources: {}; nothing persistent is lost.",
                counts.join(", ")
            ),
            false => format!(
                "Resources: {}; lost: {}.",
                counts.join(", "),
                lost.join(", ")
            ),
        }
    }
}

fn row(changed: &Changed) -> Vec<String> {
    let fields = changed.fields.iter();
    let fields: Vec<_> = fields
        .map(|(name, both)| format!("{name}: {} -> {}", shown(&both.old), shown(&both.new)))
        .collect();
    let change = match changed.change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Changed => "changed",
    };
    vec![changed.name.clone(), change.to_owned(), fields.join(", ")]
}

fn resource(resource: &ChangedResource) -> Vec<String> {
    let because = match resource.because.as_slice() {
        [] => String::new(),
        paths => format!("because of {}", paths.join(", ")),
    };
    let persistence = match (resource.lost, resource.persistence) {
        (true, _) => "what it keeps is lost",
        (false, Some(persistence)) => persistence,
        (false, None) => "",
    };
    let details: Vec<_> = [persistence, &because]
        .into_iter()
        .filter(|it| !it.is_empty())
        .collect();
    vec![
        resource.address.clone(),
        resource.change.to_owned(),
        details.join(", "),
    ]
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn escaped(cell: &str) -> String {
    let text = cell
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;");
    text.replace(['\n', '\r'], " ")
}
