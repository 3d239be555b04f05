//! Git repositories: fetched by git itself, stored as one pack with its references.

#![allow(
    clippy::disallowed_methods,
    reason = "repositories are made in temporary directories, which nobody reads before they are whole"
)]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use outpost_net::trust;
use tempfile::TempPath;
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

use super::{Store, StoreError, fetch::blocking, generation::GitRepository, scan::Tree};

/// Maximum duration of one git command; a large repository over a slow line takes some minutes.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Maximum output of a command, and maximum size of a whole tree, in bytes.
const MAX_OUTPUT: u64 = 512 << 20;
/// Maximum size of a pack in bytes.
const MAX_PACK_BYTES: u64 = 8 << 30;
/// Schemes of remote machines. A template names the address, so schemes that run anything on this machine are left
/// out.
const SCHEMES: [&str; 3] = ["https://", "http://", "ssh://"];

/// Reason why a repository is not available.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The address has a scheme that is not allowed.
    #[error("{url:?} is not a supported repository URL: expected https, http or ssh")]
    Address {
        /// The address as written.
        url: String,
    },
    /// Git cannot be started.
    #[error("`git` cannot be run; install it to mirror repositories")]
    Spawn(#[source] io::Error),
    /// A git command failed.
    #[error("git {what} failed: {said}")]
    Failed {
        /// Purpose of the command.
        what: &'static str,
        /// Last output of the command.
        said: String,
    },
    /// A git command exceeded its deadline.
    #[error("git {what} took more than {DEADLINE:?}")]
    Slow {
        /// Purpose of the command.
        what: &'static str,
    },
    /// There is no such branch, tag or commit.
    #[error("{url} has no branch, tag or commit `{reference}`")]
    NoReference {
        /// Address of the repository.
        url: String,
        /// The reference that was requested.
        reference: String,
    },
    /// The repository has no branches or tags.
    #[error("{url} has no branch and no tag")]
    Empty {
        /// Address of the repository.
        url: String,
    },
    /// The repository has none of the references that are wanted.
    #[error("{url} has no branch and no tag that `refs` names")]
    NoneWanted {
        /// Address of the repository.
        url: String,
    },
    /// A tag was moved, and the mirror lacks the commit that it had before.
    #[error("a tag of {url} was moved")]
    Moved {
        /// Address of the repository.
        url: String,
    },
    /// The references changed between listing and fetching.
    #[error("{url} changed its tags while it was fetched")]
    Unsteady {
        /// Address of the repository.
        url: String,
    },
    /// A file cannot be written or read.
    #[error("failed to set up a directory for a repository")]
    Io(#[from] io::Error),
    /// The store reports an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns a repository's address without scheme and user: `HOST/OWNER/REPO`.
pub fn place(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    let begin = authority.rfind('@').map_or(0, |at| at + 1);
    let place = rest[begin..].trim_end_matches('/');
    place.strip_suffix(".git").unwrap_or(place)
}

/// Returns the full names that a branch or a tag may have, in the order in which a checkout looks for them.
pub(crate) fn full_names(name: &str) -> [String; 3] {
    [
        format!("refs/tags/{name}"),
        format!("refs/heads/{name}"),
        name.to_owned(),
    ]
}

/// Prefix of the full names of tags.
const TAGS: &str = "refs/tags/";

/// Returns the tags among references, by their short names.
pub(super) fn tags(refs: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    let tag = |(name, object)| Some((str::strip_prefix(name, TAGS)?, object));
    refs.iter()
        .map(|(name, object)| (name.as_str(), object.as_str()))
        .filter_map(tag)
}

/// A repository on this machine. Its directory is removed once the last clone is dropped.
#[derive(Clone)]
pub struct Repository {
    url: String,
    dir: Arc<tempfile::TempDir>,
    head: Option<String>,
    refs: BTreeMap<String, String>,
}

impl Repository {
    /// Returns the current branches, tags and head of a remote repository, without its content.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn remote(
        url: &str,
        authorities: &[Vec<u8>],
    ) -> Result<(BTreeMap<String, String>, Option<String>), GitError> {
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            let url = url.chars().take(200).collect();
            return Err(GitError::Address { url });
        }
        let trust = trust_file(authorities)?;
        let ask = Ask {
            trust: trust.as_deref(),
            // Outside of any repository, whose configuration git would read.
            ..Ask::new("ls-remote", Path::new("/"))
        };
        let listed = ask.run(&["ls-remote", "--symref", "--", url], b"").await?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let (mut refs, mut head) = (BTreeMap::new(), None);
        for line in listed.lines() {
            let Some((value, name)) = line.split_once('\t') else {
                continue;
            };
            if let Some(target) = value.strip_prefix("ref: ").filter(|_| name == "HEAD") {
                head = Some(target.to_owned());
            } else if is_kept(name) {
                refs.insert(name.to_owned(), value.to_owned());
            }
        }
        match refs.is_empty() {
            true => Err(GitError::Empty {
                url: url.to_owned(),
            }),
            false => Ok((refs, head.filter(|head| is_kept(head)))),
        }
    }

    /// Fetches branches and tags of a remote repository.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn fetch(
        store: &Store,
        url: &str,
        wanted: &BTreeMap<String, String>,
        head: Option<String>,
        authorities: &[Vec<u8>],
    ) -> Result<Self, GitError> {
        let incoming = store.dir().join("incoming");
        let repository = Self {
            url: url.to_owned(),
            dir: Arc::new(directory(&incoming)?),
            head: None,
            refs: BTreeMap::new(),
        };
        let path = repository.dir.path();
        git("init", path, &["init", "--quiet", "--bare", "."]).await?;
        fs::create_dir_all(path.join("info"))?;
        fs::write(path.join("info/attributes"), ATTRIBUTES)?;
        repository.with(url, wanted, head, authorities).await
    }

    /// Returns the repository with these branches and tags, which are fetched from its origin at `url`, instead of
    /// its present ones.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn with(
        &self,
        url: &str,
        wanted: &BTreeMap<String, String>,
        head: Option<String>,
        authorities: &[Vec<u8>],
    ) -> Result<Self, GitError> {
        if wanted.is_empty() {
            return Err(GitError::NoneWanted {
                url: url.to_owned(),
            });
        }
        let arguments = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--stdin",
            "--",
            url,
        ];
        // Lists may be long, and the length of arguments is limited.
        let list: String = wanted
            .keys()
            .map(|name| format!("+{name}:{name}\n"))
            .collect();
        let trust = trust_file(authorities)?;
        let path = self.dir.path();
        let ask = Ask {
            trust: trust.as_deref(),
            ..Ask::new("fetch", path)
        };
        ask.run(&arguments, list.as_bytes()).await?;
        let there = self.list_refs().await?;
        let others = there.keys().filter(|name| !wanted.contains_key(*name));
        let list: String = others.map(|name| format!("delete {name}\n")).collect();
        if !list.is_empty() {
            let ask = Ask::new("update-ref", path);
            ask.run(&["update-ref", "--stdin"], list.as_bytes()).await?;
        }
        // With several threads, git packs the same objects differently each time.
        let all = ["-c", "pack.threads=1", "repack", "-a", "-d", "-q"];
        git("repack", path, &all).await?;
        let refs = self.list_refs().await?;
        // Tags are pinned as they were listed.
        let is_as_listed = |(tag, object): (&str, &str)| {
            wanted.get(&format!("{TAGS}{tag}")).map(String::as_str) == Some(object)
        };
        if !tags(&refs).all(is_as_listed) {
            return Err(GitError::Unsteady {
                url: url.to_owned(),
            });
        }
        Ok(Self {
            url: url.to_owned(),
            dir: Arc::clone(&self.dir),
            head,
            refs,
        })
    }

    /// Returns a repository of the store.
    ///
    /// # Errors
    /// The system's error.
    pub fn stored(store: &Store, known: &GitRepository) -> Result<Self, GitError> {
        let dir = Arc::new(directory(&std::env::temp_dir())?);
        lay_out(dir.path(), store, known)?;
        Ok(Self {
            url: known.url.clone(),
            dir,
            head: known.head.clone(),
            refs: known.refs.clone(),
        })
    }

    /// Returns branches and tags with their commits.
    pub fn refs(&self) -> &BTreeMap<String, String> {
        &self.refs
    }

    async fn list_refs(&self) -> Result<BTreeMap<String, String>, GitError> {
        let arguments = ["for-each-ref", "--format=%(objectname) %(refname)"];
        let listed = git("for-each-ref", self.dir.path(), &arguments).await?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let pair = |line: &str| {
            let (commit, name) = line.split_once(' ')?;
            Some((name.to_owned(), commit.to_owned()))
        };
        Ok(listed.lines().filter_map(pair).collect())
    }

    /// Returns the commit and the files at a branch, tag or commit, or at the head.
    ///
    /// # Errors
    /// [`GitError::NoReference`], and all errors of git.
    pub async fn tree(&self, reference: Option<&str>) -> Result<(String, Tree), GitError> {
        let commit = self.commit(reference).await?;
        let archive = git(
            "archive",
            self.dir.path(),
            &["archive", "--format=tar", &commit],
        )
        .await?;
        let tree = blocking(move || Ok(Tree::of_tar(archive.as_slice()))).await??;
        Ok((commit, tree))
    }

    /// Returns the commit of a branch, a tag or an abbreviated commit id; without one, that of the head.
    ///
    /// # Errors
    /// [`GitError::NoReference`], and all errors of git.
    pub async fn commit(&self, reference: Option<&str>) -> Result<String, GitError> {
        let name = reference
            .or(self.head.as_deref())
            .unwrap_or("refs/heads/main");
        let named = full_names(name);
        let of_ref = named.iter().find_map(|name| self.refs.get(name));
        let is_commit = name.len() >= 7 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let unknown = || GitError::NoReference {
            url: self.url.clone(),
            reference: name.chars().take(200).collect(),
        };
        let object = match of_ref {
            Some(object) => object.clone(),
            None if is_commit => name.to_owned(),
            None => return Err(unknown()),
        };
        let object = format!("{object}^{{commit}}");
        let arguments = ["rev-parse", "--verify", "--quiet", &object];
        let found = git("rev-parse", self.dir.path(), &arguments).await;
        let found = found.map_err(|error| match error {
            GitError::Failed { .. } => unknown(),
            error => error,
        })?;
        Ok(String::from_utf8_lossy(&found).trim().to_owned())
    }

    /// Stores the repository as a pack.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn keep(&self, store: &Store) -> Result<GitRepository, GitError> {
        let packs = self.dir.path().join("objects/pack");
        let of = |end: &str| -> Result<PathBuf, GitError> {
            let mut found = fs::read_dir(&packs)?.filter_map(|entry| Some(entry.ok()?.path()));
            let found = found.find(|path| path.extension() == Some(OsStr::new(end)));
            found.ok_or_else(|| GitError::Empty {
                url: self.url.clone(),
            })
        };
        let (pack, index) = (of("pack")?, of("idx")?);
        let store = store.clone();
        let stored = blocking(move || {
            let put = |path: &Path| {
                let file = fs::File::open(path).map_err(StoreError::io("open", path))?;
                let name = path.display().to_string();
                store
                    .put_from(&name, file, MAX_PACK_BYTES)
                    .map(|(digest, _)| digest)
            };
            Ok((put(&pack)?, put(&index)?))
        });
        let (pack, index) = stored.await?;
        Ok(GitRepository {
            url: self.url.clone(),
            refs: self.refs.clone(),
            head: self.head.clone(),
            pack,
            index,
        })
    }
}

