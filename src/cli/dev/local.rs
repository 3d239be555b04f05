//! Workspaces that run on this machine: whether their processes exist, and what is left of them.
//!
//! A template that keeps workspaces on the provisioner's machine declares the variable [`VARIABLE`], and writes the
//! pid of a workspace's process into `<workspace>/run/agent.pid` and its output into `run/agent.log` beside it.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use crate::proto::provisioner::VariableValue;

/// Variable that names the directory below which a template keeps workspaces.
pub(super) const VARIABLE: &str = "workspaces_directory";

/// Number of lines of a log that are shown.
const LOG_LINES: usize = 5;
/// Bytes of a log that are read for them.
const LOG_BYTES: u64 = 4 << 10;

/// Traces of workspaces on this machine.
pub(super) struct Machine {
    directory: PathBuf,
    is_used: bool,
}

impl Machine {
    /// Looks below `directory`, which is empty until a template is told of it.
    pub(super) fn new(directory: PathBuf, is_used: bool) -> Self {
        Self { directory, is_used }
    }

    /// Variable that tells the template of the directory.
    pub(super) fn variable(&self) -> VariableValue {
        VariableValue {
            name: VARIABLE.to_owned(),
            value: self.directory.display().to_string(),
            sensitive: false,
        }
    }

    /// Returns whether the template keeps its workspaces here.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Ids of the processes of workspaces that are running.
    pub(super) fn running(&self) -> Vec<i32> {
        self.workspaces()
            .iter()
            .filter_map(|workspace| fs::read_to_string(workspace.join("run/agent.pid")).ok())
            .filter_map(|pid| pid.trim().parse().ok())
            .filter(|pid| is_alive(*pid))
            .collect()
    }

    /// Last lines that each workspace's process printed.
    pub(super) fn ends_of_logs(&self) -> Vec<String> {
        let logs = self
            .workspaces()
            .into_iter()
            .map(|it| it.join("run/agent.log"));
        let end = |log: PathBuf| {
            let mut file = fs::File::open(log).ok()?;
            let begin = file.metadata().ok()?.len().saturating_sub(LOG_BYTES);
            file.seek(SeekFrom::Start(begin)).ok()?;
            let mut text = Vec::new();
            file.take(LOG_BYTES).read_to_end(&mut text).ok()?;
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let begin = lines.len().saturating_sub(LOG_LINES);
            Some(lines[begin..].join("\n"))
        };
        logs.filter_map(end).collect()
    }

    pub(super) fn workspaces(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Ids of all processes whose command line or working directory leads below the directory, whoever started them.
    /// Empty where there is no `/proc`.
    pub(super) fn processes(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| self.is_in(*pid))
            .collect()
    }

    fn is_in(&self, pid: i32) -> bool {
        let process = Path::new("/proc").join(pid.to_string());
        let works_there =
            fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.directory));
        let named = fs::read(process.join("cmdline")).unwrap_or_default();
        works_there || String::from_utf8_lossy(&named).contains(&*self.directory.to_string_lossy())
    }
}

/// Returns whether a process with this id exists and has not ended. A zombie has ended.
pub(super) fn is_alive(pid: i32) -> bool {
    let exists = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    exists && state != Some('Z')
}
