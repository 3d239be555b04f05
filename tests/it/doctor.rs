//! What helps somebody whose daemon does not work: `outpost doctor` and `outpost support-bundle`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use flate2::read::GzDecoder;
use outpost::terraform::binary;
use serde_json::Value;

use crate::start::{Server, Site};

/// A coderd that answers a daemon with `status` and `body`.
fn coderd(status: &'static str, body: &'static str) -> Server {
    Server::start(move |head| {
        if head.contains("/api/v2/buildinfo") {
            let info = r#"{"version":"v2.25.0","provisioner_api_version":"1.15"}"#;
            ("200 OK", info.to_owned())
        } else if head.contains("provisionerdaemons/serve") {
            (status, body.to_owned())
        } else {
            ("404 Not Found", String::new())
        }
    })
}

fn examined(command: &mut Command) -> (Output, BTreeMap<String, String>) {
    let output = command.args(["--output", "json"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).expect(&stderr);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let results = findings
        .iter()
        .map(|it| (text(it, "check"), text(it, "result")));
    (output, results.collect())
}

fn doctor(site: &Site, server: &Server) -> Command {
    let mut command = site.coder();
    command
        .args(["doctor", "--url", &server.url, "--tag", "zone=a"])
        .env("CODER_PROVISIONER_DAEMON_PSK", "hunter2");
    command
}

#[test]
fn a_doctor_asks_everything_and_registers_nothing() {
    let site = Site::new();
    let server = coderd(
        "400 Bad Request",
        r#"{"message":"Incompatible or unparsable version","validations":[{"field":"version","detail":"no"}]}"#,
    );

    let (output, results) = examined(&mut doctor(&site, &server));

    assert!(output.status.success(), "{results:?}");
    for check in [
        "url",
        "tls",
        "proxy",
        "api version",
        "licence",
        "credential",
        "tags",
        "engine",
        "coder provider",
    ] {
        assert_eq!(results[check], "ok", "{check}: {results:?}");
    }
    for check in [
        "clock",
        "websocket",
        "state directory",
        "cache directory",
        "memory",
        "isolation",
    ] {
        assert_ne!(results[check], "failed", "{check}: {results:?}");
    }
    let asked = server.asked("provisionerdaemons/serve");
    assert_eq!(asked.len(), 1);
    assert!(asked[0].contains("version=999.0&"), "{asked:?}");
    assert!(
        asked[0].contains("&tag=zone%3Da&tag=scope%3Dorganization"),
        "{asked:?}"
    );
    assert!(asked[0].contains("coder-provisioner-daemon-psk: hunter2"));
    assert!(!asked[0].contains("upgrade"));
}

#[test]
fn a_doctor_fails_where_every_import_would_and_names_the_options() {
    let site = Site::new();
    let server = coderd(
        "400 Bad Request",
        r#"{"message":"Incompatible or unparsable version","validations":[{"field":"version","detail":"no"}]}"#,
    );
    let engine = binary::find(&std::env::var_os("PATH").unwrap()).unwrap();
    // No registry can be reached through this one.
    let offline = || {
        let mut command = doctor(&site, &server);
        command.arg("--engine").arg(&engine);
        command.env("HTTPS_PROXY", "http://127.0.0.1:9");
        command
    };

    let table = offline().output().unwrap();
    let (builtin, results) = examined(offline().args(["--coder-provider", "builtin"]));

    assert_eq!(table.status.code(), Some(1));
    let table = String::from_utf8_lossy(&table.stdout);
    for expected in [
        "every import fails",
        "--coder-provider builtin",
        "--mirror DIR|URL",
    ] {
        assert!(table.contains(expected), "{expected}: {table}");
    }
    assert!(builtin.status.success(), "{results:?}");
    assert_eq!(results["coder provider"], "ok");
    assert_eq!(results["providers"], "warning");
}

#[test]
fn a_refusal_fails_with_a_remedy_and_exit_code_1() {
    let site = Site::new();
    let server = coderd(
        "403 Forbidden",
        r#"{"message":"External provisioner daemons is an Enterprise feature. Contact sales!"}"#,
    );

    let output = doctor(&site, &server).output().unwrap();

    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains("FAILED") && table.contains("licence"),
        "{table}"
    );
    assert!(!table.contains("hunter2"), "{table}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("1 of the checks failed"), "{stderr}");
}

#[test]
fn a_server_that_is_away_is_told_from_one_that_refuses() {
    let site = Site::new();
    let mut command = site.coder();
    command.args([
        "doctor",
        "--url",
        "http://127.0.0.1:9",
        "--psk-file",
        "/dev/null",
    ]);

    let (output, results) = examined(&mut command);

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(results["reach"], "failed");
    assert!(!results.contains_key("credential"), "{results:?}");
}

#[test]
fn a_bundle_has_what_helps_and_no_secret() {
    let site = Site::new();
    let server = coderd("401 Unauthorized", r#"{"message":"none provided"}"#);
    let log = site.path("daemon.log");
    fs::write(&log, "it said hunter2 to http://bob:s3cret@proxy:3128/\n").unwrap();
    fs::create_dir_all(site.path("state/outpost/lost")).unwrap();
    fs::write(site.path("state/outpost/lost/one.tfstate"), "s3cret").unwrap();
    let file = site.path("bundle.tar.gz");
    let bundle = || {
        let mut command = site.coder();
        command
            .args([
                "support-bundle",
                "--url",
                &server.url,
                "--header",
                "X-Site=s3cret",
            ])
            .args(["--health-address", "127.0.0.1:9", "--log-file"])
            .arg(&log)
            .arg("--file")
            .arg(&file)
            .env("CODER_PROVISIONER_DAEMON_PSK", "hunter2")
            .env("CLOUD_TOKEN", "s3cret");
        command.output().unwrap()
    };

    let made = bundle();

    let stderr = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{stderr}");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut names = Vec::new();
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(&file).unwrap()));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert!(
            !text.contains("hunter2") && !text.contains("s3cret"),
            "{name}:\n{text}"
        );
        names.push(name);
    }
    for name in [
        "doctor.json",
        "settings.json",
        "version.json",
        "machine.txt",
        "environment.txt",
        "state.txt",
        "status.json",
    ] {
        let name = format!("outpost-support/{name}");
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(
        names.iter().any(|name| name.ends_with("daemon.log")),
        "{names:?}"
    );

    let again = bundle();
    assert_eq!(
        again.status.code(),
        Some(1),
        "what is there is not overwritten"
    );
}
