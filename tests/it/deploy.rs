//! What is in `deploy/` can be read by those for whom it is, and names only what there is.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use regex::Regex;
use yaml_rust2::{Yaml, YamlLoader};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(name: &str) -> String {
    let path = directory().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(name: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&read(name)).unwrap();
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

/// All files with their text.
fn files() -> Vec<(PathBuf, String)> {
    let (mut files, mut dirs) = (Vec::new(), vec![directory()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files.push((path.clone(), fs::read_to_string(path).unwrap())),
            }
        }
    }
    assert!(files.len() >= 7, "{files:?}");
    files
}

fn matches(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let found = pattern.find_iter(text);
    found.map(|found| found.as_str().to_owned()).collect()
}

/// The environment variables that options of any command have.
fn variables(command: &clap::Command, found: &mut BTreeSet<String>) {
    let names = command.get_arguments().filter_map(clap::Arg::get_env);
    found.extend(names.map(|name| name.to_string_lossy().into_owned()));
    command
        .get_subcommands()
        .for_each(|command| variables(command, found));
}

/// Has the program parse a command line. It is called by the name of its file, as by a link in an image.
#[track_caller]
fn assert_parses<'a>(arguments: impl Iterator<Item = &'a str>) {
    let arguments: Vec<&str> = arguments.collect();
    let dir = tempfile::tempdir().unwrap();
    let program = dir
        .path()
        .join(Path::new(arguments[0]).file_name().unwrap());
    symlink(env!("CARGO_BIN_EXE_outpost"), &program).unwrap();
    let mut command = std::process::Command::new(program);
    let output = command
        .args(&arguments[1..])
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert!(
        help.contains("--psk-file"),
        "{arguments:?} is not the daemon: {help}"
    );
}

#[test]
fn every_variable_is_one_that_an_option_has() {
    let mut known = BTreeSet::new();
    variables(&outpost::cli::command(), &mut known);
    for (path, text) in files() {
        for name in matches(r"\b(OUTPOST|CODER)_[A-Z_]+\b", &text) {
            assert!(known.contains(&name), "{}: {name}", path.display());
        }
    }
}

#[test]
fn the_unit_has_sections_and_a_command_line_that_parses() {
    let unit = read("systemd/outpost-provisioner.service");
    let mut sections = Vec::new();
    for line in unit
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            Some(section) => sections.push(section),
            None => assert!(
                line.split_once('=').is_some_and(|(key, _)| !key.is_empty()),
                "{line}"
            ),
        }
    }
    assert_eq!(sections, ["Unit", "Service", "Install"]);
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    assert_parses(start.split_whitespace());
    // Namespaces for jobs need them, and the calls that make them.
    for needed in [
        "RestrictNamespaces=user mnt pid",
        "SystemCallFilter=@system-service @mount @sandbox",
    ] {
        assert!(unit.contains(needed), "{needed}");
    }
}

#[test]
fn the_image_starts_what_the_chart_starts() {
    let containerfile = read("Containerfile");
    let list = |name: &str| -> Vec<String> {
        let line = containerfile
            .lines()
            .rfind(|line| line.starts_with(name))
            .unwrap();
        serde_json::from_str(&line[name.len()..]).unwrap()
    };
    let entry = list("ENTRYPOINT ");
    assert_eq!(entry, ["/opt/coder"]);
    let command = [entry, list("CMD ")].concat();
    assert_parses(command.iter().map(String::as_str));
    // What Coder's chart has as its default.
    assert_parses(["/opt/coder", "provisionerd", "start"].into_iter());
    assert!(
        containerfile.contains("\nUSER 1000:1000\n"),
        "the chart runs it as user 1000"
    );
}

#[test]
fn values_for_the_chart_change_only_the_image() {
    let values = yaml("helm/provisioner-values.yaml");
    let keys = |yaml: &Yaml| -> Vec<String> {
        let hash = yaml.as_hash().unwrap().keys();
        hash.map(|key| key.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&values), ["coder"]);
    assert_eq!(keys(&values["coder"]), ["image"]);
    assert_eq!(keys(&values["coder"]["image"]), ["repo", "tag"]);
}

#[test]
fn the_stateful_set_keeps_its_state_on_a_volume_that_outlives_pods() {
    let values = yaml("helm/statefulset-values.yaml");
    let set = &values["extraTemplates"][0];
    assert_eq!(set["kind"].as_str(), Some("StatefulSet"));
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let words = container["command"].as_vec().unwrap().iter();
    let words = words.chain(container["args"].as_vec().unwrap());
    assert_parses(words.map(|word| word.as_str().unwrap()));

    let all = |list: &Yaml| list.as_vec().unwrap().clone();
    let state = all(&container["env"])
        .into_iter()
        .find(|it| it["name"].as_str() == Some("OUTPOST_STATE_DIR"))
        .unwrap();
    let state = Path::new(state["value"].as_str().unwrap()).to_owned();
    let mounts = all(&container["volumeMounts"]);
    let mount = mounts
        .iter()
        .find(|it| state.starts_with(it["mountPath"].as_str().unwrap()))
        .unwrap();
    let claims = all(&set["spec"]["volumeClaimTemplates"]);
    assert!(
        claims
            .iter()
            .any(|it| it["metadata"]["name"] == mount["name"])
    );
    // Each other mount is of a volume that is declared.
    let volumes = all(&pod["volumes"]);
    for mount in mounts.iter().filter(|it| *it != mount) {
        assert!(
            volumes.iter().any(|it| it["name"] == mount["name"]),
            "{mount:?}"
        );
    }
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_a_daemon_has() {
    let rules = yaml("prometheus/alerts.yaml");
    let alerts = rules["groups"][0]["rules"].as_vec().unwrap();
    assert!(alerts.len() >= 4 && alerts.iter().all(|rule| rule["expr"].as_str().is_some()));
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("grafana/provisioners.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 8);

    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/observe/metrics.rs");
    let metric = r"\b(?:coderd|outpost_provisionerd)_[a-z_]+";
    let known = matches(metric, &fs::read_to_string(source).unwrap());
    for (path, text) in files() {
        for name in matches(metric, &text) {
            let series = ["_bucket", "_count", "_sum"];
            let family = series.iter().find_map(|suffix| name.strip_suffix(suffix));
            let family = family.unwrap_or(&name);
            assert!(known.contains(family), "{}: {name}", path.display());
        }
    }
}
