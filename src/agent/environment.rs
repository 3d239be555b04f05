//! The environment of everything that an agent starts, and where it starts it.
//!
//! # Source
//! coder `agent/agent.go` `updateCommandEnv`, `agent/usershell`.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};
use url::Url;

use crate::{proto::coder::agent::v2::Manifest, secret::Secret};

/// Who runs us, as the machine's user database says.
pub(super) struct Account {
    /// The name.
    pub(super) name: String,
    /// The home directory.
    pub(super) home: PathBuf,
    /// The login shell.
    pub(super) shell: PathBuf,
}

impl Account {
    /// What the environment says comes first for the home, as a container may have no entry for its user.
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

    /// A path as templates write it: `~`, variables, and what is relative begins at home.
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

    /// Where sessions begin: the template's directory if it is there, else home.
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

/// Variables by their names.
pub(super) type Variables = BTreeMap<String, String>;

/// Of our settings those without which our helpers, and Coder's programs in a workspace, do not get to the server.
const LENT: [&str; 3] = [
    "CODER_AGENT_URL",
    "CODER_AGENT_HEADER",
    "CODER_AGENT_HEADER_COMMAND",
];

/// What our own environment lends to what we start; not our settings.
fn inherited() -> Variables {
    let all = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let is_ours = |name: &str| name.starts_with("CODER_AGENT_") || name.starts_with("OUTPOST_");
    all.filter(|(name, _)| !is_ours(name) || LENT.contains(&&**name))
        .collect()
}

/// The environment of a command: what we stand for, then what the template and the owner's secrets say.
pub(super) fn variables(
    manifest: &Manifest,
    account: &Account,
    server: &Url,
    token: &Secret,
    program: &Path,
    scripts: &Path,
) -> Variables {
    let id = uuid::Uuid::from_slice(&manifest.workspace_id).unwrap_or_default();
    let mut all = inherited();
    let own = [
        ("CODER", "true".to_owned()),
        ("CODER_WORKSPACE_NAME", manifest.workspace_name.clone()),
        ("CODER_WORKSPACE_AGENT_NAME", manifest.agent_name.clone()),
        (
            "CODER_WORKSPACE_OWNER_NAME",
            manifest.owner_username.clone(),
        ),
        ("CODER_WORKSPACE_ID", id.to_string()),
        ("CODER_AGENT_URL", server.to_string()),
        ("CODER_AGENT_TOKEN", token.expose().to_owned()),
        (
            "GIT_SSH_COMMAND",
            format!("{} gitssh --", program.display()),
        ),
        ("CS_DISABLE_GETTING_STARTED_OVERRIDE", "true".to_owned()),
        ("USER", account.name.clone()),
        ("LOGNAME", account.name.clone()),
        ("HOME", account.home.display().to_string()),
        ("SHELL", account.shell.display().to_string()),
    ];
    all.extend(own.map(|(name, value)| (name.to_owned(), value)));
    if !manifest.vs_code_port_proxy_uri.is_empty() {
        let uri = manifest.vs_code_port_proxy_uri.clone();
        all.insert("VSCODE_PROXY_URI".to_owned(), uri);
    }
    for (name, value) in &manifest.environment_variables {
        let value = expand(value, |name| all.get(name).cloned());
        all.insert(name.clone(), value);
    }
    for secret in &manifest.secrets {
        if !secret.env_name.is_empty() {
            let value = String::from_utf8_lossy(&secret.value).into_owned();
            all.insert(secret.env_name.clone(), value);
        }
    }
    all.insert("GIT_ASKPASS".to_owned(), program.display().to_string());
    let path = all
        .get("PATH")
        .map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    let mut path = format!("{}:{path}", scripts.join("bin").display());
    if let Some(directory) = program.parent() {
        // People call us by our name.
        path += &format!(":{}", directory.display());
    }
    all.insert("PATH".to_owned(), path);
    all.retain(|name, value| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    });
    all
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
        let secret = crate::proto::coder::agent::v2::WorkspaceSecret {
            env_name: "KEY".to_owned(),
            file_path: String::new(),
            value: b"a$HOME"[..].into(),
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
            Path::new("/s"),
        );

        assert_eq!(all["PATH"], "/s/bin:/home/dev/bin:/opt");
        assert_eq!(all["GIT_ASKPASS"], "/opt/coder");
        assert_eq!(all["GIT_SSH_COMMAND"], "/opt/coder gitssh --");
        assert_eq!(all["CODER_AGENT_URL"], "https://coder.example.com/");
        assert_eq!(all["KEY"], "a$HOME");
        assert_eq!(all["CODER_AGENT_TOKEN"], "t");
        assert_eq!(
            account.expand("~/a/$HOME"),
            Path::new("/home/dev/a//home/dev")
        );
    }
}
