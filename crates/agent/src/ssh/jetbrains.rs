//! Detection of JetBrains IDEs by their port: their clients have no sessions, but forward one port.
//!
//! # Source
//! coder `agent/agentssh/portinspection_supported.go`, `agent/agentssh/jetbrainstrack.go`.

use std::{fs, path::Path};

use crate::ports;

/// Text in the command line of such an IDE.
const MARK: &[u8] = b"idea.vendor.name=JetBrains";

/// Returns whether such an IDE listens at this port.
pub(super) async fn listens(port: u16) -> bool {
    let looked = tokio::task::spawn_blocking(move || is_one(Path::new("/proc"), port));
    looked.await.unwrap_or(false)
}

fn is_one(proc: &Path, port: u16) -> bool {
    let wanted = ports::listening(proc).ok();
    let Some(wanted) = wanted.and_then(|ports| ports.get(&port).copied()) else {
        return false;
    };
    let mut is_one = false;
    ports::each_holder(proc, |process, socket| {
        is_one |= socket == wanted && {
            let command = fs::read(process.join("cmdline")).unwrap_or_default();
            command.windows(MARK.len()).any(|part| part == MARK)
        };
    });
    is_one
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