/// Attributes that override those of a repository, so that its archives leave out nothing that a clone contains.
const ATTRIBUTES: &str = "* -export-ignore -export-subst\n";

/// Creates a directory for a repository inside another one.
pub(super) fn directory(inside: &Path) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("git-").tempdir_in(inside)
}

/// Makes a repository of the store readable for git: links to its pack, and its references.
///
/// # Errors
/// The system's error.
pub(super) fn lay_out(dir: &Path, store: &Store, known: &GitRepository) -> io::Result<()> {
    let packs = dir.join("objects/pack");
    // Git recognizes a repository by `objects`, `refs` and `HEAD`, even if `refs` is empty and `HEAD` names no
    // branch.
    for inner in [&packs, &dir.join("refs"), &dir.join("info")] {
        fs::create_dir_all(inner)?;
    }
    for (digest, end) in [(known.pack, "pack"), (known.index, "idx")] {
        let link = packs.join(format!("{}.{end}", known.pack_name()));
        std::os::unix::fs::symlink(store.path(digest), link)?;
    }
    let head = known.head.as_deref().unwrap_or("refs/heads/main");
    fs::write(dir.join("HEAD"), format!("ref: {head}\n"))?;
    let is_sha256 = known.refs.values().any(|commit| commit.len() == 64);
    let format = match is_sha256 {
        true => "repositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256",
        false => "repositoryformatversion = 0",
    };
    let config = format!("[core]\n\tbare = true\n[core]\n\t{format}\n");
    fs::write(dir.join("config"), config)?;
    fs::write(dir.join("info/attributes"), ATTRIBUTES)?;
    let refs = known.refs.iter();
    let refs: String = refs
        .map(|(name, commit)| format!("{commit} {name}\n"))
        .collect();
    fs::write(dir.join("packed-refs"), refs)
}

