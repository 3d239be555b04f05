//! Content of a support bundle. An error stands in place of whatever cannot be collected.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use serde_json::json;

use super::{Entry, redact::is_secret_name};
use crate::{
    cli::values::ListenAddress,
    files::beneath::{Dir, Kind},
    observe::BUILD,
};

/// Bytes that are kept of a log's end.
const MAX_LOG_BYTES: u64 = 2 << 20;
/// Number of files in the state directory that are listed.
const MAX_LISTED: usize = 1000;
/// Depth to which it is listed: `sessions/Session…/…`.
const MAX_DEPTH: usize = 3;
/// Longest time for each response of a running daemon.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest response, in bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Files that show a process's limits on Linux.
const FACTS: [&str; 8] = [
    "/etc/os-release",
    "/proc/version",
    "/proc/meminfo",
    "/proc/self/limits",
    "/proc/self/cgroup",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/pids.max",
];

/// Facts about this program, and about the machine.
pub(super) fn machine() -> anyhow::Result<Vec<Entry>> {
    let version = json!({ "build": BUILD, "time": jiff::Timestamp::now().to_string() });
    let facts = FACTS.map(|path| {
        let text = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
        format!("==> {path}\n{}\n", text.trim_end())
    });
    Ok(vec![
        Entry::new("version.json", serde_json::to_string_pretty(&version)?),
        Entry::new("machine.txt", facts.join("\n")),
    ])
}

/// Returns the names of all variables, and the values of those that are ours or affect the network, unless they are
/// secrets.
pub(super) fn environment() -> Entry {
    const SHOWN: [&str; 8] = [
        "OUTPOST_",
        "CODER_",
        "TF_LOG",
        "TF_CLI_CONFIG_FILE",
        "SSL_CERT_",
        "HTTP",
        "NO_PROXY",
        "PATH",
    ];
    let mut lines: Vec<String> = std::env::vars_os()
        .map(|(name, value)| {
            let name = name.to_string_lossy().into_owned();
            let upper = name.to_uppercase();
            let is_shown = SHOWN.iter().any(|shown| upper.starts_with(shown));
            match is_shown && !is_secret_name(&name) {
                true => format!("{name}={}", value.to_string_lossy()),
                false => format!("{name}=[left out]"),
            }
        })
        .collect();
    lines.sort();
    Entry::new("environment.txt", lines.join("\n") + "\n")
}

/// Lists names, sizes and ages of everything below `path`; no contents.
pub(super) fn listing(path: &Path) -> Entry {
    let mut lines = vec![format!("below {}:", path.display())];
    let listed = Dir::open(path).and_then(|dir| list(&dir, Path::new(""), MAX_DEPTH, &mut lines));
    if let Err(error) = listed {
        lines.push(error.to_string());
    }
    Entry::new("state.txt", lines.join("\n") + "\n")
}

/// Lists a directory, safely even though templates write in parts of it, also meanwhile.
fn list(root: &Dir, below: &Path, depth: usize, lines: &mut Vec<String>) -> io::Result<()> {
    for (name, _) in root.list(below)? {
        if lines.len() > MAX_LISTED {
            lines.push("and more".to_owned());
            return Ok(());
        }
        let path = below.join(name);
        let Some(found) = root.find(&path)? else {
            continue;
        };
        let (_, seconds, _) = found.version;
        let modified = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        let (mode, size) = (found.mode, found.size);
        lines.push(format!(
            "{mode:04o} {size:>12} {modified} {}",
            path.display()
        ));
        if found.kind == Kind::Directory && depth > 1 {
            list(root, &path, depth - 1, lines)?;
        }
    }
    Ok(())
}

/// Returns the end of a log.
pub(super) fn log(path: &Path) -> anyhow::Result<Entry> {
    let failed = || format!("failed to read the log `{}`", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let size = file.metadata().with_context(failed)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_LOG_BYTES)))
        .with_context(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES)
        .read_to_end(&mut bytes)
        .with_context(failed)?;
    let name = path.display().to_string().replace('/', "_");
    Ok(Entry::new(
        format!("logs/{}", name.trim_start_matches('_')),
        String::from_utf8_lossy(&bytes),
    ))
}

/// Returns the responses of a running daemon.
pub(super) async fn running(address: &ListenAddress) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (path, name) in [
        ("status", "status.json"),
        ("readyz", "readyz.txt"),
        ("metrics", "metrics.txt"),
    ] {
        let text = answer(&format!("http://{address}/{path}")).await;
        entries.push(Entry::new(
            name,
            text.unwrap_or_else(|error| format!("{error:#}")),
        ));
    }
    entries
}

async fn answer(url: &str) -> anyhow::Result<String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    let mut response = client.get(url).send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_ANSWER_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_has_names_and_no_contents() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("lost")).unwrap();
        fs::write(directory.path().join("lost/a.tfstate"), "s3cret").unwrap();

        let text = listing(directory.path()).text;

        assert!(
            text.contains(" 6 ") || text.contains("           6 "),
            "{text}"
        );
        assert!(
            text.contains("lost/a.tfstate") && !text.contains("s3cret"),
            "{text}"
        );
    }

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut text = "x".repeat(3 << 20);
        text.push_str("the end");
        fs::write(&path, text).unwrap();

        let entry = log(&path).unwrap();

        assert_eq!(entry.text.len() as u64, MAX_LOG_BYTES);
        assert!(entry.text.ends_with("the end"));
    }
}
