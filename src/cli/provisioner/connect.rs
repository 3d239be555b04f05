//! Connection to the server: trust, headers, certificates, proxies.

use std::path::Path;

use anyhow::Context;
use url::Url;

use super::args::ServerArgs;
use crate::{
    cli::{exit::UsageError, values::Csv},
    net::{headers, http, proxy::Proxies, tls},
};

/// Returns the trust that the options configure for the server.
pub(in crate::cli) fn trust(args: &ServerArgs) -> tls::Trust {
    let identity = args
        .client_tls_cert_file
        .clone()
        .zip(args.client_tls_key_file.clone())
        .map(|(certificate, key)| tls::Identity { certificate, key });
    tls::Trust {
        only: args.client_tls_ca_file.clone(),
        extra: args.ca_file.iter().cloned().collect(),
        revoked: args.revoked.crl_file.clone(),
        identity,
    }
}

/// Returns the trust for all other connections of the daemon and its engine: `--client-tls-ca-file` and the daemon's
/// own certificate are for its server alone.
pub(in crate::cli) fn trust_beside(args: &ServerArgs) -> tls::Trust {
    tls::Trust {
        only: None,
        identity: None,
        ..trust(args)
    }
}

/// Returns a client with everything that the options say of a server of Coder's.
///
/// # Errors
/// If a header is not valid, or a file of certificates cannot be read.
pub(in crate::cli) fn client(args: &ServerArgs, url: &Url) -> anyhow::Result<http::Client> {
    let given = headers::parse(Csv::all(&args.header));
    let given = given.map_err(|error| UsageError(format!("`--header`: {error}")))?;
    Ok(http::Client::new(http::Config {
        trust: trust(args),
        proxies: Proxies::from_env(),
        headers: given,
        header_command: args.header_command.clone(),
        ..http::Config::new(url.clone())
    })?)
}

/// Reads a file that an option names.
pub(in crate::cli) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))
}
