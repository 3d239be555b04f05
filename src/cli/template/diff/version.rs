//! A version of a template: where it is, and its files in a directory.

use std::{
    fs,
    io::{self, Cursor, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use flate2::read::GzDecoder;
use url::Url;
use zip::ZipArchive;

use crate::{
    cli::{
        exit::{Hint as _, UsageError},
        remote::coder_at,
        template::git::git,
    },
    files::{archive::extract_template, beneath::Dir},
    net::tls::Trust,
    stop::Stop,
};

/// The limit of an unpacked template, in bytes. A server takes a tenth.
const MAX_BYTES: u64 = 1 << 30;

/// Places that a version may be in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Version {
    Directory(PathBuf),
    Archive(PathBuf),
    /// A commit, and a directory of it.
    Commit {
        repository: PathBuf,
        object: String,
    },
    /// The active version of a template of a server.
    Active {
        server: Url,
        template: String,
    },
}

/// The credential for a server.
pub(super) struct Token<'a> {
    pub(super) file: Option<&'a Path>,
    pub(super) trust: &'a Trust,
}

impl Version {
    /// Recognizes a version. `other` is the version that it is compared with, whose directory a commit alone stands for.
    ///
    /// # Errors
    /// [`UsageError`] if it is none.
    pub(super) fn parse(text: &str, other: &str) -> anyhow::Result<Self> {
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if path.is_file() {
            return Ok(Self::Archive(path.to_owned()));
        }
        if let Some(place) = text.strip_prefix("active@") {
            return active(place);
        }
        let (repository, object) = match text.split_once(':') {
            Some(_) => (PathBuf::from("."), text.to_owned()),
            None if Path::new(other).is_dir() => {
                let prefix = git(Path::new(other), &["rev-parse", "--show-prefix"]);
                let prefix = prefix.map_err(|_| nothing(text))?;
                let prefix = String::from_utf8_lossy(&prefix).trim_end().to_owned();
                (PathBuf::from(other), format!("{text}:{prefix}"))
            }
            None => return Err(nothing(text)),
        };
        let object = match text.starts_with('-') {
            true => return Err(nothing(text)),
            false => object,
        };
        // Below the top, `git archive` takes paths for those of its own directory.
        let top = git(&repository, &["rev-parse", "--show-toplevel"]).map_err(|_| nothing(text))?;
        let top = String::from_utf8_lossy(&top);
        let repository = PathBuf::from(top.trim_end_matches('\n'));
        let kind = git(&repository, &["cat-file", "-t", &object]);
        let is_tree = kind.is_ok_and(|kind| kind.trim_ascii() == b"tree");
        match is_tree {
            true => Ok(Self::Commit { repository, object }),
            false => Err(nothing(text)),
        }
    }

    /// Makes a directory with the version's files, unless they are in one.
    pub(super) async fn lay_out(
        self,
        into: PathBuf,
        token: &Token<'_>,
        stop: &Stop,
    ) -> anyhow::Result<PathBuf> {
        let packed: Bytes = match self {
            Self::Directory(dir) => return Ok(dir),
            Self::Archive(path) => {
                let bytes = fs::read(&path);
                bytes
                    .with_context(|| format!("failed to read `{}`", path.display()))?
                    .into()
            }
            Self::Commit { repository, object } => {
                git(&repository, &["archive", "--format=tar", &object])?.into()
            }
            Self::Active { server, template } => {
                coder_at(&server, token.file, token.trust)?
                    .active_files(&template)
                    .await?
            }
        };
        fs::create_dir(&into)?;
        unpack(&packed, &into, stop).context("the archive of the template cannot be unpacked")?;
        Ok(into)
    }
}

