//! `outpost template rules`.

use serde::Serialize;

use crate::{
    cli::{
        exit::{Hint as _, UsageError},
        output::{Output, Row},
    },
    template::check::{self, Example, RULES, Rule},
};

/// List the rules of `outpost template check`, or explain one
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Rules {
    /// The rule's id
    #[arg(value_name = "ID")]
    id: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    id: &'static str,
    severity: &'static str,
    summary: &'static str,
}

impl Row for Listed {
    const COLUMNS: &'static [&'static str] = &["Rule", "Severity", "Finds"];

    fn cells(&self) -> Vec<String> {
        [self.id, self.severity, self.summary]
            .map(str::to_owned)
            .into()
    }
}

/// A rule with all that its page has.
#[derive(Serialize)]
struct Explained {
    id: &'static str,
    severity: &'static str,
    why: &'static str,
    bad: Vec<File>,
    good: Vec<File>,
    suppress: String,
}

#[derive(Serialize)]
struct File {
    name: String,
    text: String,
}

impl Rules {
    pub(in crate::cli) fn exec(self, output: Output) -> anyhow::Result<()> {
        let Some(id) = self.id else {
            let listed = |rule: &Rule| Listed {
                id: rule.id,
                severity: rule.severity.as_str(),
                summary: rule.summary(),
            };
            let rows: Vec<_> = RULES.iter().map(listed).collect();
            return Ok(output.list(&rows)?);
        };
        let Some(rule) = check::rule(&id) else {
            let hint = match check::similar_rule(&id) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`outpost template rules` lists all of them".to_owned(),
            };
            return Err(UsageError(format!("there is no rule `{id}`"))).hint(hint);
        };
        Ok(output.item(&Explained::of(rule), human)?)
    }
}

impl Explained {
    fn of(rule: &'static Rule) -> Self {
        let suppress = format!("# outpost:ignore {} REASON", rule.id);
        Self {
            id: rule.id,
            severity: rule.severity.as_str(),
            why: rule.why(),
            bad: files(rule.bad()),
            good: files(rule.good()),
            suppress,
        }
    }
}

fn files(example: Example) -> Vec<File> {
    let files = example.files.into_iter();
    files.map(|(name, text)| File { name, text }).collect()
}

fn human(rule: &Explained) -> String {
    let mut lines = vec![
        format!("{} ({})", rule.id, rule.severity),
        String::new(),
        rule.why.to_owned(),
    ];
    for (title, files) in [("Bad", &rule.bad), ("Good", &rule.good)] {
        for file in files {
            lines.push(format!("\n{title}, {}:\n", file.name));
            lines.extend(
                file.text
                    .lines()
                    .map(|line| format!("    {line}").trim_end().to_owned()),
            );
        }
    }
    lines.push(
        "\nTo accept a finding, write a comment on its line or above its block:\n".to_owned(),
    );
    lines.push(format!("    {}", rule.suppress));
    lines.push(format!("\nTo change the rule everywhere, write into outpost-template.toml:\n\n    [rules]\n    {} = \"off\"", rule.id));
    lines.join("\n")
}
