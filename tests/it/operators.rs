//! What operators have arranged as Coder's documentation tells them: it keeps working, with a mirror of ours and without.
//!
//! # Source
//! <https://coder.com/docs/install/airgap>, <https://coder.com/docs/install/registry-mirror-artifactory>

use std::{ffi::OsString, fs, path::Path, sync::Arc};

use outpost::{
    mirror::{Generation, Packages, Store, generation::Provider, serve},
    net::listener::{Limits, Listener},
    registry::Platform,
    secret::Secret,
    stop::Stop,
    terraform::{Engine, providers::Mode},
};

use crate::{
    daemon::authority,
    mirror::serve::module,
    plugin_cache::{engine_with, planned, presenter_for},
    sealed::package,
};

const TOKEN: &str = "0123456789abcdef";

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
"#;

/// A machine of an operator: a home with a CLI configuration, and perhaps a mirror of ours.
struct Machine {
    dir: tempfile::TempDir,
    mirror: Option<Arc<Packages>>,
    /// Authorities for everything that the engine starts.
    authorities: Option<Vec<u8>>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        Self {
            dir,
            mirror: None,
            authorities: None,
        }
    }

    fn configure(&self, text: &str) {
        fs::write(self.dir.path().join("home/.terraformrc"), text).unwrap();
    }

    /// An engine of a daemon, which takes `coder/coder` from wherever the operator says.
    fn engine(&self) -> Engine {
        let home = self.dir.path().join("home").into_os_string();
        let environment =
            move |name: &str| -> Option<OsString> { (name == "HOME").then(|| home.clone()) };
        let mirror = self.mirror.clone();
        let presenter = presenter_for(self.dir.path(), Mode::Registry, environment)
            .with_mirror(mirror.map(|mirror| mirror as _));
        let authorities = self.dir.path().join("authorities.pem");
        if let Some(pem) = &self.authorities {
            fs::write(&authorities, pem).unwrap();
        }
        engine_with(self.dir.path(), presenter, |environment| {
            environment.set("HOME", self.dir.path().join("home"));
            environment.set("HTTPS_PROXY", "http://127.0.0.1:9");
            environment.set("SSL_CERT_FILE", &authorities);
        })
    }

    async fn plan(&self, template: &str) -> String {
        let (ended, log) = planned(&self.engine(), &[("main.tf", template)]).await;
        ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
        log
    }
}

/// A store with `coder/coder` and a module.
async fn filled(dir: &Path) -> Store {
    let store = Store::open(dir).unwrap();
    let provider = Provider {
        addr: "registry.terraform.io/coder/coder".parse().unwrap(),
        version: "2.20.0".parse().unwrap(),
        protocols: vec!["6.0".to_owned()],
        signed: None,
        packages: vec![package(&store, "2.20.0")],
    };
    let generation = Generation {
        providers: vec![provider],
        modules: vec![module(&store)],
        ..Generation::default()
    };
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
    store
}

fn ours(store: &Store) -> Arc<Packages> {
    Arc::new(Packages {
        store: store.clone(),
        platform: Platform::current(),
        server: None,
        max_unpacked_bytes: None,
        is_sealed: false,
    })
}

/// Somebody else's server over TLS: its address, and its authority's certificate.
async fn elsewhere(dir: &Path, store: Store, access: serve::Access) -> (String, Vec<u8>) {
    let (authority, tls) = authority(dir);
    let anywhere = ([127, 0, 0, 1], 0).into();
    let listener = Listener::bind(anywhere, Some(&tls), Limits::standard());
    let listener = listener.await.unwrap();
    let url = listener.url().to_string();
    let router = serve::Server::new(store, access).router();
    tokio::spawn(listener.serve(router, Stop::new()));
    (url, authority)
}

#[tokio::test]
async fn a_filesystem_mirror_in_the_image_stays_in_force() {
    let mut machine = Machine::new();
    let store = filled(&machine.dir.path().join("store")).await;
    let plugins = machine.dir.path().join("home/.terraform.d/plugins");
    let place = plugins.join("registry.terraform.io/coder/coder");
    fs::create_dir_all(&place).unwrap();
    let package = package(&store, "2.19.0");
    let name = package.filename.replace("2.20.0", "2.19.0");
    fs::copy(store.path(package.archive), place.join(name)).unwrap();
    let path = plugins.display();
    machine.configure(&format!(
        "provider_installation {{\n  filesystem_mirror {{\n    path = \"{path}\"\n  }}\n}}\n"
    ));

    let alone = machine.plan(TEMPLATE).await;
    machine.mirror = Some(ours(&store));
    let beside_ours = machine.plan(TEMPLATE).await;

    for log in [&alone, &beside_ours] {
        assert!(log.contains("coder/coder v2.19.0"), "{log}");
    }
    assert!(!alone.contains("the mirror is not used"), "{alone}");
    assert!(
        beside_ours.contains("the mirror is not used"),
        "{beside_ours}"
    );
}

// The server answers while the daemon's side works: engines wait ten seconds for an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_mirror_of_the_operator_stays_in_force() {
    let mut machine = Machine::new();
    let dir = machine.dir.path();
    let store = filled(&dir.join("store")).await;
    let (url, authority) = elsewhere(dir, store, serve::Access::default()).await;
    machine.authorities = Some(authority);
    machine.configure(&format!(
        "provider_installation {{\n  network_mirror {{\n    url = \"{url}mirror/\"\n  }}\n}}\n"
    ));

    let log = machine.plan(TEMPLATE).await;

    assert!(log.contains("coder/coder v2.20.0"), "{log}");
}

// The server answers while the daemon's side works: engines wait ten seconds for an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_of_artifactory_come_from_there_with_its_token_beside_a_mirror_of_ours() {
    let mut machine = Machine::new();
    let dir = machine.dir.path();
    let store = filled(&dir.join("store")).await;
    machine.mirror = Some(ours(&store));
    let access = serve::Access::tokens(vec![Secret::new(TOKEN)]);
    let (url, authority) = elsewhere(dir, store, access).await;
    machine.authorities = Some(authority);
    machine.configure(&format!(
        "host \"artifactory.example\" {{\n  services = {{\n    \"modules.v1\" = \"{url}v1/modules/modules.example/\"\n  }}\n}}\n\
         credentials \"artifactory.example\" {{\n  token = \"{TOKEN}\"\n}}\n"
    ));
    let template = format!(
        "{TEMPLATE}\nmodule \"hello\" {{\n  source  = \"artifactory.example/acme/hello/coder\"\n  version = \"1.2.0\"\n}}\n"
    );

    let log = machine.plan(&template).await;

    assert!(
        log.contains("artifactory.example/acme/hello/coder 1.2.0"),
        "{log}"
    );
    assert!(log.contains("coder/coder v2.20.0"), "{log}");
    assert!(!log.contains(TOKEN), "{log}");
}