/// Returns whether a reference is a branch or a tag; forges also have references for every proposed change.
fn is_kept(name: &str) -> bool {
    let is_ours = name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
    // `^{}` is the object behind an annotated tag; the other characters are syntax in a refspec.
    is_ours && !name.ends_with("^{}") && !name.contains(['\n', ' ', ':', '*', '?', '['])
}

/// Returns a file with the system's authorities and further ones, because git supports one file only; `None` if there
/// are no further ones.
fn trust_file(authorities: &[Vec<u8>]) -> Result<Option<TempPath>, GitError> {
    if authorities.is_empty() {
        return Ok(None);
    }
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&trust::bundle(&authorities.join(&b'\n')))?;
    Ok(Some(file.into_temp_path()))
}

async fn git(what: &'static str, dir: &Path, arguments: &[&str]) -> Result<Vec<u8>, GitError> {
    Ask::new(what, dir).run(arguments, b"").await
}

/// A git command to run.
struct Ask<'a> {
    what: &'static str,
    dir: &'a Path,
    /// File with trusted authorities, if they are not the system's.
    trust: Option<&'a Path>,
}

impl<'a> Ask<'a> {
    fn new(what: &'static str, dir: &'a Path) -> Self {
        let trust = None;
        Self { what, dir, trust }
    }

