//! What a real engine makes of each answer that a mirror can give, row by row.
//!
//! Every row runs `init` and asserts how it ends, the lock file's bytes, and what the mirror was asked. OpenTofu runs
//! the same rows where `tofu` is on the `PATH`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode, header},
    middleware,
};
use futures::{StreamExt as _, stream};
use outpost::{
    mirror::{
        Generation, Store,
        generation::{Module, Package, Provider},
        serve,
    },
    net::listener::{Limits, Listener},
    stop::Stop,
};

use super::serve::{ELSEWHERE, NO_WAY_OUT, module, sign};
use crate::{daemon::authority, sealed::package, support::skip::skipped};

mod locks;
mod modules;
mod providers;

const HOST: &str = "registry.example";
const VERSION: &str = "2.20.0";

/// Rows that run at a time: they wait for engines, not for each other.
const AT_ONCE: usize = 3;

/// The engines at hand: their programs, and the names they call themselves in a lock file.
fn engines() -> Vec<&'static str> {
    let here = |name: &&str| which::which(name).is_ok();
    let engines: Vec<_> = ["terraform", "tofu"].into_iter().filter(here).collect();
    assert!(engines.contains(&"terraform"), "terraform is on the PATH");
    if !engines.contains(&"tofu") {
        skipped("opentofu", "there is no `tofu` on the PATH");
    }
    engines
}

/// What a mirror answers instead of its own answer.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn json(body: impl Into<String>) -> Self {
        Self::status(200)
            .with("content-type", "application/json")
            .body(body.into())
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

#[derive(Clone)]
struct Script {
    answers: Arc<BTreeMap<String, Answer>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Answered only when the row is over.
    held: Option<&'static str>,
}

/// A request, as far as rows look at it.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    headers: axum::http::HeaderMap,
}

async fn scripted(
    State(script): State<Script>,
    request: Request,
    next: middleware::Next,
) -> Response<Body> {
    let asked = Asked {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        headers: request.headers().clone(),
    };
    let path_and_query = request.uri().path_and_query().unwrap().to_string();
    let exact = format!("{} {}", asked.method, asked.path);
    let answer = [&exact, &path_and_query, &asked.path]
        .into_iter()
        .find_map(|key| script.answers.get(key))
        .cloned();
    let is_held = script.held == Some(asked.path.as_str());
    script.asked.lock().unwrap().push(asked);
    if is_held {
        std::future::pending::<()>().await;
    }
    let Some(answer) = answer else {
        return next.run(request).await;
    };
    let mut response = Response::builder().status(StatusCode::from_u16(answer.status).unwrap());
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body)).unwrap()
}

/// A mirror over TLS for one row, and a directory for its engine.
struct Site {
    dir: tempfile::TempDir,
    package: Package,
    module: Module,
    url: String,
    authority: PathBuf,
    script: Script,
}

impl Site {
    async fn start(
        answers: impl FnOnce(&Package) -> Vec<(String, Answer)>,
        held: Option<&'static str>,
    ) -> Self {
        outpost::net::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let (package, module) = (package(&store, VERSION), module(&store));
        let provider = Provider {
            addr: format!("{HOST}/acme/coder").parse().unwrap(),
            version: VERSION.parse().unwrap(),
            protocols: vec!["5.0".to_owned()],
            signed: Some(sign(&store, &package)),
            packages: vec![package.clone()],
        };
        let generation = Generation {
            providers: vec![provider],
            modules: vec![module.clone()],
            ..Generation::default()
        };
        let lock = store.lock(&Stop::new()).await.unwrap();
        store.commit(generation, None, &lock).unwrap();
        let script = Script {
            answers: Arc::new(answers(&package).into_iter().collect()),
            asked: Arc::default(),
            held,
        };
        let (pem, tls) = authority(dir.path());
        let authority = dir.path().join("authorities.pem");
        fs::write(&authority, pem).unwrap();
        let anywhere = ([127, 0, 0, 1], 0).into();
        let listener = Listener::bind(anywhere, Some(&tls), Limits::standard());
        let listener = listener.await.unwrap();
        let url = listener.url().to_string();
        let router: Router = serve::Server::new(store, serve::Access::default()).router();
        let router = router.layer(middleware::from_fn_with_state(script.clone(), scripted));
        tokio::spawn(listener.serve(router, Stop::new()));
        Self {
            dir,
            package,
            module,
            url,
            authority,
            script,
        }
    }

