//! Sources of a daemon's credential.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::args::ServerArgs;
use crate::{
    cli::{exit::UsageError, remote::secret_file},
    secret::Secret,
    transport::auth::{Credential, CredentialSource},
};

/// Kind of credential that a daemon authenticates with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Kind {
    Psk,
    Key,
    Token,
}

/// A credential, or the file that contains it.
#[derive(Debug)]
pub(in crate::cli) struct Given {
    pub(in crate::cli) kind: Kind,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Value(Secret),
    File(PathBuf),
}

/// Options whose values everybody on the machine can see.
const SECRET_OPTIONS: [&str; 3] = ["--psk", "--key", "--token"];

impl Given {
    /// Chooses the credential that the options name, else a systemd credential, else the token that `coder login`
    /// saved.
    ///
    /// # Errors
    /// If there is nothing, or two that exclude each other.
    pub(in crate::cli) fn choose(
        args: &ServerArgs,
        credentials: Option<&Path>,
        global_config: Option<&Path>,
    ) -> Result<Self, UsageError> {
        let psk = one_of("psk", Kind::Psk, &args.psk, &args.psk_file)?;
        let key = one_of("key", Kind::Key, &args.key, &args.key_file)?;
        let token = one_of("token", Kind::Token, &args.token, &args.token_file)?;
        if psk.is_some() && key.is_some() {
            let text = "cannot provide both provisioner key --key and pre-shared key --psk";
            return Err(UsageError(text.to_owned()));
        }
        let in_directory = |directory: Option<&Path>, name: &str, kind| {
            let path = directory?.join(name);
            path.is_file().then_some(Self {
                kind,
                place: Place::File(path),
            })
        };
        let given = psk
            .or(key)
            .or(token)
            .or_else(|| in_directory(credentials, "outpost-psk", Kind::Psk))
            .or_else(|| in_directory(credentials, "outpost-key", Kind::Key))
            .or_else(|| in_directory(credentials, "outpost-token", Kind::Token))
            .or_else(|| in_directory(global_config, "session", Kind::Token));
        given.ok_or_else(|| UsageError(MISSING.to_owned()))
    }
}

/// Coder's error for a missing credential, with the places where one can be given.
pub(in crate::cli) const MISSING: &str = "must provide a pre-shared key or provisioner key when not authenticated as a user: \
     --psk-file, --key-file, --token-file, the environment or a systemd credential";

fn one_of(
    option: &str,
    kind: Kind,
    value: &Option<Secret>,
    file: &Option<PathBuf>,
) -> Result<Option<Given>, UsageError> {
    let place = match (value, file) {
        (Some(_), Some(_)) => {
            let text = format!("give --{option} or --{option}-file, not both");
            return Err(UsageError(text));
        }
        (Some(value), None) => Place::Value(value.clone()),
        (None, Some(path)) => Place::File(path.clone()),
        (None, None) => return Ok(None),
    };
    Ok(Some(Given { kind, place }))
}

impl CredentialSource for Given {
    fn credential(&self) -> Result<Credential, String> {
        let secret = match &self.place {
            Place::Value(secret) => secret.clone(),
            Place::File(path) => secret_file(path).map_err(|error| format!("{error:#}"))?,
        };
        Ok(match self.kind {
            Kind::Psk => Credential::Psk(secret),
            Kind::Key => Credential::Key(secret),
            Kind::Token => Credential::SessionToken(secret),
        })
    }
}

/// Returns the options on the command line that contain a secret.
pub(in crate::cli) fn exposed(arguments: impl Iterator<Item = OsString>) -> Vec<&'static str> {
    let arguments: Vec<OsString> = arguments.skip(1).collect();
    let is_given = |option: &&str| {
        arguments
            .iter()
            .filter_map(|argument| argument.to_str())
            .any(|argument| {
                argument
                    .strip_prefix(option)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            })
    };
    SECRET_OPTIONS.into_iter().filter(is_given).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_on_the_command_line_is_noticed_and_a_file_is_not() {
        let exposed = |line: &str| exposed(line.split(' ').map(OsString::from));

        assert_eq!(exposed("coder provisioner start --psk hunter2"), ["--psk"]);
        assert_eq!(
            exposed("coder --token=a provisioner start --key=b"),
            ["--key", "--token"]
        );
        assert_eq!(exposed("coder provisioner start --psk-file /psk"), [""; 0]);
    }
}
