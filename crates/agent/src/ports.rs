//! Listening ports of the machine, and their processes.
//!
//! # Source
//! coder `agent/ports_supported.go`, `agent/agentssh/portinspection_supported.go`.

use std::{collections::BTreeMap, fs, io, path::Path};

/// State of a listening socket.
const LISTENS: &str = "0A";

/// Returns the socket number of each listening port. `proc` is where the system keeps its tables.
///
/// # Errors
/// An I/O error if it shows neither table.
pub(super) fn listening(proc: &Path) -> io::Result<BTreeMap<u16, u64>> {
    let [four, six] = ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(proc.join(table)));
    // A machine without IPv6 has only one of the tables.
    let tables = match (four, six) {
        (Err(error), Err(_)) => return Err(error),
        (four, six) => [four.unwrap_or_default(), six.unwrap_or_default()],
    };
    let lines = tables.iter().flat_map(|table| table.lines());
    Ok(lines.filter_map(socket).collect())
}

/// Parses the port and the socket number of a line, if the socket is listening.
fn socket(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTENS).then(|| Some((port, inode.parse().ok()?)))?
}

/// Calls `found` with the directory of each process and the number of each of its sockets. Processes of other users,
/// which do not show theirs, are left out.
pub(super) fn each_holder(proc: &Path, mut found: impl FnMut(&Path, u64)) {
    let Ok(processes) = fs::read_dir(proc) else {
        return;
    };
    for process in processes
        .flatten()
        .map(|it| it.path())
        .filter(|it| is_process(it))
    {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten();
        let targets = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        for target in targets {
            let number = target.to_str().and_then(|it| it.strip_prefix("socket:["));
            let number = number.and_then(|it| it.strip_suffix(']')?.parse().ok());
            if let Some(number) = number {
                found(&process, number);
            }
        }
    }
}

fn is_process(path: &Path) -> bool {
    let name = path.file_name().and_then(|it| it.to_str());
    name.is_some_and(|name| name.bytes().all(|it| it.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn ports_of_both_tables_are_found_with_their_holders() {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("17");
        for directory in [&proc.path().join("net"), &process.join("fd")] {
            fs::create_dir_all(directory).unwrap();
        }
        let four = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 123 1 0\n\
            \x20  1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 124 1 0\n";
        let six = "  0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 125 1 0\n";
        fs::write(proc.path().join("net/tcp"), four).unwrap();
        fs::write(proc.path().join("net/tcp6"), six).unwrap();
        symlink("socket:[123]", process.join("fd/3")).unwrap();
        symlink("/dev/null", process.join("fd/4")).unwrap();

        assert_eq!(
            listening(proc.path()).unwrap(),
            BTreeMap::from([(22, 125), (8080, 123)])
        );
        let mut holders = Vec::new();
        each_holder(proc.path(), |process, number| {
            holders.push((process.file_name().unwrap().to_owned(), number));
        });
        assert_eq!(holders, [("17".into(), 123)]);
    }
}
