//! `outpost mirror serve`: a mirror as a server for engines.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use anyhow::Context as _;
use tokio::sync::oneshot;

use super::{Place, pull};
use crate::{
    cli::{
        exit::{Hint, UsageError},
        output,
        remote::{Authorities, Revoked, secret_lines, trust},
        server::tls_files,
        values::{ListenAddress, bytes},
    },
    mirror::serve::{Access, Audit, Proxy, Server},
    net::{
        ca,
        listener::{Limits, Listener},
    },
    process::open_files,
    secret::Secret,
    stop::Stop,
};

/// Serve a mirror to other machines, in place of registries and as a network mirror
///
/// Daemons on the same machine need no server: give them the directory with `--mirror DIR`. Others get `--mirror URL`. A
/// new generation is served from the next request on.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Serve {
    #[command(flatten)]
    store: Place,
    /// Address to listen on
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "OUTPOST_MIRROR_LISTEN",
        default_value = "127.0.0.1:7081"
    )]
    listen: ListenAddress,
    /// PEM file of the certificate and its chain; read again when it changes
    #[arg(long, value_name = "FILE", env = "OUTPOST_TLS_CERT_FILE")]
    tls_cert_file: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", env = "OUTPOST_TLS_KEY_FILE")]
    tls_key_file: Option<PathBuf>,
    /// Allow plain HTTP for other machines
    #[arg(long)]
    insecure_http: bool,
    /// File with client tokens, one per line, each optionally preceded by a name; if missing, no token is required
    ///
    /// The audit log identifies a client by its name, or by the token's number in the file.
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Record every response in this audit log, as a line of JSON
    ///
    /// With the time, the client's address, the name of its token, path, status and bytes. At 64 MiB the file becomes FILE.1,
    /// and so on; four of them are kept.
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_AUDIT_FILE")]
    audit_file: Option<PathBuf>,
    /// Record misses in this file, as JSON
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_MISSES_FILE")]
    misses_file: Option<PathBuf>,
    /// Fetch what the mirror lacks from registries; this mirror.toml names them and the trusted keys
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_PULL_THROUGH")]
    pull_through: Option<PathBuf>,
    /// Keep at most this much of what was fetched that way, such as 50G; the least recently used is evicted
    ///
    /// Never evicted, and not counted: packages that `outpost mirror sync` or `import` added, versions that mirror.toml
    /// names, packages that a client is downloading, and packages that jobs on this machine have unpacked. Checksums and
    /// keys of evicted packages stay trusted. Leave disk space for one more package.
    #[arg(
        long,
        value_name = "SIZE",
        env = "OUTPOST_MIRROR_PULL_THROUGH_MAX_SIZE",
        value_parser = bytes,
        requires = "pull_through"
    )]
    pull_through_max_size: Option<u64>,
    #[command(flatten)]
    authorities: Authorities,
    #[command(flatten)]
    revoked: Revoked,
    /// Also replace the hosts of archives in the mirror, as an HTTPS proxy at this address
    ///
    /// Clients set HTTPS_PROXY to it and trust the authority in the mirror's proxy/root.pem; it forwards
    /// nothing else.
    #[arg(long, value_name = "ADDRESS", env = "OUTPOST_MIRROR_PROXY_LISTEN")]
    proxy_listen: Option<SocketAddr>,
    /// Maximum number of open connections; when it is reached, idle ones are closed and new ones refused
    #[arg(
        long,
        value_name = "NUMBER",
        env = "OUTPOST_MIRROR_MAX_CONNECTIONS",
        default_value = "4096"
    )]
    max_connections: NonZeroUsize,
    /// Maximum number of open connections from one address, such as a NAT gateway, or from one IPv6 /64
    #[arg(
        long,
        value_name = "NUMBER",
        env = "OUTPOST_MIRROR_MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "2048"
    )]
    max_connections_per_address: NonZeroUsize,
    /// Make no outbound connections, whatever else is set
    #[arg(long, env = "OUTPOST_SEALED", conflicts_with = "pull_through")]
    sealed: bool,
}

/// Limits of the listener, as far as the system's limit of open files allows: each connection may have a file open,
/// too.
fn limits(connections: NonZeroUsize, of_one_address: NonZeroUsize) -> Limits {
    let descriptors = connections.get().saturating_mul(2);
    let raised = open_files::raise_to(descriptors as u64);
    let connections = open_files::connections(descriptors, raised).div_ceil(2);
    Limits {
        connections,
        connections_per_peer: of_one_address.get().min(connections),
        unauthenticated: connections,
        ..Limits::standard()
    }
}

