//! Whether a port of the machine belongs to an IDE of JetBrains: their clients have no sessions, but forward one port.
//!
//! # Source
//! coder `agent/agentssh/portinspection_supported.go`, `agent/agentssh/jetbrainstrack.go`.

use std::{fs, path::Path};

/// What stands in the command line of such an IDE.
const MARK: &[u8] = b"idea.vendor.name=JetBrains";
/// The state of a socket that listens.
const LISTENS: &str = "0A";

/// Whether such an IDE listens at this port.
pub(super) async fn listens(port: u16) -> bool {
    let looked = tokio::task::spawn_blocking(move || is_one(Path::new("/proc"), port));
    looked.await.unwrap_or(false)
}

fn is_one(proc: &Path, port: u16) -> bool {
    let tables = ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(proc.join(table)));
    let tables = tables.iter().flatten();
    let Some(inode) = tables.into_iter().find_map(|table| inode(table, port)) else {
        return false;
    };
    let wanted = format!("socket:[{inode}]");
    let Ok(processes) = fs::read_dir(proc) else {
        return false;
    };
    processes.flatten().any(|process| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        command.windows(MARK.len()).any(|part| part == MARK) && holds(&process.path(), &wanted)
    })
}

fn holds(process: &Path, wanted: &str) -> bool {
    let Ok(open) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    open.flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.as_os_str() == wanted)
}

/// The socket that listens at a port, of a table such as `/proc/net/tcp`.
fn inode<'a>(table: &'a str, port: u16) -> Option<&'a str> {
    let end = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<&'a str> = line.split_ascii_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&end) && *fields.get(3)? == LISTENS;
        fields.get(9).filter(|_| is_it).copied()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_ide_is_known_by_its_command_line_and_the_socket_that_it_holds() {
        let proc = tempfile::tempdir().unwrap();
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:170F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n\
            \x20  1: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n";
        fs::create_dir_all(proc.path().join("net")).unwrap();
        fs::write(proc.path().join("net/tcp"), table).unwrap();
        for (id, command, socket) in [
            ("1", "java\0-Didea.vendor.name=JetBrains\0", "socket:[77]"),
            ("2", "java\0", "socket:[77]"),
        ] {
            let fd = proc.path().join(id).join("fd");
            fs::create_dir_all(&fd).unwrap();
            fs::write(proc.path().join(id).join("cmdline"), command).unwrap();
            symlink(socket, fd.join("3")).unwrap();
        }

        assert!(is_one(proc.path(), 0x170f));
        assert!(!is_one(proc.path(), 0x1f90), "it does not listen");
        fs::remove_dir_all(proc.path().join("1")).unwrap();
        assert!(!is_one(proc.path(), 0x170f));
    }
}
