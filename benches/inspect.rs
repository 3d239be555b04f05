//! `outpost inspect` of large templates, against the bare processes that it cannot do without: `init`, `plan` for a
//! start and for a stop, `graph`. Both run in the same minute on the same machine, so that the ratio is what counts.
//!
//! Run it: cargo bench --bench inspect
//!
//! `OUTPOST_BENCH_RESOURCES` sets the resources of each template (2000), `OUTPOST_BENCH_ROUNDS` the rounds (3). A plan
//! of 2,000 chained resources alone takes Terraform half a minute.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures, and prints its figures"
)]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use outpost::terraform::binary;
use serde_json::Value;

/// What an inspection needs of the engine.
const BARE: [&[&str]; 4] = [
    &["init", "-no-color", "-input=false"],
    PLAN,
    PLAN,
    &["graph", "-type=plan"],
];
const PLAN: &[&str] = &["plan", "-no-color", "-input=false", "-json", "-out=plan"];

/// A name, and what makes a template of so many resources.
type Shape = (&'static str, fn(usize) -> String);

/// Shapes of templates: each resource depends on the one before it, none depends on another, one block has all.
const SHAPES: [Shape; 3] = [
    ("chained", chained),
    ("separate", separate),
    ("counted", counted),
];

fn main() -> anyhow::Result<()> {
    let resources = number("OUTPOST_BENCH_RESOURCES", 2000)?;
    let rounds = number("OUTPOST_BENCH_ROUNDS", 3)?;
    let engine = binary::find(&std::env::var_os("PATH").unwrap_or_default())?;
    println!(
        "{:<10} {:>10} {:>10} {:>8}",
        "template", "inspect", "bare", "ratio"
    );
    for (name, template) in SHAPES {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("main.tf"), template(resources))?;
        let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        for round in 0..rounds {
            let (own, bare) = match round % 2 {
                0 => (inspect(dir.path(), resources)?, bare(&engine, dir.path())?),
                _ => {
                    let bare = bare(&engine, dir.path())?;
                    (inspect(dir.path(), resources)?, bare)
                }
            };
            ours.push(own.as_secs_f64());
            theirs.push(bare.as_secs_f64());
            ratios.push(own.as_secs_f64() / bare.as_secs_f64());
        }
        println!(
            "{name:<10} {:>8.1} s {:>8.1} s {:>7.2}x",
            median(&mut ours),
            median(&mut theirs),
            median(&mut ratios)
        );
    }
    Ok(())
}

fn number(name: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(default),
    }
}

fn inspect(template: &Path, resources: usize) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let output = command(Path::new(env!("CARGO_BIN_EXE_outpost")))
        .args(["inspect", "--output", "json"])
        .arg(template)
        .output()?;
    let took = started.elapsed();
    let picture: Value = serde_json::from_slice(&output.stdout)?;
    let found = picture["resources"].as_array().map_or(0, Vec::len);
    let basis = picture["basis"].as_str();
    ensure!(
        (found, basis) == (resources, Some("start-and-stop")),
        "{found} resources from {basis:?}"
    );
    Ok(took)
}

/// The same processes in a copy of the template that nobody has used yet.
fn bare(engine: &Path, template: &Path) -> anyhow::Result<Duration> {
    let dir = tempfile::tempdir()?;
    fs::copy(template.join("main.tf"), dir.path().join("main.tf"))?;
    let started = Instant::now();
    for arguments in BARE {
        let output = command(engine)
            .args(arguments)
            .current_dir(dir.path())
            .output()?;
        ensure!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(started.elapsed())
}

/// A command without the host's CLI configuration where that is missing.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let configured = std::env::var_os("TF_CLI_CONFIG_FILE").map(PathBuf::from);
    if configured.is_some_and(|file| !file.exists()) {
        command.env_remove("TF_CLI_CONFIG_FILE");
    }
    command.stdin(Stdio::null());
    command
}

fn chained(resources: usize) -> String {
    blocks(resources, |index| match index {
        0 => String::new(),
        _ => format!("  depends_on = [terraform_data.r{}]\n", index - 1),
    })
}

fn separate(resources: usize) -> String {
    blocks(resources, |_| String::new())
}

fn counted(resources: usize) -> String {
    format!("resource \"terraform_data\" \"r\" {{\n  count = {resources}\n}}\n")
}

fn blocks(resources: usize, more: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for index in 0..resources {
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "resource \"terraform_data\" \"r{index}\" {{\n  input = \"value {index}\"\n{}}}\n",
            more(index)
        );
    }
    text
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
