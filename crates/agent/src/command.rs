//! Command lines for the text of a script or of an SSH command.
//!
//! # Source
//! coder `agent/agentssh/agentssh.go` `CreateCommand`.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// A program with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Path or name of the program.
    pub program: PathBuf,
    /// Arguments without the program's name.
    pub args: Vec<OsString>,
}

/// Returns the login shell if `text` is empty, the program of its first line if that is `#!…`, else the shell with
/// the text. It need not be UTF-8: it may name files that are not.
pub fn invocation(shell: &Path, text: &OsStr) -> Invocation {
    let trimmed = text.as_bytes().trim_ascii();
    let owned = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let run = |program: &Path, args: Vec<OsString>| Invocation {
        program: program.to_owned(),
        args,
    };
    if trimmed.is_empty() {
        return run(shell, vec!["-l".into()]);
    }
    if let Some(rest) = trimmed.strip_prefix(b"#!") {
        let mut lines = rest.splitn(2, |byte| *byte == b'\n');
        let (first, script) = (lines.next().unwrap_or_default(), lines.next());
        let words = first.split(u8::is_ascii_whitespace);
        let mut words = words.filter(|word| !word.is_empty()).map(owned);
        if let Some(program) = words.next() {
            let mut args: Vec<OsString> = words.collect();
            args.extend(["-c".into(), owned(script.unwrap_or_default())]);
            return run(Path::new(&program), args);
        }
    }
    run(shell, vec!["-c".into(), text.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_run_by_the_shell_or_by_what_it_names() {
        let shell = Path::new("/bin/sh");
        for (text, program, args) in [
            ("  ", "/bin/sh", vec!["-l"]),
            ("ls -l", "/bin/sh", vec!["-c", "ls -l"]),
            (
                "\n#!/usr/bin/env python3\nprint(1)\n",
                "/usr/bin/env",
                vec!["python3", "-c", "print(1)"],
            ),
            ("#!", "/bin/sh", vec!["-c", "#!"]),
        ] {
            let found = invocation(shell, OsStr::new(text));
            assert_eq!(
                (found.program.as_path(), found.args),
                (
                    Path::new(program),
                    args.into_iter().map(OsString::from).collect(),
                )
            );
        }
        let name = OsStr::from_bytes(b"cat \xff");
        assert_eq!(invocation(shell, name).args, [OsStr::new("-c"), name]);
    }
}
