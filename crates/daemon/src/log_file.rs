//! Complete log of a job on the daemon's own disk, for the lines that the server does not keep.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outpost_base::job::{JobId, LogLine};
use outpost_files as files;
use tracing::warn;

/// Limits on the size and age of jobs' logs on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRetention {
    /// Bytes of one job's log; beyond them its oldest lines are removed. At zero no log is kept.
    pub(crate) job_bytes: u64,
    /// Bytes of all logs together; beyond them the oldest logs are removed.
    pub(crate) total_bytes: u64,
    /// Age at which a log is removed.
    pub age: Duration,
}

impl LogRetention {
    /// Returns limits that keep the whole log of a long build for a week.
    pub fn standard() -> Self {
        Self {
            job_bytes: 128 << 20,
            total_bytes: 512 << 20,
            age: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// Directory of the logs of jobs.
pub(super) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("logs")
}

/// Log of one job: `<job>.log`, and `<job>.log.1` with earlier lines. Only the owner can read it.
pub(super) struct LogFile {
    path: PathBuf,
    out: BufWriter<File>,
    written: u64,
    /// Half of the limit of a job: two files are kept.
    limit: u64,
}

impl LogFile {
    /// Creates the file, and removes logs that exceed the limits. `None` if no log is to be kept.
    pub(super) fn create(
        state_dir: &Path,
        job: JobId,
        retention: LogRetention,
    ) -> io::Result<Option<Self>> {
        if retention.job_bytes == 0 {
            return Ok(None);
        }
        let dir = directory(state_dir);
        files::create_private_dir(&dir)?;
        prune(&dir, retention, SystemTime::now())?;
        let path = dir.join(format!("{job}.log"));
        Ok(Some(Self {
            out: BufWriter::new(open(&path)?),
            path,
            written: 0,
            limit: retention.job_bytes.div_ceil(2),
        }))
    }

    /// Appends a line, or a piece of one that `goes_on`.
    pub(super) fn write(&mut self, line: &LogLine, goes_on: bool) -> io::Result<()> {
        if self.written >= self.limit {
            self.rotate()?;
        }
        let (at, level, stage) = (line.created_at, line.level.as_str(), &line.stage);
        let mark = if goes_on { "…" } else { "" };
        writeln!(
            self.out,
            "{at:.3} {level:5} [{stage}] {}{mark}",
            line.output
        )?;
        self.written += (line.output.len() + stage.len() + 40) as u64;
        Ok(())
    }

    /// Writes buffered lines to the file.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.out.flush()?;
        let mut before = self.path.clone().into_os_string();
        before.push(".1");
        fs::rename(&self.path, before)?;
        self.out = BufWriter::new(open(&self.path)?);
        self.written = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    options.open(path)
}

/// Removes logs that are too old, and the oldest ones while all together are too large. A file that cannot be removed
/// is logged and left.
fn prune(dir: &Path, retention: LogRetention, now: SystemTime) -> io::Result<()> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Another slot may have removed it in the meantime.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        logs.push((metadata.modified()?, metadata.len(), entry.path()));
    }
    logs.sort();
    let mut total: u64 = logs.iter().map(|(_, length, _)| length).sum();
    for (modified, length, path) in logs {
        let age = now.duration_since(modified).unwrap_or_default();
        if age <= retention.age && total <= retention.total_bytes {
            break;
        }
        total -= length;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, path = %path.display(), "failed to remove an old log"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use jiff::Timestamp;
    use outpost_base::job::{LogLevel, LogSource};
    use uuid::Uuid;

    use super::*;

    const RETENTION: LogRetention = LogRetention {
        job_bytes: 2000,
        total_bytes: 3000,
        age: Duration::from_secs(60),
    };

    fn line(output: String) -> LogLine {
        LogLine {
            source: LogSource::Provisioner,
            level: LogLevel::Info,
            created_at: Timestamp::UNIX_EPOCH,
            stage: "Init".to_owned(),
            output,
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_log_is_for_its_owner_and_has_a_line_for_each_line() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobId(Uuid::from_u128(1));
        let mut log = LogFile::create(dir.path(), job, RETENTION)
            .unwrap()
            .unwrap();

        log.write(&line("one".to_owned()), false).unwrap();
        log.write(&line("two".to_owned()), true).unwrap();
        log.flush().unwrap();

        let path = directory(dir.path()).join(format!("{job}.log"));
        let text = fs::read_to_string(&path).unwrap();
        let expected = "1970-01-01T00:00:00.000Z info  [Init] one\n1970-01-01T00:00:00.000Z info  [Init] two…\n";
        assert_eq!(text, expected);
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_log_that_is_too_long_keeps_its_newest_lines() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobId(Uuid::from_u128(1));
        let mut log = LogFile::create(dir.path(), job, RETENTION)
            .unwrap()
            .unwrap();

        for number in 0..1000 {
            log.write(&line(format!("line {number}")), false).unwrap();
        }
        drop(log);

        let dir = directory(dir.path());
        assert_eq!(names(&dir), [format!("{job}.log"), format!("{job}.log.1")]);
        let read = |name: String| fs::read_to_string(dir.join(name)).unwrap();
        let kept = read(format!("{job}.log.1")) + &read(format!("{job}.log"));
        assert!(kept.ends_with("line 999\n"), "{kept}");
        assert!((800..3000).contains(&kept.len()), "{}", kept.len());
    }

    #[test]
    fn old_logs_go_and_so_do_those_that_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (name, age, length) in [
            ("a", 100, 1),
            ("b", 50, 2000),
            ("c", 40, 2000),
            ("d", 30, 500),
        ] {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_len(length).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }

        prune(dir.path(), RETENTION, now).unwrap();

        assert_eq!(names(dir.path()), ["c", "d"]);
    }
}
