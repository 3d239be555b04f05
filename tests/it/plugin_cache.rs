//! Sessions of a real engine that share a plugin cache: what one installs, the others run.

use std::{ffi::OsString, fs, path::Path, sync::Arc};

use futures::future::join_all;
use outpost::{
    language::cli_config,
    mirror::builtin::BuiltinPackages,
    provision::{ApplyRequest, InitRequest, PlanRequest, Provisioner as _, StepFailure},
    stop::Stop,
    terraform::{
        Engine, EngineConfig, Environment, binary,
        providers::{Mode, Presenter},
    },
};

use crate::{
    engine::{Log, tar},
    mirror::origin::{Origin, Publisher},
    support::engine::{engine_config, host_environment, session_config},
};

/// As many jobs as a small daemon has slots, a few times each.
const SESSIONS: usize = 6;
const ROUNDS: usize = 3;

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
output "name" { value = data.coder_workspace.me.name }
"#;

fn engine(dir: &Path) -> Engine {
    engine_with(dir, presenter(dir, Mode::Builtin), |_| {})
}

/// Presents the built-in provider in `mode`, whatever the operator of this machine has arranged.
pub fn presenter(dir: &Path, mode: Mode) -> Presenter {
    presenter_for(dir, mode, |_| None)
}

/// The same for a machine with these variables.
pub fn presenter_for(
    dir: &Path,
    mode: Mode,
    environment: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
) -> Presenter {
    let packages = BuiltinPackages {
        dir: dir.join("builtin"),
        executable: env!("CARGO_BIN_EXE_outpost").into(),
    };
    Presenter::new(
        mode,
        cli_config::Engine::Terraform,
        Arc::new(packages),
        environment,
    )
}

/// A real engine that finds its providers by `providers`.
pub fn engine_with(
    dir: &Path,
    providers: Presenter,
    change: impl FnOnce(&mut Environment),
) -> Engine {
    let mut environment = host_environment();
    change(&mut environment);
    let binary = binary::find(&std::env::var_os("PATH").unwrap()).unwrap();
    Engine::new(EngineConfig {
        plugin_cache_dir: Some(dir.join("plugins")),
        providers: Arc::new(providers),
        ..engine_config(binary, dir.join("work"), environment)
    })
}

async fn plan(engine: &Engine, files: &[(&str, &str)]) -> Result<(), StepFailure> {
    planned(engine, files).await.0
}

/// How init and plan of a template end, and what the job's log says.
pub async fn planned(engine: &Engine, files: &[(&str, &str)]) -> (Result<(), StepFailure>, String) {
    session(engine, files, false).await
}

/// The same with apply behind it.
pub async fn built(engine: &Engine, files: &[(&str, &str)]) -> (Result<(), StepFailure>, String) {
    session(engine, files, true).await
}

async fn session(
    engine: &Engine,
    files: &[(&str, &str)],
    applies: bool,
) -> (Result<(), StepFailure>, String) {
    of_archive(engine, tar(files), true, applies).await
}

async fn of_archive(
    engine: &Engine,
    template_archive: bytes::Bytes,
    plans: bool,
    applies: bool,
) -> (Result<(), StepFailure>, String) {
    let mut session = engine.open(session_config()).await.unwrap();
    let (log, stop) = (Log::new(), Stop::new());
    let request = InitRequest {
        template_archive,
        ..InitRequest::default()
    };
    let mut ended = session.init(request, log.clone(), &stop).await.map(drop);
    if plans && ended.is_ok() {
        let request = PlanRequest::default();
        ended = session.plan(request, log.clone(), &stop).await.map(drop);
    }
    if applies && ended.is_ok() {
        let request = ApplyRequest::default();
        let applied = session.apply(request, log.clone(), &stop).await;
        ended = applied.failure.map_or(Ok(()), Err);
    }
    session.close().await;
    (ended, log.all())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_installs_disturbs_none_that_plans() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());

    let sessions = (0..SESSIONS).map(async |_| {
        for _ in 0..ROUNDS {
            plan(&engine, &[("main.tf", TEMPLATE)]).await?;
        }
        Ok(())
    });
    let ended: Vec<Result<(), StepFailure>> = join_all(sessions).await;

    let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_with_a_lock_file_leaves_the_shared_cache_alone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let lock = "provider \"registry.terraform.io/coder/coder\" {\n  version = \"2.19.0\"\n}\n";
    let files = [("main.tf", TEMPLATE), (".terraform.lock.hcl", lock)];

    plan(&engine, &files).await.unwrap();

    assert!(fs::metadata(dir.path().join("plugins")).is_err());
}

/// An engine whose providers of `registry.example` come from an origin, with signatures.
struct Site {
    dir: tempfile::TempDir,
    origin: Origin,
    publisher: Publisher,
}

