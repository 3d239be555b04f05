//! How the text of a script or of an SSH command is run.
//!
//! # Source
//! coder `agent/agentssh/agentssh.go` `CreateCommand`.

use std::path::{Path, PathBuf};

/// A program with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What is run.
    pub program: PathBuf,
    /// With what.
    pub args: Vec<String>,
}

/// The login shell where `text` is empty, the program of its first line where that is `#!…`, else the shell with it.
pub fn invocation(shell: &Path, text: &str) -> Invocation {
    let trimmed = text.trim();
    let run = |program: &Path, args: Vec<String>| Invocation {
        program: program.to_owned(),
        args,
    };
    if trimmed.is_empty() {
        return run(shell, vec!["-l".to_owned()]);
    }
    if let Some(rest) = trimmed.strip_prefix("#!") {
        let (first, script) = rest.split_once('\n').unwrap_or((rest, ""));
        let mut words = first.split_whitespace().map(str::to_owned);
        if let Some(program) = words.next() {
            let mut args: Vec<String> = words.collect();
            args.extend(["-c".to_owned(), script.to_owned()]);
            return run(Path::new(&program), args);
        }
    }
    run(shell, vec!["-c".to_owned(), text.to_owned()])
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
            let found = invocation(shell, text);
            assert_eq!(
                (found.program.as_path(), found.args),
                (
                    Path::new(program),
                    args.into_iter().map(str::to_owned).collect(),
                )
            );
        }
    }
}
