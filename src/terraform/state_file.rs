//! Which state is the newest that can be trusted: the file, what the engine printed in distress, or what was before.

use std::{fs, io, path::Path};

use bytes::Bytes;
use serde_json::value::RawValue;

/// Bytes of a state that is taken.
pub const MAX_BYTES: usize = 64 << 20;

/// Where the newest state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The engine's file.
    File,
    /// What the engine printed because it could not write its file.
    Printed,
    /// The state from before the apply.
    Previous,
}

/// Finds the newest state that is whole. `None` if there never was one.
///
/// `printed` is the engine's emergency dump, `previous` the state the job began with. A second value tells why the
/// file is not the one, for the log.
pub fn newest(
    file: &Path,
    printed: Option<Vec<u8>>,
    previous: &Bytes,
) -> (Option<(Bytes, Origin)>, Option<String>) {
    let problem = match read(file) {
        Ok(Some(state)) if printed.as_deref().is_none_or(|printed| !is_state(printed)) => {
            return (Some((state, Origin::File)), None);
        }
        Ok(Some(_)) => "terraform could not write its state file".to_owned(),
        Ok(None) => "terraform wrote no state file".to_owned(),
        Err(error) => format!("the state file {} cannot be used: {error}", file.display()),
    };
    if let Some(printed) = printed.filter(|printed| is_state(printed)) {
        let note = format!("{problem}; the state that it printed instead is used");
        return (Some((printed.into(), Origin::Printed)), Some(note));
    }
    if previous.is_empty() {
        let is_normal = !file.exists();
        return (
            None,
            (!is_normal).then(|| format!("{problem}; there is no earlier state")),
        );
    }
    let note = format!("{problem}; the state from before this build is kept");
    (Some((previous.clone(), Origin::Previous)), Some(note))
}

/// Reads a state file; `None` if there is none.
///
/// # Errors
/// If it is no state, too large, or cannot be read.
pub fn read(file: &Path) -> io::Result<Option<Bytes>> {
    let size = match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?.len(),
    };
    if size > MAX_BYTES as u64 {
        return Err(io::Error::other(format!(
            "it has {size} bytes, allowed are {MAX_BYTES}"
        )));
    }
    let state = fs::read(file)?;
    if is_state(&state) {
        Ok(Some(state.into()))
    } else {
        Err(io::Error::other("it is not a whole JSON document"))
    }
}

/// Whether bytes are a whole JSON object.
fn is_state(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok_and(|value| value.get().starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Bytes = Bytes::from_static(b"{\"serial\":1}");
    const NEW: &[u8] = b"{\"serial\":2}";

    fn newest_of(
        file: Option<&[u8]>,
        printed: Option<&[u8]>,
        previous: &Bytes,
    ) -> (Option<(Bytes, Origin)>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terraform.tfstate");
        if let Some(content) = file {
            fs::write(&path, content).unwrap();
        }
        let (state, note) = newest(&path, printed.map(<[u8]>::to_vec), previous);
        (state, note.is_some())
    }

    #[test]
    fn a_whole_file_is_the_newest_state() {
        assert_eq!(
            newest_of(Some(NEW), None, &OLD),
            (Some((NEW.into(), Origin::File)), false)
        );
    }

    #[test]
    fn a_truncated_file_yields_to_what_was_printed() {
        assert_eq!(
            newest_of(Some(b"{\"ser"), Some(NEW), &OLD),
            (Some((NEW.into(), Origin::Printed)), true)
        );
        assert_eq!(
            newest_of(Some(b""), Some(NEW), &OLD),
            (Some((NEW.into(), Origin::Printed)), true)
        );
    }

    #[test]
    fn an_older_whole_file_yields_to_what_was_printed() {
        assert_eq!(
            newest_of(Some(&OLD), Some(NEW), &OLD),
            (Some((NEW.into(), Origin::Printed)), true)
        );
    }

    #[test]
    fn without_anything_whole_the_previous_state_is_kept() {
        assert_eq!(
            newest_of(Some(b"{"), Some(b"{"), &OLD),
            (Some((OLD, Origin::Previous)), true)
        );
        assert_eq!(
            newest_of(None, None, &OLD),
            (Some((OLD, Origin::Previous)), true)
        );
    }

    #[test]
    fn no_state_at_all_is_normal_only_without_a_file() {
        assert_eq!(newest_of(None, None, &Bytes::new()), (None, false));
        assert_eq!(newest_of(Some(b"{"), None, &Bytes::new()), (None, true));
    }
}
