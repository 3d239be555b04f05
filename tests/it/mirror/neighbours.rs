//! What is the operator's and stays so while a mirror is used: the plugin cache, and tokens for registries.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex},
};

use axum::{extract::Request, middleware};
use outpost::{
    mirror::{
        Generation, Packages, Remote, Store,
        generation::Provider,
        serve::{Access, Server},
    },
    net::http,
    provision::{LinkSink, ProviderStore, ProviderView, WantedProvider},
    registry::{Platform, ProviderAddr},
    secret::Secret,
    stop::Stop,
    terraform::{Environment, providers::Mode},
};
use tempfile::TempDir;

use super::{
    round_trip::quiet,
    serve::{NO_WAY_OUT, module, sign},
};
use crate::{
    plugin_cache::{engine_with, planned, presenter_for},
    sealed::package,
};

const ADDR: &str = "registry.terraform.io/acme/coder";

/// A template with a provider of the mirror and the built-in one.
const TEMPLATE: &str = r#"
terraform {
  required_providers {
    acme  = { source = "acme/coder" }
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "builtin" {}
data "coder_workspace" "mirrored" { provider = acme }
"#;

async fn commit(store: &Store, generation: Generation) {
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
}

/// A mirror with a provider and a module.
async fn mirror(dir: &Path) -> Store {
    let store = Store::open(&dir.join("mirror")).unwrap();
    let package = package(&store, "1.0.0");
    let provider = Provider {
        addr: ADDR.parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        protocols: vec!["6.0".to_owned()],
        signed: Some(sign(&store, &package)),
        packages: vec![package],
    };
    let generation = Generation {
        providers: vec![provider],
        modules: vec![module(&store)],
        ..Generation::default()
    };
    commit(&store, generation).await;
    store
}

/// Everything in a directory, links among them, by its path below it.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() && !path.is_symlink() {
            true => found.extend(entries(&path)),
            false => found.push(path),
        }
    }
    found
}

/// An engine without anything of ours, with a plugin cache and a directory of packages.
fn plain_init(home: &Path, cache: &Path, template: &Path, store: &Store) -> Output {
    let packages = home.join("packages");
    let dir = packages.join(ADDR);
    fs::create_dir_all(&dir).unwrap();
    let generation = store.newest().unwrap().1;
    let package = &generation.providers[0].packages[0];
    fs::copy(store.path(package.archive), dir.join(&package.filename)).unwrap();
    let config = format!(
        "provider_installation {{\n  filesystem_mirror {{\n    path = \"{}\"\n  }}\n}}\n",
        packages.display()
    );
    fs::write(home.join("plain.tfrc"), config).unwrap();
    std::process::Command::new("terraform")
        .args(["init", "-no-color", "-input=false"])
        .current_dir(template)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("TF_CLI_CONFIG_FILE", home.join("plain.tfrc"))
        .env("TF_PLUGIN_CACHE_DIR", cache)
        .env("CHECKPOINT_DISABLE", "1")
        .env("HTTPS_PROXY", NO_WAY_OUT)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_plugin_cache_gets_nothing_of_a_mirror_and_goes_on_to_work() {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    let store = mirror(home).await;
    let template = home.join("template");
    fs::create_dir(&template).unwrap();
    fs::write(template.join("main.tf"), TEMPLATE).unwrap();
    let plain = home.join("plain");
    fs::create_dir(&plain).unwrap();
    let required =
        "terraform {\n  required_providers {\n    acme = { source = \"acme/coder\" }\n  }\n}\n";
    fs::write(plain.join("main.tf"), required).unwrap();

    // By a variable, by the configuration, and by the configuration as its documentation shows it.
    for (name, is_variable) in [("variable", true), ("file", false), ("home", false)] {
        let cache = home.join(name);
        fs::create_dir(&cache).unwrap();
        let line = match name {
            "home" => "plugin_cache_dir = \"$HOME/home\"\n".to_owned(),
            _ => format!("plugin_cache_dir = \"{}\"\n", cache.display()),
        };
        fs::write(
            home.join(".terraformrc"),
            if is_variable { "" } else { line.as_str() },
        )
        .unwrap();
        for (isolation, source) in [("none", "builtin"), ("auto", "builtin"), ("none", "auto")] {
            let mut command = quiet(home);
            command
                .args(["inspect", "--output", "json", "--sealed"])
                .args(["--isolation", isolation, "--coder-provider", source])
                .args(["--mirror", "mirror", "template"]);
            if is_variable {
                command.env("TF_PLUGIN_CACHE_DIR", &cache);
            }
            let output = command.output().unwrap();

            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success(),
                "{name} {isolation} {source}: {said}"
            );
            let found = entries(&cache);
            assert!(found.is_empty(), "{name} {isolation} {source}: {found:?}");
        }
        let _ = fs::remove_dir_all(plain.join(".terraform"));
        let output = plain_init(home, &cache, &plain, &store);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {said}");
    }
}

