//! `coder dotfiles`: personal configuration from a git repository.
//!
//! # Source
//! coder `cli/dotfiles.go`, `cli/dotfiles_other.go`.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use jiff::Zoned;
use tokio::process::Command;

use crate::{
    cli::{
        exit::{Interrupted, UsageError},
        output, values,
    },
    stop::Stop,
};

/// Install scripts by precedence; only the first one found runs.
const SCRIPTS: [&str; 12] = [
    "install.sh",
    "install",
    "bootstrap.sh",
    "bootstrap",
    "setup.sh",
    "setup",
    "script/install.sh",
    "script/install",
    "script/bootstrap.sh",
    "script/bootstrap",
    "script/setup.sh",
    "script/setup",
];
/// File in the config directory with the URL of the cloned repository.
const URL_FILE: &str = "dotfilesurl";
/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 1024;

/// Personalize a workspace by applying a dotfiles repository
///
/// Clones or pulls the repository, then runs its install script. Without one, its dotfiles are linked into the home
/// directory.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Dotfiles {
    /// URL of the repository, as git takes it
    #[arg(value_name = "GIT_REPO_URL")]
    repository: String,
    /// Branch to clone or to check out
    #[arg(long, short, value_name = "NAME")]
    branch: Option<String>,
    /// Directory of the clone, relative to the config directory
    #[arg(
        long,
        value_name = "DIR",
        env = "CODER_DOTFILES_REPO_DIR",
        default_value = "dotfiles"
    )]
    repo_dir: PathBuf,
    /// Directory of the links, in place of the home directory
    #[arg(long, value_name = "DIR", env = "CODER_SYMLINK_DIR")]
    symlink_dir: Option<PathBuf>,
    /// Coder's global config directory
    #[arg(long, value_name = "DIR", env = "CODER_CONFIG_DIR")]
    global_config: Option<PathBuf>,
    /// Bypass all confirmation prompts
    #[arg(
        long,
        short,
        value_parser = values::boolean,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    yes: bool,
}

impl Dotfiles {
    pub(in crate::cli) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        if self.repository.starts_with('-') {
            let text = format!("{:?} is not a repository URL", self.repository);
            return Err(UsageError(text).into());
        }
        tokio::select! {
            done = self.apply() => done,
            () = stop.draining() => Err(Interrupted.into()),
        }
    }

    async fn apply(&self) -> anyhow::Result<()> {
        let config = match &self.global_config {
            Some(directory) => directory.clone(),
            None => default_config()?,
        };
        let directory = config.join(&self.repo_dir);
        let exists = self.keep_another(&config, &directory)?;
        self.fetch(&config, &directory, exists).await?;
        let path = config.join(URL_FILE);
        fs::write(&path, &self.repository)
            .with_context(|| format!("failed to write {}", path.display()))?;
        match SCRIPTS.iter().find(|name| directory.join(name).exists()) {
            Some(script) => self.run(&directory, script).await?,
            None => {
                let files = dotfiles(&directory)?;
                if files.is_empty() {
                    output::line("No install scripts or dotfiles found, nothing to do.")?;
                    return Ok(());
                }
                self.link(&directory, &files)?;
            }
        }
        Ok(output::line("Dotfiles installation complete.")?)
    }

    /// Backs up the clone of another repository. Returns whether this one is cloned already.
    fn keep_another(&self, config: &Path, directory: &Path) -> anyhow::Result<bool> {
        let url = &self.repository;
        output::line("Checking if dotfiles repository already exists...")?;
        if !directory.exists() {
            let text = format!(
                "Did not find dotfiles repository at {}",
                directory.display()
            );
            output::line(&text)?;
            return Ok(false);
        }
        if !directory.is_dir() {
            bail!("{} is not a directory", directory.display());
        }
        let old = fs::read_to_string(config.join(URL_FILE)).unwrap_or_default();
        if old == *url {
            let text = format!("Found dotfiles repository at {}", directory.display());
            output::line(&text)?;
            return Ok(true);
        }
        let now = Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        let backup = PathBuf::from(format!("{}_backup_{now}", directory.display()));
        let to = backup.display();
        self.confirm(&format!(
            "The dotfiles URL has changed from {old:?} to {url:?}.\n  Coder will backup the existing repo to {to}.\n\n  Continue?"
        ))?;
        fs::rename(directory, &backup)
            .with_context(|| format!("failed to rename {} to {to}", directory.display()))?;
        output::line("Done backup up dotfiles.")?;
        Ok(false)
    }

    async fn fetch(&self, config: &Path, directory: &Path, exists: bool) -> anyhow::Result<()> {
        let (url, to) = (&self.repository, directory.display());
        if !exists {
            self.confirm(&format!(
                "Cloning {url} into directory {to}.\n\n  Continue?"
            ))?;
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o750).create(config);
            made.with_context(|| format!("failed to create {}", config.display()))?;
            let mut clone = git(config);
            clone
                .arg("clone")
                .args(self.branch.iter().flat_map(|name| ["--branch", name]));
            clone.arg("--").arg(url).arg(&self.repo_dir);
            return done(&mut clone, "git clone").await;
        }
        self.confirm(&format!(
            "Pulling latest from {url} into directory {to}.\n  Continue?"
        ))?;
        // An old clone is better than nothing while the repository is unreachable.
        if let Err(error) = done(git(directory).args(["pull", "--ff-only"]), "git pull").await {
            output::note(&format!("{error:#}"));
            output::line("Failed to update repo, continuing...")?;
        }
        if let Some(branch) = &self.branch {
            output::line(&format!("Dotfiles git branch {branch:?} specified"))?;
            if let Err(error) = turn_to(directory, branch).await {
                output::line(&format!(
                    "Failed to use branch {branch:?} ({error:#}), continuing..."
                ))?;
            }
        }
        Ok(())
    }

    async fn run(&self, directory: &Path, script: &str) -> anyhow::Result<()> {
        self.confirm(&format!("Running install script {script}.\n\n  Continue?"))?;
        output::line(&format!("Running {script}..."))?;
        let path = directory.join(script);
        let found = fs::metadata(&path);
        let mode = found.with_context(|| format!("failed to read {}", path.display()))?;
        if mode.permissions().mode() & 0o111 == 0 {
            bail!("script {script:?} does not have execute permissions");
        }
        let mut command = Command::new(&path);
        command.current_dir(directory).kill_on_drop(true);
        done(&mut command, script).await
    }

    fn link(&self, directory: &Path, files: &[String]) -> anyhow::Result<()> {
        self.confirm(
            "No install scripts found, symlinking dotfiles to home directory.\n\n  Continue?",
        )?;
        let home = || std::env::home_dir().context("there is no home directory");
        let target = match &self.symlink_dir {
            Some(directory) if !directory.as_os_str().is_empty() => directory.clone(),
            _ => home()?,
        };
        for file in files {
            let (from, to) = (directory.join(file), target.join(file));
            output::line(&format!(
                "Symlinking {} to {}...",
                from.display(),
                to.display()
            ))?;
            make_room(&to)?;
            symlink(&from, &to).with_context(|| {
                format!("failed to link {} to {}", from.display(), to.display())
            })?;
        }
        Ok(())
    }

    /// Asks for confirmation unless `--yes` was given.
    fn confirm(&self, question: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        output::line(&format!("{question} (yes/no)"))?;
        let mut answer = String::new();
        let stdin = io::stdin().lock();
        let read = io::BufRead::read_line(&mut io::Read::take(stdin, MAX_ANSWER), &mut answer)?;
        match answer.trim() {
            "" if read == 0 => bail!("no answer given; `--yes` skips the prompts"),
            "" | "yes" | "y" => Ok(()),
            _ => bail!("canceled"),
        }
    }
}

