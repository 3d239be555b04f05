//! Package URLs. Pure: no socket, no file. Pure: no socket, no file.
//!
//! There is no registered type for providers and modules of Terraform, so these are `generic`, by their addresses.
//!
//! # Source
//! The purl specification, ECMA-427, and its types `generic`, `github`, `golang` and `oci`.

use std::fmt::{self, Write as _};

use url::Url;

use crate::{Digest, git};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Purl {
    kind: &'static str,
    /// Segments of the path; the last one is the name.
    path: Vec<String>,
    version: String,
    /// Qualifiers of the URL, sorted by name.
    qualifiers: Vec<(&'static str, String)>,
}

impl Purl {
    /// Returns the URL of a package, by its address `HOST/NAMESPACE/TYPE` or its name.
    pub(super) fn generic(name: &str, version: &str, content: Digest) -> Self {
        Self::new("generic", name, version).with("checksum", format!("sha256:{content}"))
    }

    /// Returns the URL of a file from its address, whose last part is the name.
    pub(super) fn file(url: &str, content: Digest) -> Self {
        let parsed = Url::parse(url).ok();
        let last = parsed
            .as_ref()
            .and_then(|url| url.path_segments()?.next_back());
        let host = parsed.as_ref().and_then(Url::host_str);
        let name = last.filter(|last| !last.is_empty()).or(host).unwrap_or(url);
        Self::generic(&decoded(name), "", content).with("download_url", url.to_owned())
    }

    /// Returns the URL of a Go module; `stdlib` is Go's own library.
    pub(super) fn golang(path: &str, version: &semver::Version) -> Self {
        let version = match path {
            "stdlib" => version.to_string(),
            _ => format!("v{version}"),
        };
        Self::new("golang", &path.to_ascii_lowercase(), &version)
    }

    /// Returns the URL of a git repository at a commit, or as a whole if the commit is empty.
    pub(super) fn git(url: &str, commit: &str) -> Self {
        let place = git::place(url);
        match place.strip_prefix("github.com/") {
            Some(name) if name.split('/').count() == 2 => {
                Self::new("github", &name.to_ascii_lowercase(), commit)
            }
            _ => {
                let at = if commit.is_empty() { "" } else { "@" };
                let place_and_commit = format!("git+{url}{at}{commit}");
                Self::new("generic", place, "").with("vcs_url", place_and_commit)
            }
        }
    }

    /// Returns the URL of a container image: `HOST/PATH:TAG@sha256:DIGEST`.
    pub(super) fn image(reference: &str, manifest: Digest) -> Self {
        let name = reference.split('@').next().unwrap_or_default();
        // A colon before a slash precedes a port.
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (name, None),
        };
        let last = repository.rsplit('/').next().unwrap_or_default();
        let version = format!("sha256:{manifest}");
        let purl = Self::new("oci", &last.to_ascii_lowercase(), &version);
        let purl = purl.with("repository_url", repository.to_owned());
        match tag {
            Some(tag) => purl.with("tag", tag.to_owned()),
            None => purl,
        }
    }

    fn new(kind: &'static str, path: &str, version: &str) -> Self {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        Self {
            kind,
            path: segments.map(str::to_owned).collect(),
            version: version.to_owned(),
            qualifiers: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.qualifiers.push((name, value));
        self.qualifiers.sort_unstable();
        self
    }
}

impl fmt::Display for Purl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkg:{}", self.kind)?;
        for segment in &self.path {
            f.write_char('/')?;
            encode(segment, b"", f)?;
        }
        if !self.version.is_empty() {
            f.write_char('@')?;
            encode(&self.version, b"", f)?;
        }
        for (number, (name, value)) in self.qualifiers.iter().enumerate() {
            f.write_char(if number == 0 { '?' } else { '&' })?;
            write!(f, "{name}=")?;
            encode(value, b"/", f)?;
        }
        Ok(())
    }
}

/// Writes a text in percent encoding, except for what the specification exempts and `plain`.
fn encode(text: &str, plain: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) || plain.contains(&byte) {
            true => f.write_char(char::from(byte))?,
            false => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

/// Returns a segment of an address without its percent encoding.
fn decoded(segment: &str) -> String {
    let pairs = format!("x={}", segment.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pairs.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_the_urls_that_the_specification_gives_them() {
        let digest = Digest::of(b"");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (purl, expected) in [
            (
                Purl::generic("registry.terraform.io/hashicorp/aws", "5.100.0+b1", digest),
                format!(
                    "pkg:generic/registry.terraform.io/hashicorp/aws@5.100.0%2Bb1?checksum=sha256:{digest}"
                ),
            ),
            (
                Purl::golang(
                    "github.com/BurntSushi/toml/v2",
                    &"1.2.3+incompatible".parse().unwrap(),
                ),
                "pkg:golang/github.com/burntsushi/toml/v2@v1.2.3%2Bincompatible".to_owned(),
            ),
            (
                Purl::golang("stdlib", &"1.24.2".parse().unwrap()),
                "pkg:golang/stdlib@1.24.2".to_owned(),
            ),
            (
                Purl::git("https://github.com/Coder/Modules.git", commit),
                format!("pkg:github/coder/modules@{commit}"),
            ),
            (
                Purl::git("https://git.example/acme/mods.git", commit),
                format!(
                    "pkg:generic/git.example/acme/mods?vcs_url=git%2Bhttps://git.example/acme/mods.git%40{commit}"
                ),
            ),
            (
                Purl::image(&format!("ghcr.io:443/Acme/base:v1@sha256:{digest}"), digest),
                format!("pkg:oci/base@sha256:{digest}?repository_url=ghcr.io:443/Acme/base&tag=v1"),
            ),
            (
                Purl::image(&format!("localhost:5000/base@sha256:{digest}"), digest),
                format!("pkg:oci/base@sha256:{digest}?repository_url=localhost:5000/base"),
            ),
            (
                Purl::file("https://files.example/a%20b.zip?x=1&y", digest),
                format!(
                    "pkg:generic/a%20b.zip?checksum=sha256:{digest}&download_url=https://files.example/a%2520b.zip%3Fx%3D1%26y"
                ),
            ),
        ] {
            assert_eq!(purl.to_string(), expected);
        }
    }
}
