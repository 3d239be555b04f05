//! Archives of modules that daemons sent ahead, and that the end of an import is to name. Pure: `now` is an argument.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// Longest time between an upload and the end of its import, with a wide margin.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// Budget of archives that no import has named yet, in bytes. One archive has at most 100 MiB.
const MAX_UNNAMED_BYTES: usize = 1 << 30;

/// Recent uploads, by their SHA-256 in hexadecimal digits.
#[derive(Debug, Default)]
pub(super) struct Uploads(BTreeMap<String, Upload>);

#[derive(Debug)]
struct Upload {
    at: Timestamp,
    bytes: usize,
    is_named: bool,
}

impl Uploads {
    /// Records an upload, unless too many bytes already wait to be named.
    pub(super) fn note(&mut self, sha256: &str, bytes: usize, now: Timestamp) -> bool {
        let others = self.0.iter().filter(|(other, _)| *other != sha256);
        let unnamed = others.filter(|(_, upload)| !upload.is_named);
        let sum: usize = unnamed.map(|(_, upload)| upload.bytes).sum();
        if sum.saturating_add(bytes) > MAX_UNNAMED_BYTES {
            return false;
        }
        let upload = Upload {
            at: now,
            bytes,
            is_named: false,
        };
        self.0.insert(sha256.to_owned(), upload);
        true
    }

    /// Records that the end of an import has named an archive.
    pub(super) fn name(&mut self, sha256: &str) {
        if let Some(upload) = self.0.get_mut(sha256) {
            upload.is_named = true;
        }
    }

    /// Removes and returns uploads so old that they are useless unless they belong to a template by now.
    pub(super) fn expired(&mut self, now: Timestamp) -> Vec<String> {
        let Ok(limit) = now.checked_sub(KEPT) else {
            return Vec::new();
        };
        let old = self.0.extract_if(.., |_, upload| upload.at <= limit);
        old.map(|(sha256, _)| sha256).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_named_is_bounded_and_expires() {
        let mut uploads = Uploads::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(uploads.note("a", MAX_UNNAMED_BYTES, at(0)));
        assert!(!uploads.note("b", 1, at(1)));
        assert!(
            uploads.note("a", MAX_UNNAMED_BYTES, at(2)),
            "it is the same"
        );
        uploads.name("a");
        assert!(uploads.note("b", 1, at(3)));

        assert!(uploads.expired(at(3601)).is_empty());
        assert_eq!(uploads.expired(at(3602)), ["a"]);
        assert_eq!(uploads.expired(at(9000)), ["b"]);
        assert!(uploads.expired(at(9000)).is_empty());
    }
}
