//! Schemas as providers themselves tell them, by way of an engine.

use std::{collections::BTreeMap, fmt::Write as _, io, sync::Arc};

use bytes::Bytes;
use outpost_base::{
    registry::{Hash, ProviderAddr},
    stop::Stop,
};
use outpost_language::Constraint;
use outpost_provision::{InitRequest, Provisioner, Session, SessionConfig, StepFailure};
use semver::Version;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::complaints::Complaints;

/// A provider to ask, and the versions that will do.
pub type Question = (ProviderAddr, Constraint);

/// The output of `terraform providers schema -json`; schemas are kept as they were printed.
#[derive(Default, Deserialize)]
struct Printed {
    #[serde(default)]
    provider_schemas: BTreeMap<String, Box<RawValue>>,
}

/// Name of what is known of a package: the same for the same files of the same version.
pub fn package_key(addr: &ProviderAddr, version: &Version, hash: &Hash) -> String {
    hex::encode(Sha256::digest(format!("{addr}\n{version}\n{hash}")))
}

/// Installs providers in a session of an engine and returns their schemas by address, as the engine prints them. No template
/// runs: the session has one of ours, which does nothing but name the providers.
///
/// # Errors
/// [`StepFailure`] if one of them cannot be installed or does not answer.
pub async fn ask(
    engine: &dyn Provisioner,
    questions: &[Question],
    stop: &Stop,
) -> Result<BTreeMap<String, Box<RawValue>>, StepFailure> {
    if questions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let template_archive = archive(questions)
        .map_err(|error| StepFailure::new(format!("pack the names of providers: {error}")))?;
    let mut session = engine.open(SessionConfig::without_job()).await?;
    let request = InitRequest {
        template_archive,
        omit_module_files: true,
        ..InitRequest::default()
    };
    let printed = asked(session.as_mut(), request, stop).await;
    session.close().await;
    let wrong = |error| StepFailure::new(format!("read the schemas: {error}"));
    let printed: Printed = serde_json::from_slice(&printed?).map_err(wrong)?;
    Ok(printed.provider_schemas)
}

async fn asked(
    session: &mut dyn Session,
    request: InitRequest,
    stop: &Stop,
) -> Result<Bytes, StepFailure> {
    let log = Arc::new(Complaints::default());
    let installed = session.init(request, Arc::clone(&log) as _, stop).await;
    installed.map_err(|failure| {
        let said = log.take();
        match failure.diagnostic.is_none() && !said.is_empty() {
            true => StepFailure::new(format!("{failure}: {said}")),
            false => failure,
        }
    })?;
    session.schemas(stop).await
}

/// A template that names providers. The blocks with their configuration are what makes an engine start them.
fn archive(questions: &[Question]) -> io::Result<Bytes> {
    let mut text = "terraform {\n  required_providers {\n".to_owned();
    for (number, (addr, constraint)) in questions.iter().enumerate() {
        let _ = writeln!(
            text,
            "    p{number} = {{\n      source  = \"{addr}\"\n      version = \"{constraint}\"\n    }}"
        );
    }
    text.push_str("  }\n}\n");
    for number in 0..questions.len() {
        let _ = writeln!(text, "provider \"p{number}\" {{}}");
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "main.tf", text.as_bytes())?;
    Ok(builder.into_inner()?.into())
}
