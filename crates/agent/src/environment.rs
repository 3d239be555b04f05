//! Environment and working directory of everything that an agent starts.
//!
//! # Source
//! coder `agent/agent.go` `updateCommandEnv`, `agent/usershell`.

#![allow(
    clippy::disallowed_methods,
    reason = "the agent's own environment is what it hands on"
)]

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};
use outpost_base::secret::Secret;
use outpost_wire::proto::coder::agent::v2::Manifest;
use url::Url;

/// User that runs the agent, from the machine's user database.
pub(super) struct Account {
    /// Name of the user.
    pub(super) name: String,
    /// Home directory of the user.
    pub(super) home: PathBuf,
    /// Login shell of the user.
    pub(super) shell: PathBuf,
}

impl Account {
    /// Looks up our own user. For the home directory the environment takes precedence, because a container may have
    /// no entry for its user.
    pub(super) fn own() -> Self {
        let entry = User::from_uid(Uid::effective()).ok().flatten();
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let shell = entry.as_ref().map(|entry| entry.shell.clone());
        let shell = shell.filter(|shell| !shell.as_os_str().is_empty() && shell.exists());
        let shell = shell.or_else(|| variable("SHELL").map(PathBuf::from));
        let home = variable("HOME").map(PathBuf::from);
        Self {
            name: entry.as_ref().map_or_else(
                || env::var("USER").unwrap_or_default(),
                |entry| entry.name.clone(),
            ),
            home: home
                .or_else(|| entry.map(|entry| entry.dir))
                .unwrap_or_else(|| PathBuf::from("/")),
            shell: shell.unwrap_or_else(|| PathBuf::from("/bin/sh")),
        }
    }

    /// Expands a path of a template: `~`, variables, and relative paths, which begin at the home directory.
    pub(super) fn expand(&self, path: &str) -> PathBuf {
        let path = match path {
            "~" => return self.home.clone(),
            path => path.strip_prefix("~/").unwrap_or(path),
        };
        let lookup = |name: &str| match name {
            "HOME" => Some(self.home.display().to_string()),
            name => env::var(name).ok(),
        };
        self.home.join(expand(path, lookup))
    }

    /// Directory in which sessions start: the template's if it exists, else the home directory.
    pub(super) fn directory(&self, manifest: &Manifest) -> PathBuf {
        let wanted = match manifest.directory.as_str() {
            "" => self.home.clone(),
            directory => self.expand(directory),
        };
        [wanted, self.home.clone()]
            .into_iter()
            .find(|directory| directory.is_dir())
            .unwrap_or_else(|| PathBuf::from("/"))
    }
}

/// Replaces `$NAME` and `${NAME}`; an unknown name is empty, as in Go.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let braced = after.strip_prefix('{').and_then(|it| it.split_once('}'));
        let (name, next) = match braced {
            Some(found) => found,
            None => {
                let end = after.find(|letter| !is_part(letter));
                after.split_at(end.unwrap_or(after.len()))
            }
        };
        match name {
            "" => out.push('$'),
            name => out.push_str(&lookup(name).unwrap_or_default()),
        }
        rest = next;
    }
    out.push_str(rest);
    out
}

/// Variables by their names, in the system's bytes.
pub(super) type Variables = BTreeMap<OsString, OsString>;

/// Settings of the agent that are passed on, because our helpers, and Coder's programs in a workspace, need them to
/// reach the server.
const LENT: [&str; 3] = [
    "CODER_AGENT_URL",
    "CODER_AGENT_HEADER",
    "CODER_AGENT_HEADER_COMMAND",
];

/// Returns the variables that started programs inherit from our own environment, without our settings.
fn inherited() -> Variables {
    let is_ours = |name: &OsStr| {
        let name = name.as_bytes();
        let has_prefix = name.starts_with(b"CODER_AGENT_") || name.starts_with(b"OUTPOST_");
        has_prefix && !LENT.iter().any(|lent| lent.as_bytes() == name)
    };
    env::vars_os().filter(|(name, _)| !is_ours(name)).collect()
}

