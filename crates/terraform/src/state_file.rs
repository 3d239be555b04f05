//! Selection of the newest valid state: the file, the state that the engine printed or saved elsewhere after a failed
//! write, the last one that was seen during apply, or the previous one.

use std::io;

use bytes::Bytes;
use outpost_files::beneath::Dir;
use serde_json::value::RawValue;

/// Name of the file in a session's directory.
pub const NAME: &str = "terraform.tfstate";

/// Name of the file beside it to which an engine saves the state if it could not write [`NAME`]. If that fails as well, it
/// prints the state.
pub(crate) const ERRORED: &str = "errored.tfstate";

/// Maximum size of a state in bytes.
pub const MAX_BYTES: usize = 64 << 20;

/// Source of the newest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The engine's state file.
    File,
    /// Output of the engine after it could not write its file.
    Printed,
    /// The engine's file `ERRORED`.
    Saved,
    /// Contents of the file at some moment of the apply.
    Seen,
    /// The state from before the apply.
    Previous,
}

/// All sources of the newest state.
#[derive(Debug)]
pub struct Candidates {
    /// State file as [`read`] found it.
    pub file: io::Result<Option<Bytes>>,
    /// State that the engine printed after it could not write its file.
    pub printed: Option<Vec<u8>>,
    /// State in `ERRORED`, which did not exist before the apply.
    pub saved: Option<Bytes>,
    /// Newest state that was seen in the file during apply.
    pub seen: Option<Bytes>,
    /// State at the beginning of the job; empty for none.
    pub previous: Bytes,
}

/// The newest valid state.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// The state and its source. `None` if there never was one.
    pub state: Option<(Bytes, Origin)>,
    /// Reason why the file was not used, although there should be one.
    pub problem: Option<String>,
}

impl Candidates {
    /// Selects the newest valid state.
    pub fn newest(self) -> Newest {
        let is_missing = matches!(self.file, Ok(None));
        let printed = self.printed.filter(|printed| is_state(printed));
        let has_other = printed.is_some() || self.saved.is_some();
        let problem = match self.file {
            Ok(Some(state)) if !has_other => {
                return Newest {
                    state: Some((state, Origin::File)),
                    problem: None,
                };
            }
            Ok(Some(_)) => "terraform could not write its state file".to_owned(),
            Ok(None) => "terraform wrote no state file".to_owned(),
            Err(error) => format!("the state file {NAME} cannot be used: {error}"),
        };
        let (state, instead) = match (printed, self.saved, self.seen) {
            (Some(printed), _, _) => (
                Some((printed.into(), Origin::Printed)),
                "the state that it printed instead is used",
            ),
            (None, Some(saved), _) => (
                Some((saved, Origin::Saved)),
                "the state that it saved as errored.tfstate is used",
            ),
            (None, None, Some(seen)) => (
                Some((seen, Origin::Seen)),
                "the last state that was seen in it is kept",
            ),
            (None, None, None) if !self.previous.is_empty() => (
                Some((self.previous, Origin::Previous)),
                "the state from before this build is kept",
            ),
            // A template without resources has no state.
            (None, None, None) if is_missing => return Newest::default(),
            (None, None, None) => (None, "nothing newer is known"),
        };
        Newest {
            state,
            problem: Some(format!("{problem}; {instead}")),
        }
    }
}

/// Reads the state file of a session's directory; `None` if there is none.
///
/// # Errors
/// If it is not a valid state, too large, or cannot be read.
pub fn read(dir: &Dir) -> io::Result<Option<Bytes>> {
    read_named(dir, NAME)
}

/// Reads the state that an engine saved after it could not write its file; `None` without a complete one.
pub(crate) fn read_saved(dir: &Dir) -> Option<Bytes> {
    read_named(dir, ERRORED).ok().flatten()
}

fn read_named(dir: &Dir, name: &str) -> io::Result<Option<Bytes>> {
    let Some(state) = dir.read(name, MAX_BYTES as u64)? else {
        return Ok(None);
    };
    if is_state(&state) {
        Ok(Some(state.into()))
    } else {
        Err(io::Error::other("it is not a complete JSON document"))
    }
}

