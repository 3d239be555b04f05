//! Free space on a disk.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Bytes that we may still write below `path`, or below the nearest directory above it that exists.
pub(in crate::cli) fn free_bytes(path: &Path) -> Option<u64> {
    let disk = path.ancestors().find_map(|path| statvfs(path).ok())?;
    Some(disk.blocks_available() * disk.fragment_size())
}
