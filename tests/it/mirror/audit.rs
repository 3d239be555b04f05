//! Who fetched what of a served mirror, by its audit log.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::{
    mirror::{
        Generation, Store,
        generation::Provider,
        serve::{Access, Audit, Proxy, Server},
    },
    net::listener::{Limits, Listener},
    secret::Secret,
    stop::Stop,
};
use tempfile::TempDir;

use super::{
    round_trip::quiet,
    serve::{NO_WAY_OUT, sign},
};
use crate::sealed::{ARCHIVE, package, with_archive};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_is_logged_with_the_name_of_its_clients_token_and_no_secret() {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    outpost::net::install_crypto_provider();
    let store = Store::open(&home.join("mirror")).unwrap();
    let package = package(&store, "1.0.0");
    let provider = Provider {
        addr: "registry.terraform.io/acme/coder".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        protocols: vec!["6.0".to_owned()],
        signed: Some(sign(&store, &package)),
        packages: vec![package.clone()],
    };
    let generation = Generation {
        providers: vec![provider],
        ..Generation::default()
    };
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
    drop(lock);
    std::fs::write(
        home.join("tokens"),
        "ann 0123456789abcdef\nbob fedcba9876543210\n",
    )
    .unwrap();
    let mut serving = quiet(home)
        .args(["mirror", "serve", "--mirror-dir", "mirror"])
        .args(["--listen", "127.0.0.1:0", "--token-file", "tokens"])
        .args(["--audit-file", "audit.jsonl"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(serving.stderr.take().unwrap()).lines();
    let url = lines.find_map(|line| {
        let line = line.unwrap();
        let (_, url) = line.split_once("Serving the mirror at ")?;
        Some(url.trim().to_owned())
    });
    let url = url.unwrap();

    std::fs::create_dir(home.join("template")).unwrap();
    let template =
        "terraform {\n  required_providers {\n    acme = { source = \"acme/coder\" }\n  }\n}\n";
    std::fs::write(home.join("template/main.tf"), template).unwrap();
    let config = format!(
        "host \"registry.terraform.io\" {{\n  services = {{\n    \
         \"providers.v1\" = \"{url}v1/providers/registry.terraform.io/\"\n  }}\n}}\n\
         credentials \"registry.terraform.io\" {{\n  token = \"fedcba9876543210\"\n}}\n"
    );
    std::fs::write(home.join("engine.tfrc"), config).unwrap();
    let output = tokio::process::Command::new("terraform")
        .args(["init", "-no-color", "-input=false"])
        .current_dir(home.join("template"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("TF_CLI_CONFIG_FILE", home.join("engine.tfrc"))
        .env("CHECKPOINT_DISABLE", "1")
        .env("HTTPS_PROXY", NO_WAY_OUT)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let refused = reqwest::Client::builder().no_proxy().build().unwrap();
    let refused = refused.get(format!("{url}v1/hosts")).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    kill(Pid::from_raw(serving.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(serving.wait().unwrap().success());

    let text = std::fs::read_to_string(home.join("audit.jsonl")).unwrap();
    for secret in ["0123456789abcdef", "fedcba9876543210", "s="] {
        assert!(!text.contains(secret), "{text}");
    }
    let lines = text.lines();
    let lines: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let path = format!("/blobs/{}/{}", package.archive, package.filename);
    let is_download = |line: &&serde_json::Value| line["path"] == path && line["method"] == "GET";
    let download = lines.iter().find(is_download);
    let download = download.unwrap_or_else(|| panic!("{text}"));
    assert_eq!(download["token"], "bob", "{download}");
    assert_eq!(download["address"], "127.0.0.1", "{download}");
    assert_eq!(download["bytes"], package.size, "{download}");
    assert_eq!(download["status"], 200, "{download}");
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["path"], &last["status"]),
        (&"/v1/hosts".into(), &401.into())
    );
    assert!(last.get("token").is_none(), "{last}");
}

#[tokio::test]
async fn a_request_through_the_proxy_is_logged_with_the_address_that_its_client_asked_for() {
    outpost::net::install_crypto_provider();
    let dir = TempDir::new().unwrap();
    let store = with_archive(dir.path()).await;
    let size = store.newest().unwrap().1.files[0].size;
    let log = dir.path().join("audit.jsonl");
    let (audit, writer) = Audit::open(&log).unwrap();
    let access = Access::named(vec![("bob".to_owned(), Secret::new("0123456789abcdef"))]);
    let server = Server::new(store, access).with_audit(audit);
    let authority = dir.path().join("proxy");
    let proxy = Proxy::new(&server, &authority).unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let listener = Listener::bind(listen, None, Limits::standard())
        .await
        .unwrap();
    let url = listener.url();
    let listening = tokio::spawn(listener.serve(proxy.router(), Stop::new()));
    let root = std::fs::read(outpost::net::ca::root_file(&authority)).unwrap();
    let root = reqwest::Certificate::from_pem(&root).unwrap();
    let through = reqwest::Proxy::https(url).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([root])
        .proxy(through.basic_auth("x", "0123456789abcdef"))
        .user_agent("go-getter")
        .build()
        .unwrap();

    let got = client
        .get(format!("{ARCHIVE}?token=s3cret"))
        .send()
        .await
        .unwrap();
    assert_eq!(got.status(), 200);
    assert_eq!(got.bytes().await.unwrap().len() as u64, size);
    let gone = client
        .get("https://archives.example/gone.zip")
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 404);
    drop((client, listening, server, proxy));
    writer.run(std::future::ready(())).await;

    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        !text.contains("s3cret") && !text.contains("0123456789abcdef"),
        "{text}"
    );
    let lines = text.lines();
    let lines: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let gone = "https://archives.example/gone.zip";
    for (line, path, status, bytes) in [
        (&lines[0], ARCHIVE, 200, Some(size)),
        (&lines[1], gone, 404, None),
    ] {
        assert_eq!(line["path"], path, "{line}");
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["token"], "bob", "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        assert_eq!(line["agent"], "go-getter", "{line}");
        if let Some(bytes) = bytes {
            assert_eq!(line["bytes"], bytes, "{line}");
        }
    }
    assert_eq!(lines.len(), 2, "{text}");
}