impl Serve {
    pub(in crate::cli) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let tls = tls_files(self.tls_cert_file, self.tls_key_file)?;
        let plain = self
            .proxy_listen
            .filter(|address| !address.ip().is_loopback());
        if let Some(address) = plain.filter(|_| self.token_file.is_some() && !self.insecure_http) {
            let text = format!(
                "`--proxy-listen {address}` would expose tokens in plain HTTP to other machines"
            );
            return Err(UsageError(text))
                .hint("leave out the token, or allow plain HTTP with `--insecure-http`");
        }
        let listen = self.listen.resolve();
        let listen = listen
            .with_context(|| format!("failed to resolve the listen address `{}`", self.listen))?;
        if tls.is_none() && !self.insecure_http && !listen.ip().is_loopback() {
            let text = format!(
                "`--listen {}` would serve other machines over plain HTTP",
                self.listen
            );
            return Err(UsageError(text)).hint(
                "give it a certificate with `--tls-cert-file` and `--tls-key-file`, or allow plain HTTP with `--insecure-http`",
            );
        }
        let tokens = match &self.token_file {
            Some(path) => named(secret_lines(path)?),
            None => Vec::new(),
        };
        let (audit, auditing) = match &self.audit_file {
            None => (None, None),
            Some(path) => {
                let opened = Audit::open(path);
                let failed = || format!("failed to open the audit log `{}`", path.display());
                let (audit, writer) = opened.with_context(failed)?;
                (Some(audit), Some(writer))
            }
        };
        let store = self.store.open()?;
        let proxy_dir = store.dir().join("proxy");
        let mut server = Server::new(store.clone(), Access::named(tokens));
        if let Some(audit) = audit {
            server = server.with_audit(audit);
        }
        if let Some(file) = self.pull_through.filter(|_| !self.sealed) {
            let trust = trust(self.authorities.ca_file, self.revoked.crl_file);
            let upstream = pull::upstream(&file, store, &trust, self.pull_through_max_size)?;
            let counted = upstream.clone();
            tokio::task::spawn_blocking(move || counted.count()).await??;
            server = server.with_upstream(upstream);
        }
        let limits = limits(self.max_connections, self.max_connections_per_address);
        let listener = Listener::bind(listen, tls.as_ref(), limits.clone()).await?;
        server.watch(&listener);
        output::note(&format!("Serving the mirror at {}", listener.url()));
        let (looked_at, is_encrypted) = (server.clone(), tls.is_some());
        let unsigned = tokio::task::spawn_blocking(move || looked_at.unsigned()).await?;
        // An unreadable mirror is reported to clients and in the log, and can be repaired while it is served.
        if let Some(text) = about_unsigned(&unsigned.unwrap_or_default(), is_encrypted) {
            output::note(&text);
        }
        let proxying = match self.proxy_listen {
            None => None,
            Some(address) => {
                let proxy = Proxy::new(&server, &proxy_dir)?;
                let listener = Listener::bind(address, None, limits).await?;
                let authority = ca::root_file(&proxy_dir);
                output::note(&format!(
                    "Replacing hosts of archives at {}; the proxy's certificate authority is {}",
                    listener.url(),
                    authority.display()
                ));
                Some(listener.serve(proxy.router(), stop.clone()))
            }
        };
        let listening = listener.serve(server.router(), stop.clone());
        let keeping = async {
            if let Some(path) = self.misses_file {
                server.keep_misses(path, &stop).await;
            }
        };
        let proxying = async {
            if let Some(proxying) = proxying {
                proxying.await;
            }
        };
        let (serving, served) = oneshot::channel::<()>();
        let serving = async {
            tokio::join!(listening, keeping, proxying);
            drop(serving);
        };
        let auditing = async {
            if let Some(writer) = auditing {
                // The server ends after its last response.
                let end = async {
                    served.await.ok();
                };
                writer.run(end).await;
            }
        };
        tokio::join!(serving, auditing);
        Ok(())
    }
}

/// Parses tokens with their names: `NAME TOKEN`, or a token alone, which is named by its number, from 1.
fn named(lines: Vec<Secret>) -> Vec<(String, Secret)> {
    let name = |(number, line): (usize, Secret)| match line.expose().split_once(char::is_whitespace)
    {
        Some((name, token)) => (name.to_owned(), Secret::new(token.trim())),
        None => (number.to_string(), line),
    };
    (1..).zip(lines).map(name).collect()
}

/// Advice for clients about packages that no publisher signed; `None` if there are none.
fn about_unsigned(unsigned: &[String], is_encrypted: bool) -> Option<String> {
    let first = unsigned.first()?;
    let how = match is_encrypted {
        true => {
            "engines get them by the network mirror alone, as `outpost mirror config` and `--mirror URL` set it up"
        }
        false => {
            "engines get them by the network mirror alone, and that with https:// only: without `--tls-cert-file` they can be \
             used on this machine only, with `--mirror DIR`"
        }
    };
    Some(format!(
        "{} provider versions have no publisher's signature (such as {first}): {how}",
        unsigned.len()
    ))
}
