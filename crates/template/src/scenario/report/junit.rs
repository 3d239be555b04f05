//! Results as JUnit's XML: a suite a file, a case a run.

use std::fmt::Write as _;

use super::{
    super::{Outcome, Played, PlayedRun},
    Summary,
    table::text,
    title,
};

/// All results. Mistakes of a file and what it left behind are cases of their own.
pub fn junit(played: &[Played]) -> String {
    let seconds: f64 = played.iter().map(|scenario| scenario.seconds).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Schemas of JUnit know skipped tests of a suite only.
    let (counts, _) = counts(played);
    let _ = writeln!(
        xml,
        "<testsuites name=\"outpost template test\" {counts} time=\"{seconds:.3}\">"
    );
    for scenario in played {
        suite(scenario, &mut xml);
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Attributes with the numbers of tests, and of those that were skipped.
fn counts(played: &[Played]) -> (String, usize) {
    let Summary {
        passed,
        failed,
        invalid,
        unable,
        skipped,
    } = Summary::of(played);
    let (errors, tests) = (
        invalid + unable,
        passed + failed + invalid + unable + skipped,
    );
    let counts = format!("tests=\"{tests}\" failures=\"{failed}\" errors=\"{errors}\"");
    (counts, skipped)
}

fn suite(scenario: &Played, xml: &mut String) {
    let name = escaped(&title(scenario));
    let (counts, skipped) = counts(std::slice::from_ref(scenario));
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{name}\" {counts} skipped=\"{skipped}\" time=\"{:.3}\">",
        scenario.seconds
    );
    if !scenario.problems.is_empty() {
        let problems: Vec<_> = scenario.problems.iter().map(ToString::to_string).collect();
        case(
            xml,
            (&name, "scenario"),
            0.0,
            Some(("error", &problems.join("\n"))),
        );
    }
    for run in &scenario.runs {
        let said = said(run);
        case(
            xml,
            (&name, &run.name),
            run.seconds,
            element(run.outcome).map(|kind| (kind, said.as_str())),
        );
    }
    if let Some(left) = &scenario.left {
        case(xml, (&name, "destroy"), 0.0, Some(("failure", left)));
    }
    xml.push_str("  </testsuite>\n");
}

fn element(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Passed => None,
        Outcome::Failed => Some("failure"),
        Outcome::Invalid | Outcome::Unable => Some("error"),
        Outcome::Skipped => Some("skipped"),
    }
}

fn said(run: &PlayedRun) -> String {
    run.failures.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn case(xml: &mut String, (suite, name): (&str, &str), seconds: f64, ended: Option<(&str, &str)>) {
    let name = escaped(name);
    let _ = write!(
        xml,
        "    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.3}\""
    );
    let Some((kind, said)) = ended else {
        xml.push_str("/>\n");
        return;
    };
    let (first, all) = (
        escaped(said.lines().next().unwrap_or_default()),
        escaped(said),
    );
    let _ = match kind {
        // A skipped case has a reason and nothing else.
        "skipped" => writeln!(
            xml,
            ">\n      <skipped message=\"{first}\"/>\n    </testcase>"
        ),
        kind => writeln!(
            xml,
            ">\n      <{kind} message=\"{first}\" type=\"{kind}\">{all}</{kind}>\n    </testcase>"
        ),
    };
}

/// Text for an attribute or an element, without what XML cannot hold.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
