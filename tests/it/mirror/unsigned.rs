//! Packages that no publisher signed, for engines on other machines: by the configuration that `mirror config` prints.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Output, Stdio},
    sync::Arc,
};

use outpost::{
    mirror::{
        Remote, Store,
        serve::{Access, Server},
    },
    net::{
        http,
        listener::{Limits, Listener},
        tls,
    },
    registry::Platform,
    secret::Secret,
    stop::Stop,
    terraform::providers::Mode,
};
use tempfile::TempDir;

use super::{
    origin::{Origin, Publisher, package},
    round_trip::{done, quiet, run},
    serve::NO_WAY_OUT,
};
use crate::{
    daemon::authority,
    plugin_cache::{engine_with, planned, presenter},
    support::skip::skipped,
};

const HOST: &str = "registry.example";

/// Puts a package into a directory as `terraform providers mirror` does.
fn put(tree: &Path, addr: &str, version: &str) {
    let kind = addr.rsplit('/').next().unwrap();
    let platform = Platform::current().to_string();
    let name = format!("terraform-provider-{kind}_{version}_{platform}.zip");
    std::fs::create_dir_all(tree.join(addr)).unwrap();
    std::fs::write(
        tree.join(addr).join(name),
        package(kind, version, &platform, 10),
    )
    .unwrap();
}

/// A home with a mirror that has a provider with signatures, one without, one with both kinds of versions, and one of a
/// host that has no registry.
async fn home() -> TempDir {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let dir = TempDir::new().unwrap();
    let platform = Platform::current().to_string();
    let mut config = String::new();
    for kind in ["signed", "mixed"] {
        let addr = format!("{HOST}/acme/{kind}");
        origin.publish(&publisher, &addr, "1.0.0", &[&platform], 10);
        config += &format!("[[providers]]\nsource = \"{addr}\"\n");
    }
    config += &origin.host(HOST);
    std::fs::write(dir.path().join("mirror.toml"), config).unwrap();
    let tree = dir.path().join("tree");
    put(&tree, "registry.example/acme/built", "1.0.0");
    put(&tree, "registry.example/acme/mixed", "1.1.0");
    put(&tree, "internal.example/acme/own", "1.0.0");
    let sync = [
        "mirror",
        "sync",
        "--mirror-dir",
        "mirror",
        "--import-dir",
        "tree",
    ];
    done(&run(dir.path(), &sync));
    dir
}

const ALL: [&str; 4] = [
    "registry.example/acme/signed",
    "registry.example/acme/built",
    "registry.example/acme/mixed",
    "internal.example/acme/own",
];

fn template(sources: &[&str]) -> String {
    let required = sources.iter().enumerate();
    let required: String = required
        .map(|(number, source)| format!("    p{number} = {{ source = \"{source}\" }}\n"))
        .collect();
    format!("terraform {{\n  required_providers {{\n{required}  }}\n}}\n")
}

fn write_template(home: &Path, name: &str, sources: &[&str]) -> PathBuf {
    let dir = home.join(name);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("main.tf"), template(sources)).unwrap();
    dir
}

/// A server, which ends with this at the latest, and its address.
struct Served {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    url: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    /// Serves the mirror of a home.
    fn start(home: &Path, more: &[&str]) -> Self {
        let mut child = quiet(home)
            .args(["mirror", "serve", "--mirror-dir", "mirror"])
            .args(["--listen", "127.0.0.1:0"])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, url) = line.split_once("Serving the mirror at ")?;
            Some(url.trim().to_owned())
        });
        let url = url.expect("it serves");
        Self { child, lines, url }
    }

    /// Ends it, and returns what it said. Whoever was answered before knows that it had said all that it says first.
    fn end(mut self) -> String {
        self.child.kill().unwrap();
        let said = self.lines.by_ref().map(Result::unwrap);
        said.collect::<Vec<_>>().join("\n")
    }
}

/// The configuration for an engine, and what was noted beside it.
fn config(home: &Path, url: &str) -> (PathBuf, String) {
    let output = run(
        home,
        &["mirror", "config", url, "--host", HOST, "--offline"],
    );
    let noted = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{noted}");
    let file = home.join("engine.tfrc");
    std::fs::write(&file, output.stdout).unwrap();
    (file, noted)
}

fn init(engine: &str, home: &Path, template: &Path, config: &Path) -> Output {
    ask(
        engine,
        &["init", "-no-color", "-input=false"],
        home,
        template,
        config,
    )
}