/// Returns whether bytes are a complete JSON object.
fn is_state(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok_and(|value| value.get().starts_with('{'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OLD: Bytes = Bytes::from_static(b"{\"serial\":1}");
    const SEEN: Bytes = Bytes::from_static(b"{\"serial\":2}");
    const NEW: &[u8] = b"{\"serial\":3}";

    fn newest_of(
        file: Option<&[u8]>,
        printed: Option<&[u8]>,
        seen: Option<Bytes>,
        previous: &Bytes,
    ) -> (Option<(Bytes, Origin)>, bool) {
        let dir = tempfile::tempdir().unwrap();
        if let Some(content) = file {
            fs::write(dir.path().join(NAME), content).unwrap();
        }
        let candidates = Candidates {
            file: read(&Dir::open(dir.path()).unwrap()),
            saved: None,
            printed: printed.map(<[u8]>::to_vec),
            seen,
            previous: previous.clone(),
        };
        let newest = candidates.newest();
        (newest.state, newest.problem.is_some())
    }

    #[test]
    fn a_whole_file_is_the_newest_state() {
        assert_eq!(
            newest_of(Some(NEW), None, Some(SEEN), &OLD),
            (Some((NEW.into(), Origin::File)), false)
        );
    }

    #[test]
    fn a_truncated_file_yields_to_what_was_printed() {
        assert_eq!(
            newest_of(Some(b"{\"ser"), Some(NEW), Some(SEEN), &OLD),
            (Some((NEW.into(), Origin::Printed)), true)
        );
        assert_eq!(
            newest_of(Some(b""), Some(NEW), None, &OLD),
            (Some((NEW.into(), Origin::Printed)), true)
        );
    }

    #[test]
    fn an_older_whole_file_yields_to_what_was_printed() {
        assert_eq!(
            newest_of(Some(&OLD), Some(NEW), None, &OLD),
            (Some((NEW.into(), Origin::Printed)), true)
        );
    }

    #[test]
    fn a_state_that_the_engine_saved_elsewhere_is_newer_than_its_file_and_any_that_was_seen() {
        let dir = tempfile::tempdir().unwrap();
        let newest = |file: &[u8], saved: &[u8]| {
            fs::write(dir.path().join(NAME), file).unwrap();
            fs::write(dir.path().join(ERRORED), saved).unwrap();
            let dir = Dir::open(dir.path()).unwrap();
            let candidates = Candidates {
                file: read(&dir),
                printed: None,
                saved: read_saved(&dir),
                seen: Some(SEEN),
                previous: OLD,
            };
            candidates.newest().state
        };

        for file in [&b""[..], b"{\"ser", &SEEN] {
            assert_eq!(newest(file, NEW), Some((NEW.into(), Origin::Saved)));
        }
        let cut = newest(b"{\"ser", b"{\"serial");
        assert_eq!(cut, Some((SEEN, Origin::Seen)));
    }

    #[test]
    fn without_anything_whole_the_last_that_was_seen_is_kept_else_the_previous_state() {
        assert_eq!(
            newest_of(Some(b"{"), Some(b"{"), Some(SEEN), &OLD),
            (Some((SEEN, Origin::Seen)), true)
        );
        assert_eq!(
            newest_of(Some(b"{"), Some(b"{"), None, &OLD),
            (Some((OLD, Origin::Previous)), true)
        );
        assert_eq!(
            newest_of(None, None, None, &OLD),
            (Some((OLD, Origin::Previous)), true)
        );
    }

    #[test]
    fn no_state_at_all_is_normal_only_without_a_file() {
        let none = Bytes::new();
        assert_eq!(newest_of(None, None, None, &none), (None, false));
        assert_eq!(newest_of(Some(b"{"), None, None, &none), (None, true));
    }

    #[test]
    fn a_link_to_the_state_of_another_session_is_no_state() {
        let lab = tempfile::tempdir().unwrap();
        let victim = lab.path().join("victim");
        fs::write(&victim, NEW).unwrap();
        let dir = lab.path().join("session");
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(&victim, dir.join(NAME)).unwrap();

        let error = read(&Dir::open(&dir).unwrap()).unwrap_err();

        assert!(error.to_string().contains("symbolic link"), "{error}");
    }
}
