//! Saved logins: one context for each server that a person has logged in to, and one of them is the current one.
//!
//! `outpost/contexts/NAME.json` below the user's configuration directory names the server, `NAME.token` beside it
//! contains the token, and `outpost/context` names the current one. Only their owner can read them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{files, secret::Secret};

/// Bytes that are read of any of the files.
const MAX_BYTES: u64 = 64 << 10;

/// A server, with the person's login there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// URL of the server.
    #[serde(with = "address")]
    pub url: Url,
    /// User whose token it is.
    pub user: String,
    /// PEM file of further authorities to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with lists of revoked certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_file: Option<PathBuf>,
}

/// Serde form of a URL as text.
mod address {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use url::Url;

    pub(super) fn serialize<S: Serializer>(url: &Url, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(url.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Url, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Reasons why saved contexts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// No directory for them: there is no home directory.
    #[error("cannot find the directory of saved logins: neither XDG_CONFIG_HOME nor HOME is set")]
    NoPlace,
    /// A file that cannot be read or written.
    #[error("failed to {what} `{}`", .path.display())]
    Access {
        /// Operation that failed, such as `read`.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A file whose content we would not write.
    #[error("`{}` is not a saved login", .path.display())]
    Form {
        /// Path of the file.
        path: PathBuf,
        /// Error of the JSON parser.
        source: serde_json::Error,
    },
    /// A name under which nothing is saved.
    #[error("there is no context `{name}`{}", known(.names))]
    Unknown {
        /// Name that was asked for.
        name: String,
        /// Names of the saved contexts.
        names: Vec<String>,
    },
    /// A name that could be a path.
    #[error(
        "`{0}` is not a valid context name: use letters, digits, dots, hyphens and underscores"
    )]
    Name(String),
}

fn known(names: &[String]) -> String {
    match names {
        [] => ": there are no saved logins; `outpost login` creates one".to_owned(),
        names => format!(", only: {}", names.join(", ")),
    }
}

fn access<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ContextError + 'a {
    move |source| ContextError::Access {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Saved contexts of one person.
#[derive(Clone, Debug)]
pub struct Contexts {
    directory: PathBuf,
}

impl Contexts {
    /// Returns the contexts of the current user.
    ///
    /// # Errors
    /// [`ContextError::NoPlace`]
    pub fn of_user() -> Result<Self, ContextError> {
        let directory = super::user_dir().ok_or(ContextError::NoPlace)?;
        Ok(Self { directory })
    }

    /// Returns the contexts in `directory`, which need not exist.
    pub fn in_dir(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn contexts(&self) -> PathBuf {
        self.directory.join("contexts")
    }

    fn current_path(&self) -> PathBuf {
        self.directory.join("context")
    }

    fn path(&self, name: &str, extension: &str) -> Result<PathBuf, ContextError> {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(allowed)
        {
            return Err(ContextError::Name(name.to_owned()));
        }
        Ok(self.contexts().join(format!("{name}.{extension}")))
    }

    /// Path of the file with the token of a context.
    ///
    /// # Errors
    /// [`ContextError::Name`]
    pub fn token_path(&self, name: &str) -> Result<PathBuf, ContextError> {
        self.path(name, "token")
    }

    /// Returns the names of all contexts, sorted.
    ///
    /// # Errors
    /// [`ContextError::Access`]
    pub fn names(&self) -> Result<Vec<String>, ContextError> {
        let directory = self.contexts();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(access("read", &directory)(error)),
        };
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    /// Returns the name of the current context, if there is one.
    ///
    /// # Errors
    /// [`ContextError::Access`]
    pub fn current(&self) -> Result<Option<String>, ContextError> {
        let Some(text) = read(&self.current_path())? else {
            return Ok(None);
        };
        let name = text.trim();
        let exists = self.path(name, "json").is_ok_and(|path| path.is_file());
        Ok(exists.then(|| name.to_owned()))
    }

    /// Reads a context by its name.
    ///
    /// # Errors
    /// [`ContextError::Unknown`], or if its file cannot be used.
    pub fn load(&self, name: &str) -> Result<Context, ContextError> {
        let path = self.path(name, "json")?;
        let Some(text) = read(&path)? else {
            return Err(self.unknown(name));
        };
        serde_json::from_str(&text).map_err(|source| ContextError::Form { path, source })
    }

    /// Returns the context of a server and its name: the current one if it is for that server, else the first that
    /// is. Unreadable ones are skipped.
    ///
    /// # Errors
    /// [`ContextError::Access`]
    pub fn of_server(&self, url: &Url) -> Result<Option<(Context, String)>, ContextError> {
        let names = self.current()?.into_iter().chain(self.names()?);
        let mut loaded = names.filter_map(|name| Some((self.load(&name).ok()?, name)));
        Ok(loaded.find(|(context, _)| context.url == *url))
    }

    /// Reads the token of a context.
    ///
    /// # Errors
    /// [`ContextError::Unknown`] or [`ContextError::Access`]
    pub fn token(&self, name: &str) -> Result<Secret, ContextError> {
        match read(&self.token_path(name)?)? {
            Some(text) => Ok(Secret::new(text.trim())),
            None => Err(self.unknown(name)),
        }
    }

    /// Saves a context, and makes it the current one.
    ///
    /// # Errors
    /// [`ContextError::Access`] or [`ContextError::Name`]
    pub fn save(&self, name: &str, context: &Context, token: &Secret) -> Result<(), ContextError> {
        let (described, kept) = (self.path(name, "json")?, self.token_path(name)?);
        let directory = self.contexts();
        files::create_private_dir(&directory).map_err(access("make", &directory))?;
        let json =
            serde_json::to_vec_pretty(context).expect("addresses and names have a JSON form");
        files::write_private(&kept, token.expose().as_bytes()).map_err(access("write", &kept))?;
        files::write_private(&described, &json).map_err(access("write", &described))?;
        self.choose(name)
    }

    /// Saves a new token for a context.
    ///
    /// # Errors
    /// [`ContextError::Access`]
    pub fn set_token(&self, name: &str, token: &Secret) -> Result<(), ContextError> {
        let path = self.token_path(name)?;
        files::write_private(&path, token.expose().as_bytes()).map_err(access("write", &path))
    }

    /// Makes a context the current one.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn choose(&self, name: &str) -> Result<(), ContextError> {
        self.load(name)?;
        let path = self.current_path();
        let written = files::write_private(&path, format!("{name}\n").as_bytes());
        written.map_err(access("write", &path))
    }

    /// Removes a context with its token.
    ///
    /// # Errors
    /// [`ContextError::Unknown`] or [`ContextError::Access`]
    pub fn remove(&self, name: &str) -> Result<(), ContextError> {
        self.load(name)?;
        let is_current = self.current()?.is_some_and(|current| current == name);
        let mut paths = vec![self.token_path(name)?, self.path(name, "json")?];
        paths.extend(is_current.then(|| self.current_path()));
        for path in paths {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(access("remove", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> ContextError {
        ContextError::Unknown {
            name: name.to_owned(),
            names: self.names().unwrap_or_default(),
        }
    }
}

/// Returns a name for the context of a server: its host, and its port unless it is a default one.
pub fn name_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("server");
    let host = host.replace(
        |letter: char| !letter.is_ascii_alphanumeric() && letter != '.',
        "-",
    );
    let host = host.trim_matches('-');
    match url.port() {
        Some(port) => format!("{host}-{port}"),
        None => host.to_owned(),
    }
}

/// Reads a file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>, ContextError> {
    use io::Read as _;
    let opened = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(access("read", path)(error)),
    };
    let mut text = String::new();
    opened
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(access("read", path))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn context(url: &str) -> Context {
        Context {
            url: url.parse().unwrap(),
            user: "amy".to_owned(),
            ca_file: None,
            crl_file: None,
        }
    }

    #[test]
    fn a_saved_login_is_for_its_owner_alone_and_the_newest_is_current() {
        let temp = tempfile::tempdir().unwrap();
        let contexts = Contexts::in_dir(temp.path().join("outpost"));
        assert_eq!(contexts.current().unwrap(), None);

        let (lab, work) = (
            context("http://127.0.0.1:7080"),
            context("https://work.example"),
        );
        contexts.save("lab", &lab, &Secret::new("one")).unwrap();
        contexts.save("work", &work, &Secret::new("two")).unwrap();

        assert_eq!(contexts.names().unwrap(), ["lab", "work"]);
        assert_eq!(contexts.current().unwrap().as_deref(), Some("work"));
        assert_eq!(contexts.load("lab").unwrap(), lab);
        assert_eq!(contexts.token("lab").unwrap().expose(), "one");
        let found = contexts.of_server(&lab.url).unwrap();
        assert_eq!(found, Some((lab, "lab".to_owned())));
        for path in [contexts.token_path("lab").unwrap(), contexts.contexts()] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }

        contexts.remove("work").unwrap();
        assert_eq!(contexts.current().unwrap(), None);
        let error = contexts.load("work").unwrap_err().to_string();
        assert_eq!(error, "there is no context `work`, only: lab");
    }

    #[test]
    fn a_name_never_leads_out_of_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let contexts = Contexts::in_dir(temp.path().to_owned());

        for name in ["", "..", "a/b", ".hidden", "a b"] {
            let loaded = contexts.load(name);
            assert!(matches!(loaded, Err(ContextError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_server_gives_its_context_a_name() {
        let name = |url: &str| name_of(&url.parse().unwrap());

        assert_eq!(name("https://coder.example.com"), "coder.example.com");
        assert_eq!(name("http://127.0.0.1:7080"), "127.0.0.1-7080");
        assert_eq!(name("http://[::1]:7080"), "1-7080");
    }
}