fn ask(engine: &str, arguments: &[&str], home: &Path, template: &Path, config: &Path) -> Output {
    std::process::Command::new(engine)
        .args(arguments)
        .current_dir(template)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("TF_CLI_CONFIG_FILE", config)
        .env("CHECKPOINT_DISABLE", "1")
        .env("HTTPS_PROXY", NO_WAY_OUT)
        .env("SSL_CERT_FILE", home.join("authorities.pem"))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Arguments of a server with a certificate of an authority that engines here trust.
fn encrypted(home: &Path) -> [String; 4] {
    let (pem, tls) = authority(home);
    std::fs::write(home.join("authorities.pem"), pem).unwrap();
    let text = |path: &Path| path.display().to_string();
    [
        "--tls-cert-file".to_owned(),
        text(&tls.certificate),
        "--tls-key-file".to_owned(),
        text(&tls.key),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_installs_what_nobody_signed_by_the_configuration_that_is_printed() {
    let dir = home().await;
    let home = dir.path();
    let tls = encrypted(home);
    let served = Served::start(home, &tls.each_ref().map(String::as_str));
    let (config, noted) = config(home, &served.url);
    assert_eq!(noted, "");

    for engine in ["terraform", "tofu"] {
        if which::which(engine).is_err() {
            assert_eq!(engine, "tofu", "terraform is on the PATH");
            skipped("opentofu", "there is no `tofu` on the PATH");
            continue;
        }
        let template = write_template(home, engine, &ALL);
        let output = init(engine, home, &template, &config);

        assert!(output.status.success(), "{}", said(&output));
        let lock = std::fs::read_to_string(template.join(".terraform.lock.hcl")).unwrap();
        let of = |addr: &str| {
            let block = lock.split("provider ").find(|block| block.contains(addr));
            block
                .unwrap_or_else(|| panic!("no {addr} in {lock}"))
                .to_owned()
        };
        // What a publisher signed is still installed as from its registry, with all that it signed.
        assert!(of("acme/signed").contains("zh:"), "{lock}");
        assert!(of("acme/mixed").contains("1.1.0"), "{lock}");
        assert!(of("acme/own").contains("h1:"), "{lock}");

        // This command asks registries alone, unless it is told otherwise.
        let template = write_template(home, &format!("{engine}-lock"), &ALL);
        let from = format!("-net-mirror={}mirror/", served.url);
        let arguments = ["providers", "lock", "-no-color", &from];
        let output = ask(engine, &arguments, home, &template, &config);
        assert!(output.status.success(), "{}", said(&output));
    }

    let client = reqwest::Client::builder()
        .no_proxy()
        .danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    let missing = client.get(format!("{}api/missing", served.url));
    let missing = missing.send().await.unwrap().text().await.unwrap();
    assert_eq!(missing, r#"{"missing":[]}"#, "nothing is missing");
    let noted = served.end();
    let expected = "3 provider versions have no publisher's signature";
    assert!(noted.contains(expected), "{noted}");
    let doctor = ["mirror", "doctor", "--mirror-dir", "mirror", "terraform"];
    let told = done(&run(home, &doctor));
    assert_eq!(
        told.matches("without a publisher's signature").count(),
        3,
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_everybody_is_told_what_will_not_work_and_the_rest_does() {
    let dir = home().await;
    let home = dir.path();
    let served = Served::start(home, &[]);
    let (config, noted) = config(home, &served.url);

    assert!(noted.contains("--tls-cert-file"), "{noted}");
    let signed = write_template(home, "signed", &ALL[..1]);
    let output = init("terraform", home, &signed, &config);
    assert!(output.status.success(), "{}", said(&output));
    let built = write_template(home, "built", &ALL[1..2]);
    let output = init("terraform", home, &built, &config);
    assert!(!output.status.success(), "{}", said(&output));
    let path = format!("v1/providers/{HOST}/acme/built/versions");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{}{path}", served.url)).send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 404);
    let why = answer.text().await.unwrap();
    assert!(why.contains("outpost mirror config"), "{why}");
    let noted = served.end();
    assert!(noted.contains("--tls-cert-file"), "{noted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_with_a_served_mirror_installs_what_nobody_signed_or_says_why_not() {
    let dir = home().await;
    let store = Store::open(&dir.path().join("mirror")).unwrap();
    let token = Secret::new("0123456789abcdef");
    let (pem, certificate) = authority(dir.path());
    let authorities = dir.path().join("authorities.pem");
    std::fs::write(&authorities, pem).unwrap();
    let anywhere = ([127, 0, 0, 1], 0).into();
    for (certificate, is_sealed) in [
        (Some(&certificate), true),
        (Some(&certificate), false),
        (None, true),
    ] {
        let listener = Listener::bind(anywhere, certificate, Limits::standard());
        let listener = listener.await.unwrap();
        let mut client = http::Config::new(listener.url());
        client.trust = tls::Trust {
            extra: vec![authorities.clone()],
            ..tls::Trust::default()
        };
        let server = Server::new(store.clone(), Access::tokens(vec![token.clone()]));
        tokio::spawn(listener.serve(server.router(), Stop::new()));
        let remote = Remote::new(http::Client::new(client).unwrap(), Some(token.clone()));
        let presenter = presenter(dir.path(), Mode::Builtin)
            .with_mirror(Some(Arc::new(remote)))
            .sealed(is_sealed);
        let engine = engine_with(dir.path(), presenter, |environment| {
            environment.set("HTTPS_PROXY", NO_WAY_OUT);
            environment.set("SSL_CERT_FILE", &authorities);
        });

        let (ended, log) = planned(&engine, &[("main.tf", &template(&ALL))]).await;

        match certificate {
            Some(_) => ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}")),
            None => {
                ended.unwrap_err();
                let of = |kind: &str| format!("has {kind} without a publisher's signature");
                assert!(
                    log.contains(&of(ALL[1])) && log.contains(&of(ALL[3])),
                    "{log}"
                );
                assert!(!log.contains(&of(ALL[0])), "{log}");
            }
        }
    }
}
