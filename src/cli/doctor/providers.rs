//! Checks of providers: whether an import would get `coder/coder`, and others, from where the daemon would take them.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::Client;
use tokio::time::timeout;

use super::Finding;
use crate::{
    cli::{
        engine::{CoderProvider, EngineArgs},
        isolation::Guarded,
        provisioner::{args::ServerArgs, connect},
    },
    job::LogLevel,
    net::tls,
    provision::{InitRequest, LogSink, SessionConfig, StepFailure},
    stop::Stop,
};

/// Longest time for an engine to install one provider, which has some 15 MB.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest time for a registry to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Beginning of nearly every template.
const TEMPLATE: &str =
    "terraform {\n  required_providers {\n    coder = { source = \"coder/coder\" }\n  }\n}\n";

const CODER: &str = "coder provider";
const OTHERS: &str = "providers";

/// Advice for when a registry is out of reach.
const REMEDY: &str = "give the daemon a mirror with --mirror DIR|URL, and --coder-provider builtin where that lacks coder/coder; else let \
     this machine reach the registry";

pub(super) async fn examine(
    engine: &EngineArgs,
    server: &ServerArgs,
    coder_provider: CoderProvider,
    state_dir: &Path,
    stop: &Stop,
) -> Vec<Finding> {
    match engine.installed(stop).await {
        Ok(Some(_)) => {}
        Ok(None) | Err(_) => {
            return vec![Finding::skipped(
                CODER,
                "no engine is available for this check",
            )];
        }
    }
    let (coder, others) = tokio::join!(
        coder(engine, server, coder_provider, state_dir, stop),
        others(engine, server, coder_provider),
    );
    [Some(coder), others].into_iter().flatten().collect()
}

/// Has the engine initialize a template as the daemon would.
async fn coder(
    engine: &EngineArgs,
    server: &ServerArgs,
    coder_provider: CoderProvider,
    state_dir: &Path,
    stop: &Stop,
) -> Finding {
    let existing = state_dir.ancestors().find(|path| path.is_dir());
    let stage = match tempfile::tempdir_in(existing.unwrap_or(Path::new("/"))) {
        Ok(stage) => stage,
        Err(error) => {
            return Finding::skipped(
                CODER,
                format!("cannot create a directory to test it in: {error}"),
            );
        }
    };
    let trust = connect::trust_beside(server);
    let began = std::time::Instant::now();
    let tried = timeout(
        INSTALL_TIMEOUT,
        install(engine, &trust, coder_provider, stage.path(), stop),
    );
    let source = match coder_provider {
        CoderProvider::Builtin => "the built-in one",
        CoderProvider::Registry | CoderProvider::Auto => "coder/coder",
    };
    match tried.await {
        Ok(Ok(())) => {
            let seconds = began.elapsed().as_secs_f32();
            Finding::ok(CODER, format!("{source} was installed in {seconds:.1} s"))
        }
        Ok(Err(error)) => {
            Finding::failed(CODER, format!("every import fails: {error:#}")).remedy(REMEDY)
        }
        Err(_) => {
            let seconds = INSTALL_TIMEOUT.as_secs();
            let found = format!("{source} was not installed within {seconds} seconds");
            Finding::failed(CODER, found).remedy(REMEDY)
        }
    }
}

/// Sink that drops the engine's output, which the failure repeats.
struct Unheard;

impl LogSink for Unheard {
    fn log(&self, _: LogLevel, _: String) {}
}

async fn install(
    engine: &EngineArgs,
    trust: &tls::Trust,
    coder_provider: CoderProvider,
    dir: &Path,
    stop: &Stop,
) -> anyhow::Result<()> {
    let guarded = Guarded {
        jobs: 1,
        are_foreign: false,
        hidden: Vec::new(),
    };
    let found = engine
        .find(coder_provider, dir.join("sessions"), guarded, trust, stop)
        .await?;
    let mut session = found.provisioner.open(SessionConfig::without_job()).await?;
    let request = InitRequest {
        template_archive: archive()?,
        omit_module_files: true,
        ..InitRequest::default()
    };
    let installed = session.init(request, Arc::new(Unheard), stop).await;
    session.close().await;
    Ok(installed.map(drop).map_err(brief)?)
}

/// Shortens a failure to one line.
fn brief(failure: StepFailure) -> StepFailure {
    let diagnostic = failure.diagnostic.as_deref();
    let words = diagnostic.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    StepFailure {
        diagnostic: words,
        ..failure
    }
}

fn archive() -> std::io::Result<Bytes> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(TEMPLATE.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "main.tf", TEMPLATE.as_bytes())?;
    Ok(builder.into_inner()?.into())
}

/// Checks whether other providers than `coder/coder` are available. `None` if the first check covers that.
async fn others(
    engine: &EngineArgs,
    server: &ServerArgs,
    coder_provider: CoderProvider,
) -> Option<Finding> {
    if let Some(place) = engine.mirror_place() {
        let found = format!("installed only from the mirror {place}");
        return Some(Finding::ok(OTHERS, found));
    }
    if let Some(file) = engine.operators_installation() {
        let found = format!("installed as configured in `{}`", file.display());
        return Some(Finding::ok(OTHERS, found));
    }
    if coder_provider == CoderProvider::Registry {
        return None; // They come from the same place as coder/coder.
    }
    let asked = async {
        let client = Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .tls_backend_preconfigured(tls::client_config(&connect::trust_beside(server))?)
            .build()?;
        let url = "https://registry.terraform.io/.well-known/terraform.json";
        client.get(url).send().await?.error_for_status()?;
        anyhow::Ok(())
    };
    Some(match asked.await {
        Ok(()) => Finding::ok(OTHERS, "registry.terraform.io answers"),
        Err(error) => Finding::warning(
            OTHERS,
            format!("templates that use others than coder/coder fail: {error:#}"),
        )
        .remedy("give the daemon a mirror with --mirror DIR|URL, or let this machine reach the registry"),
    })
}