    async fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.dir);
        if let Some(trust) = self.trust {
            command.env("GIT_SSL_CAINFO", trust);
        }
        git_with(self.what, command, input).await
    }
}

/// Runs git, which never prompts for a password. It is killed if this process ends.
async fn git_with(
    what: &'static str,
    mut command: Command,
    input: &[u8],
) -> Result<Vec<u8>, GitError> {
    use tokio::io::AsyncWriteExt as _;
    let mut child = command
        .env("GIT_TERMINAL_PROMPT", "0")
        // Set in hooks, for example: git would use that repository instead of the current directory.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(GitError::Spawn)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // Git may exit before it has read everything; its status decides.
            let _ = stdin.write_all(input).await;
        }
    };
    let read = async {
        let mut said = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_OUTPUT).read_to_end(&mut said).await?;
        }
        io::Result::Ok(said)
    };
    let complain = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(64 << 10).read_to_end(&mut said).await?;
        }
        io::Result::Ok(said)
    };
    let all = async { tokio::join!(write, read, complain, child.wait()) };
    let ended = timeout(DEADLINE, all).await;
    let ((), said, complaint, status) = ended.map_err(|_| GitError::Slow { what })?;
    if status?.success() {
        return Ok(said?);
    }
    let complaint = complaint?;
    let complaint = String::from_utf8_lossy(&complaint);
    let last = complaint
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty());
    Err(GitError::Failed {
        what,
        said: last
            .unwrap_or("no reason given")
            .chars()
            .take(300)
            .collect(),
    })
}