/// A mirror that keeps the headers of what it is asked.
struct Recorder {
    url: url::Url,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Recorder {
    async fn start(store: Store, access: Access) -> Self {
        outpost::net::install_crypto_provider();
        let seen = Arc::<Mutex<Vec<(String, String)>>>::default();
        let log = Arc::clone(&seen);
        let note = move |request: Request, next: middleware::Next| {
            let headers = format!("{:?}", request.headers());
            let authorization = request.headers().get("authorization");
            let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
            let line = (
                request.uri().path().to_owned(),
                authorization.unwrap_or_default() + " " + &headers,
            );
            log.lock().unwrap().push(line);
            next.run(request)
        };
        let routes = Server::new(store, access).router();
        let routes = routes.layer(middleware::from_fn(note));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self {
            url: url.parse().unwrap(),
            seen,
        }
    }

    /// What it was asked since the last call.
    fn taken(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// A mirror's directory whose server on the loopback device is the one that keeps headers.
struct Directory {
    packages: Packages,
    server: url::Url,
}

impl ProviderStore for Directory {
    fn place(&self) -> String {
        self.packages.place()
    }

    fn view(
        &self,
        dir: &dyn LinkSink,
        wanted: &std::collections::BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>> {
        let mut view = self.packages.view(dir, wanted)?;
        let modules = format!("{}v1/modules/modules.example/", self.server);
        let services = [("modules.v1".to_owned(), modules)].into();
        view.services = [("modules.example".to_owned(), services)].into();
        Ok(view)
    }
}

const SECRET: &str = "the-operators-own";
const OURS: &str = "0123456789abcdef";

/// A way to tell an engine a token for the host of the module, and a variable that belongs to it.
type Way = (&'static str, &'static [(&'static str, &'static str)]);

const WAYS: [Way; 7] = [
    (
        "credentials \"modules.example\" {\n  token = \"the-operators-own\"\n}\n",
        &[],
    ),
    (
        "credentials \"Modules.Example\" {\n  token = \"the-operators-own\"\n}\n",
        &[],
    ),
    ("", &[("TF_TOKEN_modules_example", SECRET)]),
    ("", &[("TF_TOKEN_modules.example", SECRET)]),
    ("", &[("TF_TOKEN_MODULES_EXAMPLE", SECRET)]),
    ("credentials_helper \"store\" {\n  args = []\n}\n", &[]),
    (
        "credentials_helper \"store\" {\n  args = []\n}\ncredentials \"modules.example\" {\n  token = \"the-operators-own\"\n}\n",
        &[("TF_TOKEN_modules_example", SECRET)],
    ),
];

/// A program that gives away the same token for every host.
fn install_helper(home: &Path) {
    let dir = home.join(".terraform.d/plugins");
    fs::create_dir_all(&dir).unwrap();
    let helper = dir.join("terraform-credentials-store");
    fs::write(
        &helper,
        format!("#!/bin/sh\necho '{{\"token\":\"{SECRET}\"}}'\n"),
    )
    .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_tokens_for_a_registry_are_never_shown_to_a_mirror() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    install_helper(&home);
    let store = mirror(dir.path()).await;
    let open = Recorder::start(store.clone(), Access::default()).await;
    let closed = Access::tokens(vec![Secret::new(OURS)]);
    let closed = Recorder::start(store.clone(), closed).await;
    let remote = |recorder: &Recorder, token: Option<&str>| {
        let client = http::Client::new(http::Config::new(recorder.url.clone())).unwrap();
        Arc::new(Remote::new(client, token.map(Secret::new)))
    };
    let directory = Arc::new(Directory {
        packages: Packages {
            store,
            platform: Platform::current(),
            server: None,
            max_unpacked_bytes: None,
            is_sealed: true,
        },
        server: open.url.clone(),
    });
    let mirrors: [(&Recorder, Arc<dyn ProviderStore>, &str); 3] = [
        (&open, remote(&open, None), ""),
        (
            &closed,
            remote(&closed, Some(OURS)),
            "Bearer 0123456789abcdef",
        ),
        (&open, directory, ""),
    ];
    let template = "module \"hello\" {\n  source  = \"modules.example/acme/hello/coder\"\n  version = \"~> 1.0\"\n}\n";

    for (config, variables) in WAYS {
        for (number, (recorder, mirror, expected)) in mirrors.iter().enumerate() {
            fs::write(home.join(".terraformrc"), config).unwrap();
            let found = home.clone().into_os_string();
            let environment =
                move |name: &str| -> Option<OsString> { (name == "HOME").then(|| found.clone()) };
            let presenter = presenter_for(dir.path(), Mode::Registry, environment)
                .with_mirror(Some(Arc::clone(mirror)))
                .sealed(true);
            let engine = engine_with(dir.path(), presenter, |it: &mut Environment| {
                it.set("HOME", &home);
                it.set("HTTPS_PROXY", NO_WAY_OUT);
                variables
                    .iter()
                    .for_each(|(name, value)| it.set(*name, *value));
            });
            recorder.taken();

            let (ended, log) = planned(&engine, &[("main.tf", template)]).await;

            let way = format!("{config:?} {variables:?} {number}");
            ended.unwrap_or_else(|failure| panic!("{way}: {failure:?}\n{log}"));
            let seen = recorder.taken();
            let of_module = seen
                .iter()
                .filter(|(path, _)| path.starts_with("/v1/modules/"));
            assert!(of_module.clone().count() >= 2, "{way}: {seen:?}");
            for (path, headers) in &seen {
                assert!(!headers.contains(SECRET), "{way}: {path} {headers}");
            }
            for (path, headers) in of_module {
                let authorization = headers.split(" {").next().unwrap();
                assert_eq!(authorization, *expected, "{way}: {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_shows_the_place_of_a_registry_the_token_for_that_place() {
    let dir = TempDir::new().unwrap();
    let store = mirror(dir.path()).await;
    let access = Access::tokens(vec![Secret::new(OURS)]);
    let recorder = Recorder::start(store, access).await;
    let url = &recorder.url;
    let config = format!(
        "[[providers]]\nsource = \"{ADDR}\"\n[hosts.\"registry.terraform.io\"]\n\
         \"providers.v1\" = \"{url}v1/providers/registry.terraform.io/\"\n"
    );
    fs::write(dir.path().join("mirror.toml"), config).unwrap();

    let output = quiet(dir.path())
        .args(["mirror", "sync", "--mirror-dir", "inside"])
        .env("TF_TOKEN_registry_terraform_io", SECRET)
        .env("TF_TOKEN_127_0_0_1", OURS)
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let seen = recorder.taken();
    assert!(
        seen.iter().any(|(path, _)| path.ends_with("/versions")),
        "{seen:?}"
    );
    assert!(
        seen.iter().all(|(_, headers)| !headers.contains(SECRET)),
        "{seen:?}"
    );
}
