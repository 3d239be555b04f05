//! How long `init` takes with a small provider from the mirror's own directory: the template unpacked, its providers
//! looked up and put before the engine, and the engine's `init`.
//!
//! Run it: cargo bench --bench init
//!
//! `OUTPOST_BENCH_ROUNDS` sets the rounds (15). Fails if the median is above 0.15 seconds.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures, and prints its figures"
)]

use std::{
    collections::BTreeMap,
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use outpost::{
    files::archive,
    job::{JobId, LogLevel},
    language::cli_config,
    mirror::{
        Generation, Packages, Store,
        builtin::BuiltinPackages,
        generation::{Package, Provider},
        serve::Loopback,
    },
    provision::{InitRequest, LogSink, Memory, Provisioner as _, SessionConfig},
    registry::Platform,
    stop::Stop,
    terraform::{
        Engine, EngineConfig, Environment, binary,
        providers::{Mode, Presenter},
    },
};
use uuid::Uuid;
use zip::{ZipWriter, write::SimpleFileOptions};

/// What has to be reached, in seconds.
const LIMIT: f64 = 0.15;

/// Bytes beside the program: a provider of two million is small.
const PADDING: usize = 2 << 20;

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    acme = { source = "acme/coder" }
  }
}
data "coder_workspace" "me" { provider = acme }
"#;

fn main() -> anyhow::Result<()> {
    let rounds = match std::env::var("OUTPOST_BENCH_ROUNDS") {
        Ok(rounds) => rounds
            .parse()
            .context("OUTPOST_BENCH_ROUNDS is no number")?,
        Err(_) => 15,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let dir = tempfile::tempdir()?;
        let engine = engine(dir.path()).await?;
        let archive = archive(dir.path())?;
        let mut took = Vec::new();
        for round in 0..=rounds {
            let seconds = init(&engine, archive.clone()).await?;
            // The first one unpacks the provider, once for all jobs.
            if round > 0 {
                took.push(seconds);
            }
        }
        took.sort_by(f64::total_cmp);
        let (best, median) = (took[0], took[took.len() / 2]);
        println!(
            "init: median {:.0} ms, best {:.0} ms",
            1e3 * median,
            1e3 * best
        );
        ensure!(median <= LIMIT, "init takes more than {LIMIT} seconds");
        Ok(())
    })
}

/// An engine that finds one provider in a mirror, and nothing anywhere else.
async fn engine(dir: &Path) -> anyhow::Result<Engine> {
    let store = Store::open(&dir.join("mirror"))?;
    let lock = store.lock(&Stop::new()).await?;
    store.commit(generation(&store)?, None, &lock)?;
    drop(lock);
    let mirror = Packages {
        server: Some(Arc::new(Loopback::start(store.clone()).await?)),
        store,
        platform: Platform::current(),
        max_unpacked_bytes: None,
        is_sealed: true,
    };
    let builtin = BuiltinPackages {
        dir: dir.join("builtin-provider"),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_outpost")),
    };
    let kind = cli_config::Engine::Terraform;
    let providers = Presenter::new(Mode::Registry, kind, Arc::new(builtin), |_: &str| None)
        .with_mirror(Some(Arc::new(mirror)))
        .sealed(true);
    let host = std::env::vars_os().filter(|(name, _)| name != "TF_CLI_CONFIG_FILE");
    Ok(Engine::new(EngineConfig {
        binary: binary::find(&std::env::var_os("PATH").unwrap_or_default())?,
        work_dir: dir.join("work"),
        environment: Environment::of_host(host, &[]),
        exit_timeout: Duration::from_secs(60),
        plugin_cache_dir: None,
        operators_plugin_caches: Vec::new(),
        agent_scripts: BTreeMap::new(),
        providers: Arc::new(providers),
        isolation: None,
        shim: None,
    }))
}

fn generation(store: &Store) -> anyhow::Result<Generation> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file("terraform-provider-coder_v1.0.0", options)?;
    let program = env!("CARGO_BIN_EXE_outpost");
    writeln!(zip, "#!{program} terraform-provider-coder")?;
    zip.start_file("padding", options)?;
    let noise: Vec<u8> = (0..PADDING).map(|i| (i * i / 7 + i) as u8).collect();
    zip.write_all(&noise)?;
    let content = zip.finish()?.into_inner();
    let (archive, platform) = (store.put(&content)?, Platform::current());
    let filename = format!("terraform-provider-coder_1.0.0_{platform}.zip");
    let (h1_zip, h1_tree) = store.checksums(archive, &filename)?;
    let package = Package {
        platform,
        filename,
        archive,
        size: content.len() as u64,
        h1_zip,
        h1_tree,
    };
    let provider = Provider {
        addr: "registry.terraform.io/acme/coder".parse()?,
        version: "1.0.0".parse()?,
        protocols: vec!["6.0".to_owned()],
        signed: None,
        packages: vec![package],
    };
    Ok(Generation {
        providers: vec![provider],
        ..Generation::default()
    })
}

fn archive(dir: &Path) -> anyhow::Result<Bytes> {
    let template = dir.join("template");
    std::fs::create_dir(&template)?;
    std::fs::write(template.join("main.tf"), TEMPLATE)?;
    Ok(archive::pack_template(&template)?)
}

/// Seconds that one job's `init` takes.
async fn init(engine: &Engine, archive: Bytes) -> anyhow::Result<f64> {
    let config = SessionConfig {
        job_id: JobId::from(Uuid::new_v4()),
        log_level: None,
        template_id: String::new(),
        template_version_id: String::new(),
        memory: Memory::default(),
    };
    let mut session = engine.open(config).await?;
    let request = InitRequest {
        template_archive: archive,
        ..InitRequest::default()
    };
    let begun = Instant::now();
    let ended = session.init(request, Arc::new(Nowhere), &Stop::new()).await;
    let seconds = begun.elapsed().as_secs_f64();
    ended.map_err(|failure| anyhow::anyhow!(failure.error))?;
    session.close().await;
    Ok(seconds)
}

/// Loses what it is told.
struct Nowhere;

impl LogSink for Nowhere {
    fn log(&self, _: LogLevel, _: String) {}
}