    /// Host blocks of the registries that the mirror stands in for.
    fn hosts(&self) -> String {
        let url = &self.url;
        format!(
            "host \"{HOST}\" {{\n  services = {{\n    \"providers.v1\" = \"{url}v1/providers/{HOST}/\"\n  }}\n}}\n\
             host \"modules.example\" {{\n  services = {{\n    \"modules.v1\" = \"{url}v1/modules/modules.example/\"\n  }}\n}}\n"
        )
    }

    fn network_mirror(&self, base: &str) -> String {
        let url = base.replace("URL/", &self.url);
        format!("provider_installation {{\n  network_mirror {{\n    url = \"{url}\"\n  }}\n}}\n")
    }

    fn template(&self) -> PathBuf {
        self.dir.path().join("template")
    }

    fn write(&self, template: &str, lock: Option<&str>) {
        let dir = self.template();
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("main.tf"), template).unwrap();
        if let Some(lock) = lock {
            fs::write(dir.join(".terraform.lock.hcl"), lock).unwrap();
        }
    }

    async fn init(
        &self,
        engine: &str,
        config: &str,
        arguments: &[&str],
        cache: Option<&Path>,
    ) -> Output {
        let file = self.dir.path().join("config.tfrc");
        fs::write(&file, config).unwrap();
        let mut command = tokio::process::Command::new(engine);
        command
            .args(["init", "-no-color", "-input=false"])
            .args(arguments)
            .current_dir(self.template())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("TF_CLI_CONFIG_FILE", &file)
            .env("CHECKPOINT_DISABLE", "1")
            .env("HTTPS_PROXY", NO_WAY_OUT)
            .env("SSL_CERT_FILE", &self.authority)
            .env(
                "TF_REGISTRY_CLIENT_TIMEOUT",
                if self.script.held.is_some() {
                    "1"
                } else {
                    "60"
                },
            );
        if let Some(cache) = cache {
            command.env("TF_PLUGIN_CACHE_DIR", cache);
        }
        self.script.asked.lock().unwrap().clear();
        command.output().await.expect("the engine starts")
    }

    /// What was asked, in words of the protocol; OpenTofu does not ask for a package's head, so no row counts it there.
    fn asked(&self, engine: &str) -> String {
        let archive = format!("/blobs/{}/{}", self.package.archive, self.package.filename);
        let layer = format!("/blobs/sha256:{}", self.package.archive);
        let module = format!("/blobs/{}", self.module.archive);
        let names = |asked: &Asked| {
            let path = &asked.path;
            let name = match path.as_str() {
                _ if *path == archive || path.ends_with(&layer) => "archive".to_owned(),
                _ if path.starts_with(&module) => "module".to_owned(),
                _ if path.starts_with("/mirror/") || path.starts_with("/v1/") => {
                    path.rsplit('/').next().unwrap().to_owned()
                }
                _ => path.clone(),
            };
            match asked.method.as_str() {
                "GET" => name,
                method => format!("{method}:{name}"),
            }
        };
        let asked = self.script.asked.lock().unwrap();
        let asked = asked
            .iter()
            .filter(|it| engine == "terraform" || it.method != "HEAD");
        asked.map(names).collect::<Vec<_>>().join(" ")
    }

    fn lock(&self) -> Option<String> {
        fs::read_to_string(self.template().join(".terraform.lock.hcl")).ok()
    }
}

/// A lock file with these hashes, byte for byte as the engine writes it.
fn lock_file(engine: &str, hashes: &[String]) -> String {
    let list: String = hashes.iter().map(|it| format!("    \"{it}\",\n")).collect();
    let hashes = match list.is_empty() {
        true => String::new(),
        false => format!("  hashes = [\n{list}  ]\n"),
    };
    format!(
        "# This file is maintained automatically by \"{engine} init\".\n\
         # Manual edits may be lost in future updates.\n\n\
         provider \"{HOST}/acme/coder\" {{\n  version = \"{VERSION}\"\n{hashes}}}\n"
    )
}

/// What both streams say, on one line, as engines break lines where they please.
fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).replace(['│', '╷', '╵'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs all rows on all engines, and names all that went otherwise.
async fn all<R: Sync, F>(rows: &[R], run: impl Fn(&'static str, usize) -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let runs = engines()
        .into_iter()
        .flat_map(|engine| (0..rows.len()).map(move |row| (engine, row)));
    let ended: Vec<_> = stream::iter(runs.map(|(engine, row)| run(engine, row)))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let otherwise: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(otherwise.is_empty(), "{}", otherwise.join("\n\n"));
}
