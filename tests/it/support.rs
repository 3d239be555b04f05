//! What several tests need: a network that goes wrong when it is told to, and daemons that dial through it.

pub mod capture;
pub mod clients;
pub mod engine;
pub mod fault_proxy;
pub mod skip;
pub mod small_disk;
pub mod terminal;
pub mod wait;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use outpost::{
    net::http::{Client, Config},
    transport::{
        auth::{Credential, CredentialSource},
        coder::{CoderSource, Target},
    },
};
use url::Url;

/// A program of a Go module, built where Go is; below the target directory, so once for all runs.
pub fn go_install(module: &str, program: &str) -> Result<PathBuf, String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    let place = directory.join(module.replace(['/', '@'], "-"));
    let built = place.join(program);
    if built.is_file() {
        return Ok(built);
    }
    fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    let output = Command::new("go")
        .args(["install", module])
        .env("GOBIN", &place)
        .env_remove("GOFLAGS")
        .current_dir(&place)
        .output()
        .map_err(|error| format!("go: {error}"))?;
    match output.status.success() {
        true => Ok(built),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said
                .lines()
                .last()
                .unwrap_or("go install failed")
                .to_owned())
        }
    }
}

/// A credential that stays the same.
pub struct Fixed(pub Credential);

impl CredentialSource for Fixed {
    fn credential(&self) -> Result<Credential, String> {
        Ok(self.0.clone())
    }
}

/// A daemon's end of Coder's wire, which has not dialled yet.
pub fn coder_source(
    url: &Url,
    name: &str,
    credential: Credential,
    tags: &[(&str, &str)],
) -> CoderSource {
    let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let tags: BTreeMap<String, String> = tags.collect();
    let client = Client::new(Config::new(url.clone())).unwrap();
    let target = Target {
        organization: None,
        name: name.to_owned(),
        tags,
    };
    CoderSource::new(client, target, Arc::new(Fixed(credential)))
}
