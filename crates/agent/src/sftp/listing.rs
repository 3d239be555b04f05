//! Files in listings of SFTP.

use std::{
    ffi::OsStr,
    fs::Metadata,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
};

use jiff::{Timestamp, tz::TimeZone};

use super::wire::{Attributes, Entry};

/// Converts metadata to attributes of SFTP. Times out of its range become the nearest ones in it.
pub(super) fn attributes(metadata: &Metadata) -> Attributes {
    let seconds = |at: i64| u32::try_from(at.max(0)).unwrap_or(u32::MAX);
    Attributes {
        size: Some(metadata.len()),
        owner: Some((metadata.uid(), metadata.gid())),
        mode: Some(metadata.mode()),
        times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
    }
}

/// Converts a file of a directory, with a line as in `ls -l`.
pub(super) fn entry(name: &OsStr, metadata: &Metadata) -> Entry {
    let modified = Timestamp::from_second(metadata.mtime()).unwrap_or_default();
    let modified = modified.to_zoned(TimeZone::UTC);
    let line = format!(
        "{} {:>3} {:<8} {:<8} {:>8} {} ",
        mode(metadata.mode()),
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
        metadata.len(),
        modified.strftime("%b %d %Y %H:%M"),
    );
    Entry {
        name: name.as_bytes().to_vec(),
        line: [line.as_bytes(), name.as_bytes()].concat(),
        attributes: attributes(metadata),
    }
}

/// Formats a mode as ten letters, such as `drwxr-xr-x`.
fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o060_000 => 'b',
        0o020_000 => 'c',
        _ => '-',
    };
    let bits = (0..9).map(|at| match mode & (0o400 >> at) {
        0 => '-',
        _ => ['r', 'w', 'x'][at % 3],
    });
    std::iter::once(kind).chain(bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_ten_letters() {
        assert_eq!(mode(0o040_755), "drwxr-xr-x");
        assert_eq!(mode(0o100_640), "-rw-r-----");
        assert_eq!(mode(0o120_777), "lrwxrwxrwx");
    }

    #[test]
    fn a_line_ends_with_the_name_s_own_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::from_bytes(b"a\xff");
        std::fs::write(dir.path().join(name), "abc").unwrap();
        let metadata = std::fs::metadata(dir.path().join(name)).unwrap();

        let entry = entry(name, &metadata);

        assert_eq!(entry.name, b"a\xff");
        assert!(entry.line.ends_with(b" a\xff"), "{:?}", entry.line);
        assert_eq!(entry.attributes.size, Some(3));
    }
}
