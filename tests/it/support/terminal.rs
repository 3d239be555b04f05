//! A program at a terminal of its own.

use std::process::ExitStatus;

use pty_process::{Pty, Size};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Child,
    time::timeout,
};

use crate::control::PATIENCE;

/// A program at a terminal, and all that it has shown.
pub struct Terminal {
    pty: Pty,
    child: Child,
    shown: String,
}

impl Terminal {
    /// Starts `program` as the leader of a session at a terminal of 40 lines and 100 columns.
    pub fn open(program: pty_process::Command) -> Self {
        let (pty, pts) = pty_process::open().unwrap();
        pty.resize(Size::new(40, 100)).unwrap();
        let child = program.kill_on_drop(true).spawn(pts).unwrap();
        Self {
            pty,
            child,
            shown: String::new(),
        }
    }

    pub fn resize(&self, size: Size) {
        self.pty.resize(size).unwrap();
    }

    /// Types `what`.
    pub async fn say(&mut self, what: &str) {
        self.pty.write_all(what.as_bytes()).await.unwrap();
    }

    /// Waits until this is shown, and forgets it with all before.
    pub async fn until(&mut self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.shown.find(wanted) {
                let rest = self.shown.split_off(at + wanted.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let read = timeout(PATIENCE, self.pty.read(&mut buffer)).await;
            match read.unwrap_or_else(|_| panic!("no `{wanted}` in {:?}", self.shown)) {
                Ok(length) if length > 0 => {
                    self.shown += &String::from_utf8_lossy(&buffer[..length])
                }
                _ => panic!("ended without `{wanted}`: {:?}", self.shown),
            }
        }
    }

    /// All that is shown until the end, and how that was.
    pub async fn end(mut self) -> (String, ExitStatus) {
        let mut rest = Vec::new();
        // The other side of a terminal that is gone is an error.
        let _ = timeout(PATIENCE, self.pty.read_to_end(&mut rest))
            .await
            .unwrap();
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap();
        (
            self.shown + &String::from_utf8_lossy(&rest),
            status.unwrap(),
        )
    }

    /// Kills the program, and tells all that it showed.
    pub async fn kill(mut self) -> (String, ExitStatus) {
        self.child.kill().await.unwrap();
        self.end().await
    }

    /// Closes the terminal, as somebody does who closes its window, and waits for the program's end.
    pub async fn close(self) -> ExitStatus {
        let Self { pty, mut child, .. } = self;
        drop(pty);
        timeout(PATIENCE, child.wait()).await.unwrap().unwrap()
    }
}
