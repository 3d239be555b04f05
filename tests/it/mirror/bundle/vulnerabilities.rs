//! What is known of the modules that a real engine was built from.

use std::fs;

use outpost::{
    mirror::{Generation, generation::Tool},
    registry::Platform,
    stop::Stop,
};
use serde_json::{Value, json};

use super::{Site, said, zip};

impl Site {
    /// A mirror with the engine of this machine, and with a provider that is a script.
    async fn with_engine(&self) {
        self.publish("1.0.0").await;
        let engine = fs::read(which::which("terraform").unwrap()).unwrap();
        let store = self.store();
        let archive = zip("terraform", &engine);
        let lock = store.lock(&Stop::new()).await.unwrap();
        let (current, mut generation): (u64, Generation) = store.newest().unwrap();
        generation.tools.push(Tool {
            name: "terraform".to_owned(),
            version: "1.11.4".parse().unwrap(),
            platform: Platform::current(),
            filename: "terraform.zip".to_owned(),
            archive: store.put(&archive).unwrap(),
            size: archive.len() as u64,
            signed: None,
        });
        store.commit(generation, Some(current), &lock).unwrap();
    }
}

fn record(id: &str, module: &str, fixed: &str) -> Value {
    json!({
        "id": id,
        "aliases": [format!("CVE-{id}")],
        "summary": "a loop without end",
        "modified": "2026-01-02T03:04:05Z",
        "affected": [{
            "package": { "ecosystem": "Go", "name": module },
            "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "fixed": fixed }] }],
        }],
    })
}

#[tokio::test]
async fn vulnerable_modules_of_a_real_engine_are_reported_from_a_database_beside_it() {
    let site = Site::new();
    site.with_engine().await;
    let database = site.path("osv");
    fs::create_dir(&database).unwrap();
    let write = |name: &str, value: &Value| {
        fs::write(database.join(name), value.to_string()).unwrap();
    };
    write("index.json", &json!([1, 2, 3]));
    write(
        "1.json",
        &record("GO-2026-1", "github.com/hashicorp/hcl/v2", "999.0.0"),
    );
    write(
        "2.json",
        &record("GO-2026-2", "github.com/hashicorp/hcl/v2", "2.0.1"),
    );
    write(
        "3.json",
        &record("GO-2026-3", "example.com/other", "999.0.0"),
    );
    write("4.json", &record("GO-2026-4", "stdlib", "1.999.0"));

    let report = site.done(&[
        "vulnerabilities",
        "--osv",
        "osv",
        "--vex",
        "vex.json",
        "--output",
        "json",
    ]);

    let report: Value = serde_json::from_str(&report).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let found: Vec<_> = findings
        .iter()
        .map(|it| (it["module"].as_str().unwrap(), it["id"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("github.com/hashicorp/hcl/v2", "GO-2026-1"),
            ("stdlib", "GO-2026-4")
        ],
        "{report}"
    );
    assert_eq!(report["records"], 4);
    assert_eq!(report["unknown"].as_array().unwrap().len(), 2, "{report}");
    let vex: Value = serde_json::from_slice(&fs::read(site.path("vex.json")).unwrap()).unwrap();
    let reference = vex["vulnerabilities"][0]["affects"][0]["ref"]
        .as_str()
        .unwrap();
    site.done(&["key", "generate", "site"]);
    site.done(&[
        "bundle",
        "--key",
        "site.key",
        "--out",
        "all",
        "--sbom",
        "sbom.json",
    ]);
    let sbom = fs::read_to_string(site.path("sbom.json")).unwrap();
    assert!(sbom.contains(reference), "{reference}");

    let checked = site.refused(&["vulnerabilities", "--osv", "osv", "--check"]);
    assert!(checked.contains("2 vulnerabilities found"), "{checked}");
    let empty = site.run(&["vulnerabilities", "--osv", "mirror"]);
    assert!(said(&empty).contains("no record"), "{}", said(&empty));
}
