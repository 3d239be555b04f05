//! `outpost mirror push-images`: container images, copied to a site's registry.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

use super::Place;
use crate::{
    cli::{
        exit::{Hint, UsageError},
        output::{self, Output, Row},
        provisioner::connect::read,
        remote::{Authorities, secret_file},
    },
    mirror::images::{Access, Registry},
    stop::Stop,
};

/// Copy the mirror's container images to the site's registry
///
/// An image keeps its repository, digest and tag; what the registry already has is not sent again.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PushImages {
    /// The registry, optionally with a path for the repositories: `registry.example:5000/mirror`
    #[arg(value_name = "REGISTRY")]
    registry: String,
    #[command(flatten)]
    place: Place,
    /// User name at the registry
    #[arg(long, value_name = "NAME", requires = "password_file")]
    username: Option<String>,
    /// File with the password or a token
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    authorities: Authorities,
    /// Use plain HTTP for the registry
    #[arg(long)]
    insecure_http: bool,
}

/// An image, and its new location.
#[derive(Serialize)]
struct Pushed {
    image: String,
    pushed: String,
}

impl Row for Pushed {
    const COLUMNS: &'static [&'static str] = &["Image", "In the registry"];

    fn cells(&self) -> Vec<String> {
        vec![self.image.clone(), self.pushed.clone()]
    }
}

impl PushImages {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let password = self.password_file.as_deref().map(secret_file).transpose()?;
        let registry = Registry::new(Access {
            login: password.map(|password| (self.username.clone().unwrap_or_default(), password)),
            authorities: self
                .authorities
                .ca_file
                .iter()
                .map(|path| read(path))
                .collect::<Result<_, _>>()?,
            is_plain: self.insecure_http,
        });
        let store = self.place.open()?;
        let (_lease, generation) = store.lease_newest()?;
        if generation.images.is_empty() {
            return Err(UsageError("the mirror has no images".to_owned()))
                .hint("name them in a mirror.toml, as `[[images]]`");
        }
        let mut rows = Vec::new();
        for image in &generation.images {
            output::note(&format!("Pushing {}", image.reference));
            let pushed = tokio::select! {
                pushed = registry.push(image, &self.registry, &store) => pushed,
                () = stop.cancelled() => return Err(crate::cli::exit::Interrupted.into()),
            };
            rows.push(Pushed {
                image: image.reference.clone(),
                pushed: pushed.with_context(|| format!("failed to push {}", image.reference))?,
            });
        }
        output.list(&rows)?;
        Ok(())
    }
}