/// Default directory of Coder's CLI, so that its clones are found again.
fn default_config() -> anyhow::Result<PathBuf> {
    let set = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty());
    let home = || Some(std::env::home_dir()?.join(".config"));
    let base = set.map(PathBuf::from).or_else(home);
    let base = base.context("there is no home directory; `--global-config` names another")?;
    Ok(base.join("coderv2"))
}

/// Names of the dotfiles in a repository; git's own files do not count, except for `.gitconfig`.
fn dotfiles(directory: &Path) -> anyhow::Result<Vec<String>> {
    let read = || {
        let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
        names.collect::<io::Result<Vec<_>>>()
    };
    let names = read().with_context(|| format!("failed to read {}", directory.display()))?;
    let is_one = |name: &String| {
        name.starts_with('.') && (!name.starts_with(".git") || name == ".gitconfig")
    };
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    let mut names: Vec<_> = names.filter(is_one).collect();
    names.sort();
    Ok(names)
}

/// Makes room for a link: renames a file, and removes a link, which is left over from an earlier run.
fn make_room(to: &Path) -> anyhow::Result<()> {
    let found = match fs::symlink_metadata(to) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", to.display()));
        }
    };
    if found.is_symlink() {
        return fs::remove_file(to).with_context(|| format!("failed to remove {}", to.display()));
    }
    if found.is_file() {
        let backup = PathBuf::from(format!("{}.bak", to.display()));
        output::line(&format!(
            "Moving {} to {}...",
            to.display(),
            backup.display()
        ))?;
        return fs::rename(to, &backup)
            .with_context(|| format!("failed to rename {}", to.display()));
    }
    // An empty directory goes as well; the link fails if there are files in it.
    let _ = fs::remove_dir(to);
    Ok(())
}

async fn turn_to(directory: &Path, branch: &str) -> anyhow::Result<()> {
    let asked = git(directory)
        .args(["branch", "--show-current"])
        .output()
        .await;
    let current = asked.context("failed to start `git`")?;
    if String::from_utf8_lossy(&current.stdout).trim() == branch {
        return Ok(());
    }
    done(
        git(directory).args(["checkout", branch, "--"]),
        "git checkout",
    )
    .await?;
    done(git(directory).args(["pull", "--ff-only"]), "git pull").await
}

/// Returns `git` without host key checks over SSH: a new workspace has no known hosts, and nobody to confirm one.
fn git(directory: &Path) -> Command {
    let ssh = std::env::var("GIT_SSH_COMMAND").ok();
    let ssh = ssh.filter(|command| !command.is_empty());
    let ssh = ssh.as_deref().unwrap_or("ssh");
    let options = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no";
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .env("GIT_SSH_COMMAND", format!("{ssh} {options}"))
        .kill_on_drop(true);
    command
}

async fn done(command: &mut Command, name: &str) -> anyhow::Result<()> {
    let status = command.status().await;
    let status = status.with_context(|| format!("failed to start `{name}`"))?;
    if !status.success() {
        bail!("`{name}` failed ({status})");
    }
    Ok(())
}
