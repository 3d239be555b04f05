//! A site's own authority: the commands, and whether programs that are not ours believe it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{cli::outpost, remote::Service};

struct Site(TempDir);

impl Site {
    /// A directory with an authority in it.
    fn new() -> Self {
        let site = Self(TempDir::new().unwrap());
        site.ca(&["init", "--name", "Example CA"]);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = outpost();
        command.arg("ca").args(arguments).args(["--output", "json"]);
        command.env("OUTPOST_CA_DIR", self.path("ca"));
        command.output().unwrap()
    }

    #[track_caller]
    fn ca(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}:\n{stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn a_certificate_is_issued_renewed_and_revoked() {
    let site = Site::new();

    let issued = site.ca(&[
        "issue",
        "mirror",
        "--for",
        "mirror",
        "--host",
        "mirror.example",
    ]);
    assert_eq!(issued[0]["hosts"], serde_json::json!(["mirror.example"]));
    let key = PathBuf::from(issued[0]["key"].as_str().unwrap());
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(key.clone()), 0o600);
    assert_eq!(mode(site.path("ca/root.key")), 0o600);
    assert_eq!(mode(site.path("ca/root.pem")), 0o644);

    assert_eq!(site.ca(&["renew"]), serde_json::json!([]), "none ends soon");
    let renewed = site.ca(&["renew", "--within", "91d"]);
    assert_eq!(renewed.as_array().unwrap().len(), 1);
    assert_ne!(renewed[0]["serial"], issued[0]["serial"]);

    site.ca(&["revoke", "mirror"]);
    assert!(!key.exists());
    let all = site.ca(&["list"]);
    let all = all.as_array().unwrap();
    assert!(
        all.len() == 2 && all.iter().all(|one| one["revoked"].is_string()),
        "{all:?}"
    );
}

#[test]
fn what_an_authority_refuses_says_what_to_do() {
    let site = Site::new();
    site.ca(&["issue", "mirror", "--for", "mirror"]);

    for (arguments, reason) in [
        (&["init"][..], "choose another directory"),
        (
            &["issue", "mirror", "--for", "server"],
            "renew it, or revoke it first",
        ),
        (
            &["issue", "../x", "--for", "server"],
            "cannot be a certificate's name",
        ),
        (
            &["issue", "x", "--for", "server", "--host", "a b"],
            "`a b` is neither an address",
        ),
        (&["renew", "other"], "`outpost ca list` shows all"),
        (&["revoke", "other"], "`outpost ca list` shows all"),
    ] {
        let error = site.refused(arguments);
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
    let output = outpost()
        .args(["ca", "list", "--ca-dir", "/nonexistent"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("`outpost ca init`"), "{error}");
}

/// A server of the site with a certificate by that name, and its address.
fn serving(site: &Site, name: &str) -> (Service, String) {
    let (certificate, key) = (site.path("server.pem"), site.path("server.key"));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let issue = ["issue", name, "--for", "server", "--host", "localhost"];
    site.ca(&[&issue[..], &["--cert-file", certificate, "--key-file", key]].concat());
    let mut command = outpost();
    command.args(["server", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(site.path("data"));
    command.args(["--tls-cert-file", certificate, "--tls-key-file", key]);
    let mut server = Service::start(&mut command);
    let line = server.wait_for("Listening at ");
    let port = line.split("https://127.0.0.1:").nth(1).unwrap();
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    (server, format!("https://localhost:{port}"))
}

#[test]
fn a_revoked_certificate_is_refused_by_who_was_given_the_list() {
    let site = Site::new();
    let (_server, url) = serving(&site, "server");
    let list = |with_list: bool| {
        let mut command = outpost();
        command.args(["template", "list", "--url", &url, "--ca-file"]);
        command.arg(site.path("ca/root.pem")).arg("--token-file");
        command.arg(site.path("data/admin.token"));
        if with_list {
            command.arg("--crl-file").arg(site.path("ca/revoked.pem"));
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), said)
    };

    let before = list(true);
    site.ca(&["revoke", "server"]);
    let (is_done, said) = list(true);
    let without = list(false);
    fs::write(site.path("ca/revoked.pem"), "nothing").unwrap();
    let (_, unreadable) = list(true);

    assert!(before.0 && without.0, "{before:?} {without:?}");
    assert!(
        !is_done && said.contains("Revoked") && said.contains("its authority revoked it"),
        "{said}"
    );
    assert!(unreadable.contains("revoked.pem"), "{unreadable}");
}

/// Terraform is a client in Go, and a network mirror is the plainest thing that it calls by TLS.
#[test]
fn an_engine_believes_a_service_of_ours_once_it_has_the_bundle() {
    let site = Site::new();
    let (_server, url) = serving(&site, "server");
    let bundle = site.path("bundle.pem");
    site.ca(&["bundle", bundle.to_str().unwrap()]);
    let configuration =
        format!("provider_installation {{ network_mirror {{ url = \"{url}/\" }} }}");
    fs::write(site.path("terraform.rc"), configuration).unwrap();
    let template = "terraform {\n required_providers {\n demo = { source = \"registry.example/acme/demo\" }\n }\n}";
    fs::create_dir(site.path("template")).unwrap();
    fs::write(site.path("template/main.tf"), template).unwrap();
    let init = |authorities: Option<PathBuf>| {
        let mut command = Command::new("terraform");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("TF_CLI_CONFIG_FILE", site.path("terraform.rc"));
        command
            .env("CHECKPOINT_DISABLE", "1")
            .env("HTTPS_PROXY", "http://127.0.0.1:1");
        if let Some(authorities) = authorities {
            command.env("SSL_CERT_FILE", authorities);
        }
        let output = command
            .args(["init", "-no-color"])
            .current_dir(site.path("template"))
            .output();
        String::from_utf8_lossy(&output.unwrap().stderr)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };

    let stranger = init(None);
    assert!(
        stranger.contains("certificate signed by unknown authority"),
        "{stranger}"
    );
    // A control plane is no mirror, but one that answers.
    let trusting = init(Some(bundle));
    assert!(
        trusting.contains("was not found in any of the search locations"),
        "{trusting}"
    );
}
