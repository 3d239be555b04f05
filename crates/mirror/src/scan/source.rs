//! The source of a module, as its caller writes it. Pure. Pure.
//!
//! # Source
//! Terraform's documentation of module sources, and go-getter's of its addresses.

use std::fmt;

use outpost_base::registry::{DEFAULT_HOST, ProviderAddr};

/// Hosts whose addresses look like those of a registry but are git repositories.
const GIT_HOSTS: [&str; 2] = ["github.com", "bitbucket.org"];
/// File extensions of archives.
const ARCHIVES: [&str; 8] = [
    ".zip", ".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz",
];

/// The source of a module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A directory relative to the caller.
    Local(String),
    /// A module of a registry.
    Registry {
        /// Host of the registry; `None` for the engine's own.
        host: Option<String>,
        /// Path of the module: `NAMESPACE/NAME/SYSTEM`.
        path: String,
        /// Directory in the package.
        dir: String,
    },
    /// A module in a git repository.
    Git {
        /// Address in git's form, without credentials.
        url: String,
        /// A branch, tag or commit; `None` for the repository's head.
        reference: Option<String>,
        /// Directory in the repository.
        dir: String,
    },
    /// An archive that is fetched from its address.
    Archive {
        /// Address with its query.
        url: String,
        /// Directory in the archive.
        dir: String,
    },
    /// A source that no mirror can replace.
    Foreign {
        /// The source as written.
        text: String,
        /// Reason why it cannot be replaced.
        why: &'static str,
    },
}

