//! What an origin says is unchanged is not downloaded again, and what changed is noticed all the same.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    modules::{call, piped, tar},
    origin::{Origin, Validator},
    round_trip::run,
};

const HOST: &str = "registry.example";
const MODULE: &str = "registry.example/acme/hello/coder";
const OF_MODULE: &str = "files/hello.tar.gz";
const OF_TEMPLATE: &str = "files/named.tar.gz";

fn archive(text: &str) -> Vec<u8> {
    piped("gzip", &tar(&[("main.tf", text)]))
}

/// A mirror that wants a module from a registry, and an archive that a template names.
async fn home() -> (Origin, TempDir) {
    let origin = Origin::start().await;
    let url = &origin.url;
    origin.publish_module(MODULE, "1.0.0", &format!("{url}/{OF_MODULE}"));
    origin.put(OF_MODULE, &archive("# one\n"));
    origin.put(OF_TEMPLATE, &archive("output \"from\" { value = 1 }\n"));
    let dir = TempDir::new().unwrap();
    let template = call("named", &format!("{url}/{OF_TEMPLATE}"));
    fs::create_dir(dir.path().join("template")).unwrap();
    fs::write(dir.path().join("template/main.tf"), template).unwrap();
    let config = format!(
        "[[templates]]\npath = \"template\"\n[[modules]]\nsource = \"{MODULE}\"\nversions = [\"1.0.0\"]\n{}",
        origin.host(HOST)
    );
    fs::write(dir.path().join("mirror.toml"), config).unwrap();
    (origin, dir)
}

/// The exit code of a sync, and its report.
fn sync(home: &Path, more: &[&str]) -> (i32, Value) {
    let words = [
        "mirror",
        "sync",
        "--mirror-dir",
        "mirror",
        "--output",
        "json",
    ];
    let output = run(home, &[&words[..], more].concat());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(json!({ "error": error }));
    (output.status.code().unwrap(), report)
}

/// Files that were sent, and those that were called unchanged.
fn asked(origin: &Origin) -> (Vec<String>, Vec<String>) {
    let lines = origin.asked();
    let of = |begin: &str| -> Vec<String> {
        let names = lines.iter().filter_map(|line| line.strip_prefix(begin));
        let mut names: Vec<_> = names.filter(|name| name.contains("files/")).collect();
        names.sort_unstable();
        names
            .iter()
            .map(|name| name.trim_start_matches('/').to_owned())
            .collect()
    };
    let unchanged = of("304 ");
    let mut sent = of("GET ");
    sent.retain(|name| !unchanged.contains(name));
    (sent, unchanged)
}

fn both() -> Vec<String> {
    [OF_MODULE, OF_TEMPLATE].map(str::to_owned).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_archive_is_downloaded_once_and_a_changed_one_is_noticed() {
    let (origin, dir) = home().await;
    origin.validate(OF_MODULE, Validator::Tag);
    origin.validate(OF_TEMPLATE, Validator::Time);
    let home = dir.path();
    // A dry run leaves nothing behind that a later run could use.
    assert_eq!(sync(home, &["--dry-run"]).0, 0);
    assert!(!home.join("mirror/answers").exists());
    assert_eq!(asked(&origin), (both(), vec![]));
    let (code, first) = sync(home, &[]);
    assert_eq!(
        (code, &first["downloaded_files"]),
        (0, &json!(2)),
        "{first}"
    );
    assert_eq!(asked(&origin), (both(), vec![]));

    for more in [&["--dry-run"][..], &[]] {
        let (code, report) = sync(home, more);
        assert_eq!(
            (code, &report["downloaded_files"]),
            (0, &json!(0)),
            "{report}"
        );
        assert_eq!(asked(&origin), (vec![], both()), "{more:?}");
    }

    // A damaged copy is as good as none. What is downloaded for a comparison is not counted.
    for entry in fs::read_dir(home.join("mirror/answers")).unwrap() {
        let path = entry.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        content.pop();
        fs::write(path, content).unwrap();
    }
    let (code, report) = sync(home, &[]);
    assert_eq!(
        (code, &report["downloaded_files"]),
        (0, &json!(1)),
        "{report}"
    );

    origin.put(
        OF_TEMPLATE,
        &archive("output \"from\" { value = \"another length\" }\n"),
    );
    origin.asked();
    let (code, report) = sync(home, &[]);
    assert_eq!(
        (code, &report["downloaded_files"]),
        (0, &json!(1)),
        "{report}"
    );
    assert_eq!(
        asked(&origin),
        (vec![OF_TEMPLATE.to_owned()], vec![OF_MODULE.to_owned()])
    );

    origin.put(OF_MODULE, &archive("# two\n"));
    for _ in 0..2 {
        // The second time the changed archive is the unchanged one, and still not the pinned one.
        let (code, report) = sync(home, &[]);
        assert_eq!(code, 4, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_without_validators_is_asked_for_everything_again() {
    let (origin, dir) = home().await;
    for _ in 0..2 {
        let (code, report) = sync(dir.path(), &[]);
        assert_eq!(code, 0, "{report}");
        assert_eq!(asked(&origin), (both(), vec![]));
    }
    assert!(!dir.path().join("mirror/answers").exists());
}