/// `SERVER/TEMPLATE`, with `https://` unless it says otherwise.
fn active(place: &str) -> anyhow::Result<Version> {
    let whole = match place.contains("://") {
        true => place.to_owned(),
        false => format!("https://{place}"),
    };
    let parsed = whole.rsplit_once('/').and_then(|(server, template)| {
        let server: Url = server.parse().ok()?;
        (server.has_host() && !template.is_empty()).then(|| Version::Active {
            server,
            template: template.to_owned(),
        })
    });
    parsed.ok_or_else(|| {
        UsageError(format!("`active@{place}` must be active@SERVER/TEMPLATE, such as active@coder.example.com/docker")).into()
    })
}

fn nothing(text: &str) -> anyhow::Error {
    let error = Err::<(), _>(UsageError(format!(
        "`{text}` is neither a directory nor an archive nor a commit of a repository"
    )));
    let hint = "name a commit with its directory, such as main:templates/docker, or active@SERVER/TEMPLATE";
    error.hint(hint).expect_err("is an error")
}

/// Unpacks a tar archive, also compressed, or a zip archive.
fn unpack(packed: &Bytes, into: &Path, stop: &Stop) -> anyhow::Result<()> {
    let tar = match packed.as_ref() {
        [0x1f, 0x8b, ..] => {
            let mut tar = Vec::new();
            let mut decoder = GzDecoder::new(packed.as_ref()).take(MAX_BYTES);
            decoder.read_to_end(&mut tar)?;
            tar.into()
        }
        [b'P', b'K', ..] => tar_of_zip(packed)?,
        _ => packed.clone(),
    };
    extract_template(&tar, &Dir::open(into)?, stop)?;
    Ok(())
}

fn tar_of_zip(packed: &[u8]) -> anyhow::Result<Bytes> {
    let mut zip = ZipArchive::new(Cursor::new(packed))?;
    let (mut tar, mut left) = (tar::Builder::new(Vec::new()), MAX_BYTES);
    for index in 0..zip.len() {
        let mut file = zip.by_index(index)?;
        let name = file.name()?.into_owned();
        if !file.is_file() {
            continue;
        }
        let mut content = Vec::new();
        file.by_ref().take(left + 1).read_to_end(&mut content)?;
        let length = content.len() as u64;
        left = left
            .checked_sub(length)
            .ok_or_else(|| io::Error::other("it is too large"))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(file.unix_mode().unwrap_or(0o644));
        tar.append_data(&mut header, &name, content.as_slice())?;
    }
    Ok(tar.into_inner()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_version_names_its_server_and_its_template() {
        let parsed = |text: &str| Version::parse(text, ".").unwrap();

        let of = |server: &str, template: &str| Version::Active {
            server: server.parse().unwrap(),
            template: template.to_owned(),
        };
        assert_eq!(
            parsed("active@coder.example.com/docker"),
            of("https://coder.example.com", "docker")
        );
        assert_eq!(
            parsed("active@http://127.0.0.1:3000/a"),
            of("http://127.0.0.1:3000", "a")
        );
        for text in [
            "active@",
            "active@coder.example.com",
            "active@coder.example.com/",
            "no-such-place",
            "-x:y",
        ] {
            let error = Version::parse(text, ".").unwrap_err();
            assert!(UsageError::is_in(&error), "{text}: {error}");
        }
    }

    #[test]
    fn archives_of_all_kinds_are_unpacked() {
        use std::io::Write as _;
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, "main.tf", b"x".as_slice())
            .unwrap();
        let tar = tar.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("main.tf", zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(b"x").unwrap();
        let zip = zip.finish().unwrap().into_inner();

        for packed in [tar, gzip.finish().unwrap(), zip] {
            let dir = tempfile::tempdir().unwrap();
            unpack(&packed.into(), dir.path(), &Stop::new()).unwrap();
            assert_eq!(fs::read(dir.path().join("main.tf")).unwrap(), b"x");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(
            unpack(
                &Bytes::from_static(b"neither of them"),
                dir.path(),
                &Stop::new()
            )
            .is_err()
        );
    }
}