/// Returns the environment of a command: our own variables, then those of the template and the owner's secrets.
pub(super) fn variables(
    manifest: &Manifest,
    account: &Account,
    server: &Url,
    token: &Secret,
    program: &Path,
    scripts: Option<&Path>,
) -> Variables {
    let id = uuid::Uuid::from_slice(&manifest.workspace_id).unwrap_or_default();
    let mut all = inherited();
    let mut set = |name: &str, value: &OsStr| all.insert(name.into(), value.into());
    let git = [program.as_os_str(), OsStr::new(" gitssh --")];
    let git: OsString = git.into_iter().collect();
    for (name, value) in [
        ("CODER", "true"),
        ("CODER_WORKSPACE_NAME", &manifest.workspace_name),
        ("CODER_WORKSPACE_AGENT_NAME", &manifest.agent_name),
        ("CODER_WORKSPACE_OWNER_NAME", &manifest.owner_username),
        ("CODER_WORKSPACE_ID", &id.to_string()),
        ("CODER_AGENT_URL", server.as_str()),
        ("CODER_AGENT_TOKEN", token.expose()),
        ("CS_DISABLE_GETTING_STARTED_OVERRIDE", "true"),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
    ] {
        set(name, OsStr::new(value));
    }
    set("GIT_SSH_COMMAND", &git);
    set("HOME", account.home.as_os_str());
    set("SHELL", account.shell.as_os_str());
    if !manifest.vs_code_port_proxy_uri.is_empty() {
        let uri = &manifest.vs_code_port_proxy_uri;
        set("VSCODE_PROXY_URI", OsStr::new(uri));
    }
    for (name, value) in &manifest.environment_variables {
        let lookup = |name: &str| {
            let value = all.get(OsStr::new(name));
            value.map(|value| value.to_string_lossy().into_owned())
        };
        let value = expand(value, lookup);
        all.insert(name.into(), value.into());
    }
    for secret in &manifest.secrets {
        if !secret.env_name.is_empty() {
            let value = OsStr::from_bytes(&secret.value);
            all.insert((&secret.env_name).into(), value.into());
        }
    }
    all.insert("GIT_ASKPASS".into(), program.into());
    let path = path(all.get(OsStr::new("PATH")), program, scripts);
    all.insert("PATH".into(), path);
    all.retain(|name, value| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        !name.is_empty() && !name.iter().any(|it| b"=\0".contains(it)) && !value.contains(&0)
    });
    all
}

/// Returns the search path: programs of scripts first, and our own directory last, because people call us by our
/// name.
fn path(known: Option<&OsString>, program: &Path, scripts: Option<&Path>) -> OsString {
    let bin = scripts.map(|scripts| scripts.join("bin").into_os_string());
    let usual = OsStr::new("/usr/local/bin:/usr/bin:/bin");
    let known = known.map_or(usual, OsString::as_os_str);
    let own = program.parent().map(Path::as_os_str);
    // An empty part of `PATH` would mean the current directory.
    let parts: Vec<_> = bin
        .as_deref()
        .into_iter()
        .chain([known])
        .chain(own)
        .collect();
    parts.join(OsStr::new(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_texts_are_replaced_as_in_go() {
        let lookup = |name: &str| (name == "A_1").then(|| "x".to_owned());
        for (text, expected) in [
            ("$A_1/${A_1}b", "x/xb"),
            ("$NO.", "."),
            ("5$ and ${A_1", "5$ and ${A_1"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), expected);
        }
    }

    #[test]
    fn a_template_s_values_may_build_on_what_there_is_and_secrets_are_taken_as_they_are() {
        let account = Account {
            name: "dev".to_owned(),
            home: PathBuf::from("/home/dev"),
            shell: PathBuf::from("/bin/sh"),
        };
        let secret = outpost_wire::proto::coder::agent::v2::WorkspaceSecret {
            env_name: "KEY".to_owned(),
            file_path: String::new(),
            value: b"a$HOME\xff"[..].into(),
        };
        let manifest = Manifest {
            environment_variables: [("PATH".to_owned(), "$HOME/bin".to_owned())].into(),
            secrets: vec![secret],
            ..Manifest::default()
        };

        let server = "https://coder.example.com/".parse().unwrap();
        let (token, program) = (Secret::new("t"), Path::new("/opt/coder"));
        let all = variables(
            &manifest,
            &account,
            &server,
            &token,
            program,
            Some(Path::new("/s")),
        );

        for (name, expected) in [
            ("PATH", &b"/s/bin:/home/dev/bin:/opt"[..]),
            ("GIT_ASKPASS", b"/opt/coder"),
            ("GIT_SSH_COMMAND", b"/opt/coder gitssh --"),
            ("CODER_AGENT_URL", b"https://coder.example.com/"),
            ("KEY", b"a$HOME\xff"),
            ("CODER_AGENT_TOKEN", b"t"),
        ] {
            assert_eq!(all[OsStr::new(name)].as_bytes(), expected, "{name}");
        }
        assert_eq!(
            account.expand("~/a/$HOME"),
            Path::new("/home/dev/a//home/dev")
        );
    }
}
