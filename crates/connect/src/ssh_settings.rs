//! SSH settings of a deployment for its users' OpenSSH configuration, checked before anybody writes them there.
//!
//! # Source
//! coder `codersdk/deployment.go`, `SSHConfigResponse.Validate`.

use std::collections::BTreeMap;

use outpost_transport::coder::DialError;
use serde::Deserialize;

use super::Server;

/// Options that run a command, load a library or escape the section that they are written into; in lower case.
const FORBIDDEN: [&str; 13] = [
    "host",
    "include",
    "knownhostscommand",
    "localcommand",
    "match",
    "permitlocalcommand",
    "pkcs11provider",
    "proxycommand",
    "proxyjump",
    "remotecommand",
    "securitykeyprovider",
    "smartcarddevice",
    "xauthlocation",
];
/// Longest suffix, as for a host name, and longest value of an option, in bytes.
const MAX_SUFFIX: usize = 253;
const MAX_VALUE: usize = 4096;
/// Number of options that a deployment may set.
const MAX_OPTIONS: usize = 64;

/// Settings of a server; nothing in them can leave the line that it is written on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SshSettings {
    /// Suffix of its workspaces' host names, without the dot.
    pub suffix: Option<String>,
    /// Options by their names.
    pub options: BTreeMap<String, String>,
}

/// Reasons why a server's settings are not written.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A server that does not return them.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A suffix that cannot be part of a host name.
    #[error("the server's hostname suffix {0:?} is not valid in a host name")]
    Suffix(String),
    /// An option that is invalid or dangerous.
    #[error("refusing the server's SSH option {name:?}: {reason}")]
    Option {
        /// Name of the option.
        name: String,
        /// Reason why it is refused.
        reason: &'static str,
    },
    /// More options than anybody needs.
    #[error("server has {0} SSH options, more than {MAX_OPTIONS}")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    hostname_suffix: String,
    #[serde(default)]
    ssh_config_options: Option<BTreeMap<String, String>>,
}

impl Server {
    /// Fetches the deployment's SSH settings. A server without any, like our control plane, has empty ones.
    ///
    /// # Errors
    /// [`SettingsError`] names the first setting that must not be written.
    pub async fn ssh_settings(&self) -> Result<SshSettings, SettingsError> {
        match self.get(&["deployment", "ssh"]).await {
            Ok(answer) => check(answer),
            Err(error) if error.is_not_found() => Ok(SshSettings::default()),
            Err(error) => Err(error.into()),
        }
    }
}

fn check(answer: Answer) -> Result<SshSettings, SettingsError> {
    let options = answer.ssh_config_options.unwrap_or_default();
    if options.len() > MAX_OPTIONS {
        return Err(SettingsError::TooMany(options.len()));
    }
    for (name, value) in &options {
        if let Some(reason) = fault(name, value) {
            let name = name.clone();
            return Err(SettingsError::Option { name, reason });
        }
    }
    let suffix = answer.hostname_suffix;
    if !suffix.is_empty() && !is_suffix(&suffix) {
        return Err(SettingsError::Suffix(suffix));
    }
    Ok(SshSettings {
        suffix: Some(suffix).filter(|it| !it.is_empty()),
        options,
    })
}

/// Returns whether a text can be the suffix: it must be a name. Coder's server only excludes white space and
/// patterns.
fn is_suffix(suffix: &str) -> bool {
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(is_part)
    };
    suffix.len() <= MAX_SUFFIX && suffix.split('.').all(is_label)
}

fn fault(name: &str, value: &str) -> Option<&'static str> {
    if name.is_empty() || !name.bytes().all(|it| it.is_ascii_alphanumeric()) {
        return Some("it is not an SSH option name");
    }
    if FORBIDDEN.contains(&name.to_ascii_lowercase().as_str()) {
        return Some(
            "it could run commands, load libraries or leave outpost's section of the file",
        );
    }
    if value.trim().is_empty() || value.len() > MAX_VALUE {
        return Some("its value is empty or too long");
    }
    if value.contains(char::is_control) {
        return Some("its value has a line break or another control character");
    }
    // OpenSSH would reject the whole file, for all hosts.
    (!value.matches('"').count().is_multiple_of(2)).then_some("its value has an unclosed quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(suffix: &str, options: &[(&str, &str)]) -> Result<SshSettings, String> {
        let options = options.iter();
        let answer = Answer {
            hostname_suffix: suffix.to_owned(),
            ssh_config_options: Some(
                options
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
        };
        check(answer).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_that_people_use_are_taken() {
        let taken = checked(
            "dev.coder",
            &[("ServerAliveInterval", "10"), ("SetEnv", "A=\"b c\"")],
        );
        let taken = taken.unwrap();
        assert_eq!(taken.suffix.as_deref(), Some("dev.coder"));
        assert_eq!(taken.options.len(), 2);
        assert_eq!(checked("", &[]), Ok(SshSettings::default()));
    }

    #[test]
    fn what_could_leave_its_line_or_run_something_is_named() {
        for suffix in ["a\nHost *", ".coder", "*", "a b", "a\tb", "-a", "a..b", "ä"] {
            let error = checked(suffix, &[]).unwrap_err();
            assert!(error.contains(&format!("{suffix:?}")), "{error}");
        }
        for (name, value) in [
            ("ProxyCommand", "sh -c x"),
            ("localCommand", "x"),
            ("Match", "exec x"),
            ("PKCS11Provider", "/x.so"),
            ("User\nProxyCommand", "x"),
            ("User x\n", "x"),
            ("User", "x\n  ProxyCommand sh"),
            ("User", "x\r"),
            ("User", "x\0"),
            ("User", "\"x"),
            ("User", " "),
            ("", "x"),
        ] {
            let error = checked("", &[(name, value)]).unwrap_err();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    }
}