impl Site {
    async fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            origin: Origin::start().await,
            publisher: Publisher::new(),
        }
    }

    fn engine(&self, change: impl FnOnce(&mut Environment)) -> Engine {
        let (path, url) = (self.dir.path().join("cli.tfrc"), &self.origin.url);
        let config = format!(
            "host \"registry.example\" {{\n  services = {{\n    \
             \"providers.v1\" = \"{url}/registry.example/providers/\"\n  }}\n}}\n"
        );
        fs::write(&path, config).unwrap();
        engine_with(
            self.dir.path(),
            presenter(self.dir.path(), Mode::Registry),
            |environment| {
                environment.set("TF_CLI_CONFIG_FILE", &path);
                change(environment);
            },
        )
    }

    fn publish(&self, kind: &str) {
        let platform = outpost::registry::Platform::current().to_string();
        let addr = format!("registry.example/acme/{kind}");
        self.origin
            .publish(&self.publisher, &addr, "1.0.0", &[&platform], 1000);
    }

    fn shared(&self) -> Vec<std::path::PathBuf> {
        let place = self
            .dir
            .path()
            .join("plugins/registry/registry.example/acme");
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let mut kinds: Vec<_> = entries.map(|entry| entry.path()).collect();
        kinds.sort_unstable();
        kinds
    }
}

fn asks_for(kind: &str) -> String {
    format!(
        "terraform {{\n  required_providers {{\n    {kind} = {{ source = \"registry.example/acme/{kind}\" }}\n  }}\n}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_registry_signed_is_downloaded_once() {
    let site = Site::new().await;
    site.publish("signed");
    let engine = site.engine(|_| {});
    let template = asks_for("signed");
    let archive = tar(&[("main.tf", &template)]);

    let (first, log) = of_archive(&engine, archive.clone(), false, false).await;
    first.unwrap_or_else(|error| panic!("{error:?}: {log}"));
    assert_eq!(site.shared().len(), 1);
    site.origin
        .fail(".zip", crate::mirror::origin::Fault::Status(503, 100));
    let (second, log) = of_archive(&engine, archive, false, false).await;

    second.unwrap_or_else(|error| panic!("{error:?}: {log}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_that_a_template_brings_along_stays_its_own() {
    let site = Site::new().await;
    let engine = site.engine(|_| {});
    let platform = outpost::registry::Platform::current();
    let name = format!(
        "terraform.d/plugins/registry.example/acme/evil/terraform-provider-evil_1.0.0_{platform}.zip"
    );
    let template = asks_for("evil");
    let zip = crate::mirror::origin::package("evil", "1.0.0", &platform.to_string(), 10);
    let mut brought = tar::Builder::new(Vec::new());
    for (name, content) in [("main.tf", template.as_bytes()), (name.as_str(), &zip)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        brought.append_data(&mut header, name, content).unwrap();
    }

    let (own, log) = of_archive(&engine, brought.into_inner().unwrap().into(), false, false).await;
    own.unwrap_or_else(|error| panic!("{error:?}: {log}"));
    let (other, _) = of_archive(&engine, tar(&[("main.tf", &template)]), false, false).await;

    assert!(other.is_err(), "another template got it");
    assert!(site.shared().is_empty());
}

/// What a version control system of a template's choice does, as Mercurial's hooks of a local repository do: it runs
/// what the repository brings along.
const HOOKED: &str = "#!/bin/sh\nfor last; do :; done\nsh ./repository/hook\nmkdir -p \"$last\" && : > \"$last/main.tf\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_runs_while_modules_are_fetched_writes_nothing_that_others_run() {
    let site = Site::new().await;
    site.publish("victim");
    let bin = site.dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let hg = bin.join("hg");
    fs::write(&hg, HOOKED).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&hg, mode).unwrap();
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let engine = site.engine(|environment| environment.set("PATH", path));
    // A package of its own with a lock file that says that a registry signed it, and one in each cache there may be.
    let platform = outpost::registry::Platform::current();
    let below = format!("registry.example/acme/victim/1.0.0/{platform}");
    let ran = site.dir.path().join("ran");
    let hook = format!(
        "echo ran > {ran}\n\
         for cache in .terraform/providers ../*.private/plugins* ../*.private; do\n  \
           mkdir -p $cache/{below}; echo evil > $cache/{below}/terraform-provider-victim_v1.0.0\n\
         done\n\
         printf 'provider \"registry.example/acme/victim\" {{\\n  version = \"1.0.0\"\\n  hashes = \
         [\"zh:{}\"]\\n}}\\n' > .terraform.lock.hcl\n",
        "0".repeat(64),
        ran = ran.display()
    );
    let template = format!(
        "{}module \"hooked\" {{\n  source = \"hg::file://${{path.module}}/repository\"\n}}\n",
        asks_for("victim")
    )
    .replace("${path.module}", "/srv");
    let files = [
        ("main.tf", template.as_str()),
        ("repository/hook", hook.as_str()),
    ];

    let (_, log) = of_archive(&engine, tar(&files), false, false).await;

    assert!(ran.exists(), "{log}");
    let kinds = site.shared();
    let found: Vec<String> = kinds.iter().map(|kind| contents(kind)).collect();
    assert!(!found.concat().contains("evil"), "{log}");
    let asked = site.origin.asked();
    let victim = asks_for("victim");
    let archive = tar(&[("main.tf", victim.as_str())]);
    let (other, log) = of_archive(&engine, archive, false, false).await;
    other.unwrap_or_else(|error| panic!("{error:?}: {log}\n{asked:?}"));
}

/// Everything below a directory.
fn contents(dir: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        all += &contents(&entry.path());
        all += &String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default());
    }
    all
}