impl Source {
    /// Parses the source of a `module` block.
    pub fn parse(text: &str) -> Self {
        if text.starts_with("./") || text.starts_with("../") || matches!(text, "." | "..") {
            return Self::Local(text.to_owned());
        }
        let (place, dir) = split_dir(text);
        if let Some((host, path)) = registry(&place) {
            return Self::Registry { host, path, dir };
        }
        let foreign = |why| Self::Foreign {
            text: without_credentials(text),
            why,
        };
        if let Some(place) = place.strip_prefix("git::") {
            return git(place, dir);
        }
        if let Some((getter, _)) = place.split_once("::") {
            return foreign(match getter {
                "s3" | "gcs" => "it is in a bucket",
                "hg" => "it is a Mercurial repository",
                _ => "no mirror can fetch it",
            });
        }
        if let Some(place) = short_ssh(&place) {
            return git(&place, dir);
        }
        if GIT_HOSTS
            .iter()
            .any(|host| place.starts_with(&format!("{host}/")))
        {
            let (path, query) = place.split_once('?').unwrap_or((&place, ""));
            let parts: Vec<_> = path.splitn(4, '/').collect();
            if let [host, owner, repository, rest @ ..] = parts.as_slice() {
                let repository = repository.trim_end_matches(".git");
                let dir = match (rest, dir.is_empty()) {
                    ([rest], true) => (*rest).to_owned(),
                    _ => dir,
                };
                return git(
                    &format!("https://{host}/{owner}/{repository}.git?{query}"),
                    dir,
                );
            }
        }
        match place.split_once("://") {
            Some(("http" | "https", rest)) if is_bucket(rest) => foreign("it is in a bucket"),
            Some(("http" | "https", _)) => Self::Archive { url: place, dir },
            Some(("oci", _)) => foreign("it is in an OCI registry"),
            Some(_) => foreign("no mirror can fetch it"),
            None if text.starts_with('/') => foreign("it is a local directory"),
            None => foreign("it is not a module source"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = |dir: &str| match dir.is_empty() {
            true => String::new(),
            false => format!("//{dir}"),
        };
        match self {
            Self::Local(path) => f.write_str(path),
            Self::Registry { host, path, dir } => {
                let host = host.as_deref().unwrap_or(DEFAULT_HOST);
                write!(f, "{host}/{path}{}", below(dir))
            }
            Self::Git {
                url,
                reference,
                dir,
            } => {
                write!(f, "git::{url}{}", below(dir))?;
                reference
                    .iter()
                    .try_for_each(|name| write!(f, "?ref={name}"))
            }
            Self::Archive { url, dir } => write!(f, "{}{}", without_credentials(url), below(dir)),
            Self::Foreign { text, .. } => f.write_str(text),
        }
    }
}

/// Separates an address from its directory, which follows a double slash; a query stays.
fn split_dir(text: &str) -> (String, String) {
    let begin = text.find("://").map_or(0, |at| at + 3);
    let Some(at) = text[begin..].find("//").map(|at| begin + at) else {
        return (text.to_owned(), String::new());
    };
    let (place, rest) = (&text[..at], &text[at + 2..]);
    let (dir, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = match query.is_empty() {
        true => place.to_owned(),
        false => format!("{place}?{query}"),
    };
    (place, dir.trim_matches('/').to_owned())
}

/// Parses `[HOST/]NAMESPACE/NAME/SYSTEM`, without the directory.
fn registry(place: &str) -> Option<(Option<String>, String)> {
    let parts: Vec<&str> = place.split('/').collect();
    let is_name = |part: &&str| {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !part.is_empty() && part.chars().all(is_inner)
    };
    let (host, path) = match parts.as_slice() {
        path @ [_, _, _] => (None, path),
        [host, path @ ..] if path.len() == 3 => {
            // The rules for hosts are those of providers.
            let is_host = ProviderAddr::parse(&format!("{host}/a/a"), DEFAULT_HOST).is_ok();
            let is_git = GIT_HOSTS.contains(host);
            (
                Some(host.to_lowercase()).filter(|_| is_host && !is_git),
                path,
            )
        }
        _ => return None,
    };
    let is_complete = parts.len() == 3 || host.is_some();
    (is_complete && path.iter().all(is_name)).then(|| (host, path.join("/")))
}

fn git(place: &str, dir: String) -> Source {
    let long = short_ssh(place);
    let place = long.as_deref().unwrap_or(place);
    let (url, query) = place.split_once('?').unwrap_or((place, ""));
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let mut references = pairs.filter(|(name, _)| name == "ref");
    let reference = references.next().map(|(_, name)| name.into_owned());
    Source::Git {
        url: git_url(url),
        reference: reference.filter(|name| !name.is_empty()),
        dir,
    }
}

/// Converts SSH's short form `USER@HOST:PATH` to the long one that go-getter passes to git.
fn short_ssh(place: &str) -> Option<String> {
    let (authority, path) = place.split_once(':')?;
    let (user, host) = authority.split_once('@')?;
    let is_plain = |text: &str| !text.is_empty() && !text.contains('/');
    let is_short = is_plain(user) && is_plain(host) && !path.starts_with("//");
    is_short.then(|| format!("ssh://{user}@{host}/{}", path.trim_start_matches('/')))
}

/// Converts a repository's address in one of the forms of a `module` block to git's form; `None` if it is not a
/// repository, or contains more than its address.
pub fn repository(text: &str) -> Option<String> {
    let forms = [text.to_owned(), format!("git::{text}")];
    forms.iter().find_map(|text| match Source::parse(text) {
        Source::Git {
            url,
            reference: None,
            dir,
        } if dir.is_empty() && !url.contains('?') => Some(url),
        _ => None,
    })
}

/// Removes credentials; only the user name in an SSH address stays, because it is part of the address.
fn git_url(text: &str) -> String {
    match text.split_once("://") {
        Some(("ssh", _)) | None => text.to_owned(),
        Some(_) => without_credentials(text),
    }
}

/// Returns an address without user and password.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

fn is_bucket(rest: &str) -> bool {
    let host = rest.split('/').next().unwrap_or_default();
    host.ends_with(".amazonaws.com") || host == "www.googleapis.com"
}

/// Returns whether an address is that of an archive, according to its extension or to `archive=`.
pub fn is_archive(url: &url::Url) -> bool {
    let named = url.query_pairs().find(|(name, _)| name == "archive");
    match named {
        Some((_, kind)) => kind != "false",
        None => ARCHIVES.iter().any(|end| url.path().ends_with(end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(url: &str, reference: Option<&str>, dir: &str) -> Source {
        Source::Git {
            url: url.to_owned(),
            reference: reference.map(str::to_owned),
            dir: dir.to_owned(),
        }
    }

    #[test]
    fn sources_are_read_as_terraform_reads_them() {
        let registry = |host: Option<&str>, path: &str, dir: &str| Source::Registry {
            host: host.map(str::to_owned),
            path: path.to_owned(),
            dir: dir.to_owned(),
        };
        let archive = |url: &str, dir: &str| Source::Archive {
            url: url.to_owned(),
            dir: dir.to_owned(),
        };
        let cases = [
            ("./agent", Source::Local("./agent".to_owned())),
            (
                "terraform-aws-modules/vpc/aws",
                registry(None, "terraform-aws-modules/vpc/aws", ""),
            ),
            (
                "terraform-aws-modules/iam/aws//modules/iam-user",
                registry(None, "terraform-aws-modules/iam/aws", "modules/iam-user"),
            ),
            (
                "registry.coder.com/coder/code-server/coder",
                registry(Some("registry.coder.com"), "coder/code-server/coder", ""),
            ),
            (
                "github.com/acme/mods",
                git("https://github.com/acme/mods.git", None, ""),
            ),
            (
                "github.com/acme/mods//net/vpc?ref=v1.2",
                git("https://github.com/acme/mods.git", Some("v1.2"), "net/vpc"),
            ),
            (
                "git::https://git.example/acme/mods.git//vpc?ref=main&depth=1",
                git("https://git.example/acme/mods.git", Some("main"), "vpc"),
            ),
            (
                "git@github.com:acme/mods.git?ref=v1",
                git("ssh://git@github.com/acme/mods.git", Some("v1"), ""),
            ),
            (
                "git::deploy@git.example:acme/mods//vpc?depth=1",
                git("ssh://deploy@git.example/acme/mods", None, "vpc"),
            ),
            (
                "git::ssh://git@git.example/mods.git",
                git("ssh://git@git.example/mods.git", None, ""),
            ),
            (
                "https://files.example/mods.zip//vpc",
                archive("https://files.example/mods.zip", "vpc"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Source::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_no_mirror_can_stand_in_for_is_told_with_a_reason() {
        for text in [
            "s3::https://s3.amazonaws.com/bucket/vpc.zip",
            "https://bucket.s3.eu-west-1.amazonaws.com/vpc.zip",
            "gcs::https://www.googleapis.com/storage/v1/modules/vpc.zip",
            "hg::http://hg.example/vpc.hg",
            "oci://registry.example/vpc",
            "/opt/modules/vpc",
            "vpc",
        ] {
            assert!(
                matches!(Source::parse(text), Source::Foreign { .. }),
                "{text}"
            );
        }
    }

    #[test]
    fn passwords_in_addresses_are_neither_kept_nor_shown() {
        for text in [
            "git::https://user:hunter2@git.example/mods.git",
            "https://user:hunter2@files.example/mods.zip",
            "s3::https://user:hunter2@bucket.example/mods.zip",
        ] {
            let shown = Source::parse(text).to_string();
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
