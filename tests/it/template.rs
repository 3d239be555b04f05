//! Templates without a server: `outpost template check` and `outpost template rules` of the real program.

mod bad_input;
mod diff;
mod formats;
mod places;
mod planning;
mod policies;
mod push;
mod results;
mod schemas;
mod suppression;

use std::{fs, path::Path, process::Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::outpost;

/// A directory with templates, and a home for caches.
struct Bench(TempDir);

const PROVIDERS: &str = "terraform {\n  required_providers {\n    coder = {\n      source  = \"coder/coder\"\n      version = \"~> 2.4\"\n    }\n  }\n}\n";

const AGENT: &str =
    "resource \"coder_agent\" \"main\" {\n  os   = \"linux\"\n  arch = \"amd64\"\n}\n";

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self(TempDir::new().unwrap());
        files
            .iter()
            .for_each(|(name, text)| bench.write(name, text));
        bench
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("work").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `outpost template` in the directory.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = outpost();
        command
            .env("HOME", self.0.path().join("home"))
            .env_remove("GITHUB_STEP_SUMMARY")
            .current_dir(self.path(""))
            .arg("template")
            .args(arguments);
        fs::create_dir_all(self.0.path().join("home")).unwrap();
        command.output().unwrap()
    }

    /// The JSON result of a check, and its exit code.
    fn check(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.run(&[&["check", "--output", "json"], arguments].concat());
        let value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (value, output.status.code().unwrap())
    }
}

/// Rules, files and lines of what was found in the first template.
fn found(result: &Value) -> Vec<(String, String, u64)> {
    let findings = result["templates"][0]["findings"].as_array().unwrap();
    let one = |it: &Value| {
        let text = |name: &str| it[name].as_str().unwrap().to_owned();
        (text("rule"), text("file"), it["line"].as_u64().unwrap())
    };
    findings.iter().map(one).collect()
}

fn of_rule(result: &Value, rule: &str) -> Vec<(String, u64)> {
    let all = found(result)
        .into_iter()
        .filter(|(found, ..)| found == rule);
    all.map(|(_, file, line)| (file, line)).collect()
}

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/templates")
}
