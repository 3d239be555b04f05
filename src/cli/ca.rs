//! `outpost ca`: a site's own certificate authority.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    engine::own_dir,
    output::{Output, Row},
};
use crate::{
    files,
    net::{
        ca::{self, Authority, Entry, Request, Role},
        trust,
    },
};

/// Certificates for a mirror, a server, relays and daemons of a site without an authority of its own
#[derive(Debug, clap::Subcommand)]
pub(super) enum Ca {
    /// Create a certificate authority that is valid for ten years
    ///
    /// Its key stays in its directory, readable only by this user: keep it on an offline machine, with a backup.
    Init {
        #[command(flatten)]
        place: Place,
        /// Name of the authority
        #[arg(
            long,
            value_name = "NAME",
            default_value = "outpost certificate authority"
        )]
        name: String,
        /// Limit it to this domain, or to this network, such as 10.0.0.0/8; repeatable
        #[arg(long, value_name = "DOMAIN")]
        permit: Vec<String>,
    },
    /// Issue a certificate that is valid for ninety days
    Issue(Issue),
    /// Renew certificates that expire soon, with the same keys and files
    Renew {
        #[command(flatten)]
        place: Place,
        /// Names of certificates to renew, no matter when they expire
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// If no names are given, renew those that expire within this time
        #[arg(long, value_name = "DURATION", default_value = "30d")]
        within: humantime::Duration,
    },
    /// Revoke a certificate, remove its files and update the revocation list
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Name of the certificate
        name: String,
    },
    /// List the issued certificates
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Write a file with the system's authorities and this one, for SSL_CERT_FILE
    Bundle {
        #[command(flatten)]
        place: Place,
        /// File for the result
        file: PathBuf,
    },
}

/// Certificate to be issued.
#[derive(Debug, clap::Args)]
pub(super) struct Issue {
    #[command(flatten)]
    place: Place,
    /// Name of the certificate
    name: String,
    /// Purpose of the certificate
    #[arg(long = "for", value_name = "ROLE")]
    role: Role,
    /// Host name or IP address of the certificate [default: its own name]
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// File for the certificate [default: NAME.pem beside the authority]
    #[arg(long, value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// File for its private key [default: NAME.key beside the authority]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// Directory of the authority.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The authority's directory [default: `ca` below $STATE_DIRECTORY or ~/.local/state/outpost]
    #[arg(long, value_name = "DIR", env = "OUTPOST_CA_DIR")]
    ca_dir: Option<PathBuf>,
}

impl Place {
    fn dir(&self) -> anyhow::Result<PathBuf> {
        match &self.ca_dir {
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => Ok(own_dir("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")?.join("ca")),
        }
    }
}

/// A file that was written.
#[derive(Serialize)]
struct Written {
    file: PathBuf,
}

impl Written {
    fn show(self, output: Output) -> anyhow::Result<()> {
        output.item(&self, |it| format!("wrote {}", it.file.display()))?;
        Ok(())
    }
}

/// A certificate in the list.
#[derive(Serialize)]
struct Shown(Entry);

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &[
        "Name",
        "For",
        "Hosts",
        "Ends (UTC)",
        "Revoked (UTC)",
        "Certificate",
    ];

    fn cells(&self) -> Vec<String> {
        let Self(entry) = self;
        let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S").to_string();
        let role = match entry.role {
            Role::Mirror => "mirror",
            Role::Server => "server",
            Role::Relay => "relay",
            Role::Daemon => "daemon",
        };
        vec![
            entry.name.clone(),
            role.to_owned(),
            entry.hosts.join(", "),
            time(entry.ends),
            entry.revoked.map(time).unwrap_or_default(),
            entry.certificate.display().to_string(),
        ]
    }
}

impl Ca {
    pub(super) fn exec(self, output: Output) -> anyhow::Result<()> {
        let now = Timestamp::now();
        match self {
            Self::Init {
                place,
                name,
                permit,
            } => {
                let dir = place.dir()?;
                Authority::create(&dir, &name, &permit, now)?;
                let file = ca::root_file(&dir);
                Written { file }.show(output)
            }
            Self::Issue(issue) => {
                let mut authority = Authority::open(&issue.place.dir()?)?;
                show(output, vec![authority.issue(issue.into_request()?, now)?])
            }
            Self::Renew {
                place,
                names,
                within,
            } => {
                let mut authority = Authority::open(&place.dir()?)?;
                let names = match names {
                    none if none.is_empty() => authority.due(*within, now),
                    names => names,
                };
                let renewed = names.iter().map(|name| authority.renew(name, now));
                show(output, renewed.collect::<Result<_, _>>()?)
            }
            Self::Revoke { place, name } => {
                let mut authority = Authority::open(&place.dir()?)?;
                show(output, vec![authority.revoke(&name, now)?])
            }
            Self::List { place } => show(output, ca::list(&place.dir()?)?),
            Self::Bundle { place, file } => bundle(&place.dir()?, file, output),
        }
    }
}

impl Issue {
    fn into_request(self) -> anyhow::Result<Request> {
        // Absolute paths, so that renewals work from any directory.
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(Request {
            certificate: absolute(self.cert_file)?,
            key: absolute(self.key_file)?,
            name: self.name,
            role: self.role,
            hosts: self.host,
        })
    }
}

fn show(output: Output, entries: Vec<Entry>) -> anyhow::Result<()> {
    let rows: Vec<_> = entries.into_iter().map(Shown).collect();
    Ok(output.list(&rows)?)
}

/// Writes the system's authorities and this one: engines replace the system's authorities by that file.
fn bundle(dir: &Path, file: PathBuf, output: Output) -> anyhow::Result<()> {
    let root = ca::root_file(dir);
    let own =
        std::fs::read(&root).with_context(|| format!("failed to read `{}`", root.display()))?;
    let written = files::write_public(&file, &trust::bundle(&own));
    written.with_context(|| format!("failed to write `{}`", file.display()))?;
    Written { file }.show(output)
}
