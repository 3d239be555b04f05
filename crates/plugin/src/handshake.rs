//! The handshake between Terraform and a plugin: environment variables in, one line on stdout back.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Environment variable by which Terraform identifies itself. It is not secret: it keeps people from running plugins
/// by hand.
pub const COOKIE: (&str, &str) = (
    "TF_PLUGIN_MAGIC_COOKIE",
    "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2",
);
/// Version of the handshake line, not of the protocol that follows.
const CORE_PROTOCOL: u32 = 1;
/// The version of Terraform's plugin protocol that we speak.
const PROTOCOL: u32 = 5;

/// Terraform's requirements for serving a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Certificate of the only permitted client; without one, connections are not encrypted.
    pub(super) client: Option<CertificateDer<'static>>,
    /// Directory of the socket; by default that for temporary files.
    pub(super) socket_dir: PathBuf,
    /// Range of ports for systems without such sockets.
    pub(super) ports: RangeInclusive<u16>,
    /// `true` if the line contains a field that only newer clients understand.
    pub(super) multiplexing_asked: bool,
}

/// Reason why a plugin cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program was not started by Terraform.
    #[error("this is a Terraform plugin: Terraform starts it, it is not meant to be run directly")]
    NotTerraform,
    /// Terraform is too old or too new for this protocol.
    #[error("Terraform speaks the plugin protocols {offered}, this provider only {PROTOCOL}")]
    Protocol {
        /// Value of the variable `PLUGIN_PROTOCOL_VERSIONS`.
        offered: String,
    },
    /// The variable contains no valid certificate.
    #[error("`PLUGIN_CLIENT_CERT` holds no PEM certificate")]
    Certificate(#[source] rustls_pki_types::pem::Error),
    /// The variables contain no valid range of ports.
    #[error("`{name}` is `{value}`, which is not a port")]
    Port {
        /// Name of the variable: `PLUGIN_MIN_PORT` or `PLUGIN_MAX_PORT`.
        name: &'static str,
        /// Value of the variable.
        value: String,
    },
}

impl Launch {
    /// Parses the variables that Terraform sets for its plugins.
    ///
    /// # Errors
    /// [`LaunchError::NotTerraform`] without the magic cookie; others if Terraform's requirements cannot be met.
    pub fn from_environment(variables: &BTreeMap<String, String>) -> Result<Self, LaunchError> {
        let set = |name: &str| {
            variables
                .get(name)
                .map(String::as_str)
                .filter(|value| !value.is_empty())
        };
        let port = |name: &'static str, default: u16| {
            let value = set(name).unwrap_or_default().to_owned();
            match value.is_empty() {
                true => Ok(default),
                false => value.parse().map_err(|_| LaunchError::Port { name, value }),
            }
        };
        if set(COOKIE.0) != Some(COOKIE.1) {
            return Err(LaunchError::NotTerraform);
        }
        check_protocol(set("PLUGIN_PROTOCOL_VERSIONS"))?;
        let client =
            set("PLUGIN_CLIENT_CERT").map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
        let temporary = || set("TMPDIR").unwrap_or("/tmp");
        Ok(Self {
            client: client.transpose().map_err(LaunchError::Certificate)?,
            socket_dir: set("PLUGIN_UNIX_SOCKET_DIR")
                .unwrap_or_else(temporary)
                .into(),
            // Port 0 lets the system choose.
            ports: port("PLUGIN_MIN_PORT", 0)?..=port("PLUGIN_MAX_PORT", 0)?,
            multiplexing_asked: set("PLUGIN_MULTIPLEX_GRPC").is_some(),
        })
    }

    /// Returns the line that tells Terraform the address and the certificate of the plugin.
    pub(super) fn line(&self, at: &Address, server: Option<&CertificateDer<'_>>) -> String {
        let certificate = server
            // Go's plugin library expects base64 without padding.
            .map(|der| STANDARD_NO_PAD.encode(der))
            .unwrap_or_default();
        let mut line = format!("{CORE_PROTOCOL}|{PROTOCOL}|{at}|grpc|{certificate}");
        // A client that asks for multiplexing expects an answer: it is not supported.
        if self.multiplexing_asked {
            line.push_str("|false");
        }
        line
    }
}

fn check_protocol(offered: Option<&str>) -> Result<(), LaunchError> {
    let ours = PROTOCOL.to_string();
    match offered {
        Some(offered) if !offered.split(',').any(|version| version.trim() == ours) => {
            Err(LaunchError::Protocol {
                offered: offered.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Address at which a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(std::net::SocketAddr),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix|{}", Path::display(path)),
            Self::Tcp(address) => write!(f, "tcp|{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<const N: usize>(more: [(&str, &str); N]) -> BTreeMap<String, String> {
        let cookie = [COOKIE].into_iter().chain(more);
        cookie
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn without_the_cookie_nothing_is_served() {
        let launch = Launch::from_environment(&BTreeMap::new());

        assert!(matches!(launch, Err(LaunchError::NotTerraform)));
    }

    #[test]
    fn the_line_says_where_and_with_which_certificate() {
        let launch = Launch::from_environment(&variables([
            ("PLUGIN_PROTOCOL_VERSIONS", "6,5"),
            ("PLUGIN_UNIX_SOCKET_DIR", "/run/tf"),
        ]))
        .unwrap();
        let socket = Address::Unix("/run/tf/x/plugin".into());
        let certificate = CertificateDer::from(vec![1, 2, 3, 4]);

        assert_eq!(launch.socket_dir, Path::new("/run/tf"));
        assert_eq!(
            launch.line(&socket, Some(&certificate)),
            "1|5|unix|/run/tf/x/plugin|grpc|AQIDBA"
        );
        let plain = Address::Tcp(([127, 0, 0, 1], 1234).into());
        assert_eq!(launch.line(&plain, None), "1|5|tcp|127.0.0.1:1234|grpc|");
    }

    #[test]
    fn a_client_that_asks_for_multiplexing_is_told_that_there_is_none() {
        let launch =
            Launch::from_environment(&variables([("PLUGIN_MULTIPLEX_GRPC", "true")])).unwrap();

        let line = launch.line(&Address::Unix("/s".into()), None);

        assert_eq!(line, "1|5|unix|/s|grpc||false");
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let error = |more| {
            Launch::from_environment(&variables([more]))
                .unwrap_err()
                .to_string()
        };

        assert_eq!(
            error(("PLUGIN_PROTOCOL_VERSIONS", "6,4")),
            "Terraform speaks the plugin protocols 6,4, this provider only 5"
        );
        assert_eq!(
            error(("PLUGIN_MIN_PORT", "x")),
            "`PLUGIN_MIN_PORT` is `x`, which is not a port"
        );
        assert_eq!(
            error(("PLUGIN_CLIENT_CERT", "x")),
            "`PLUGIN_CLIENT_CERT` holds no PEM certificate"
        );
    }
}
