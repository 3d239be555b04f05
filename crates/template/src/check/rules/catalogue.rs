//! The pages of the rules: why each is there, and an example of what it finds and of what it does not.

use crate::check::finding::Severity;

/// A rule of the check.
#[derive(Debug)]
pub struct Rule {
    /// Its name in reports, settings and suppressions.
    pub id: &'static str,
    /// The severity of its findings, unless settings say otherwise.
    pub severity: Severity,
    page: &'static str,
}

/// A template that shows a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// Names and texts of its files.
    pub files: Vec<(String, String)>,
    /// The place of the rule's finding: file and line.
    pub place: Option<(String, usize)>,
    /// Options that the rule needs, such as `--require cost`.
    pub options: Vec<String>,
}

macro_rules! rules {
    ($($severity:ident $id:literal),+ $(,)?) => {
        /// All rules, sorted by id.
        pub const RULES: &[Rule] = &[$(Rule {
            id: $id,
            severity: Severity::$severity,
            page: include_str!(concat!("../../../rules/", $id, ".md")),
        }),+];
    };
}

rules! {
    Error "agent-arch-mismatch",
    Error "agent-name-duplicate",
    Error "agent-name-invalid",
    Warning "agent-never-started",
    Error "agent-without-resource",
    Warning "all-ephemeral",
    Warning "app-healthcheck-not-local",
    Note "app-hidden-everywhere",
    Note "app-order-tie",
    Error "app-slug-duplicate",
    Error "app-slug-invalid",
    Error "app-url-invalid",
    Error "app-without-agent",
    Error "coder-provider-missing",
    Warning "deprecated",
    Note "docker-volume-without-protection",
    Warning "env-duplicate",
    Error "invalid",
    Warning "lock-missing",
    Warning "lock-platform-missing",
    Warning "lock-stale",
    Warning "metadata-too-slow",
    Error "metadata-unknown-resource",
    Warning "module-unpinned",
    Warning "network-at-start",
    Warning "no-agent",
    Warning "no-provider-source",
    Error "not-in-mirror",
    Warning "nothing-ephemeral",
    Error "parameter-default-invalid",
    Error "parameter-duplicate",
    Error "parameter-ephemeral-without-default",
    Note "parameter-immutable-without-default",
    Error "parameter-option-duplicate",
    Note "parameter-without-description",
    Warning "persistent-renamed-by-owner",
    Error "persistent-replaced",
    Error "policy",
    Error "preset-two-defaults",
    Error "preset-unknown-parameter",
    Error "preset-value-invalid",
    Warning "provider-unpinned",
    Error "required-version",
    Warning "script-never-runs",
    Error "script-schedule-invalid",
    Warning "secret-exposed",
    Error "secret-in-template",
    Warning "state-too-large",
    Note "suppression-unused",
    Warning "suppression-without-reason",
    Error "syntax",
    Warning "tags-no-daemon",
    Error "tags-not-static",
    Error "variable-without-value",
    Note "workspace-cost-missing",
}

/// The rule of an id; `policy/ID` is of the rule `policy`.
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id_of(id))
}

/// The id of the rule that has a page: policies have ids of their own behind a slash.
pub(in crate::check) fn id_of(id: &str) -> &str {
    match id.split_once('/') {
        Some(("policy", _)) => "policy",
        _ => id,
    }
}

impl Rule {
    /// The reason for the rule: the first paragraphs of its page.
    pub fn why(&self) -> &'static str {
        let body = self.page.split_once('\n').map_or("", |(_, body)| body);
        body.split("\n## ").next().unwrap_or_default().trim()
    }

    /// The first sentence of the reason.
    pub fn summary(&self) -> &'static str {
        let why = self.why();
        let end = why
            .find(". ")
            .or(why.find(".\n"))
            .map_or(why.len(), |end| end + 1);
        why[..end].trim_end()
    }

    /// A template in which it finds something.
    pub fn bad(&self) -> Example {
        self.example("Bad")
    }

    /// The same template, corrected.
    pub fn good(&self) -> Example {
        self.example("Good")
    }

    /// A section of the page: `## Bad (main.tf:7) --require cost`, then fences with names of files.
    fn example(&self, heading: &str) -> Example {
        let mut sections = self.page.split("\n## ").skip(1);
        let Some(section) = sections.find(|section| section.starts_with(heading)) else {
            return Example::default();
        };
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let place = title.split_once('(').and_then(|(_, rest)| {
            let (file, line) = rest.split_once(')')?.0.rsplit_once(':')?;
            Some((file.to_owned(), line.parse().ok()?))
        });
        let options = title.find("--").map_or("", |at| &title[at..]);
        Example {
            files: fences(body),
            place,
            options: options.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// Fenced texts with the names of files behind the language.
fn fences(body: &str) -> Vec<(String, String)> {
    let (mut files, mut open) = (Vec::new(), None::<(String, String)>);
    for line in body.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let name = info.split_whitespace().nth(1).unwrap_or("main.tf");
                open = Some((name.to_owned(), String::new()));
            }
            (Some(_), Some(_)) => files.extend(open.take()),
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    files
}
