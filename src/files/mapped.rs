//! Looks at a file where the kernel keeps it: reading a large one would copy every byte once more.

use std::{fs::File, num::NonZeroUsize, slice};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// Where a mapping may begin: a multiple of the page size of every Linux.
const ALIGNMENT: u64 = 64 * 1024;

/// Shows `length` bytes of the file from `at` on to `look`, without copying them.
///
/// `false` if they cannot be had that way and `look` was not called: on an old kernel, behind the end of the file, or on
/// a medium that cannot be read. Whoever reads them then learns why. Somebody who shortens the file meanwhile ends this
/// process with SIGBUS, so it is for files that a command was given, not for services.
pub fn look_at(file: &File, at: u64, length: usize, look: impl FnOnce(&[u8])) -> bool {
    let begin = at / ALIGNMENT * ALIGNMENT;
    let skipped = (at - begin) as usize;
    let whole = length.checked_add(skipped).and_then(NonZeroUsize::new);
    let (Some(whole), Ok(begin)) = (whole, begin.try_into()) else {
        return false;
    };
    // The rest of a last page reads as zeros, which the file does not have.
    let is_in_file = |size: u64| (at.checked_add(length as u64)).is_some_and(|end| end <= size);
    if !file.metadata().is_ok_and(|it| is_in_file(it.len())) {
        return false;
    }
    let (access, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
    #[expect(
        unsafe_code,
        reason = "a new mapping, at an address that the kernel chooses, that is read only"
    )]
    let Ok(start) = (unsafe { mmap(None, whole, access, flags, file, begin) }) else {
        return false;
    };
    #[expect(unsafe_code, reason = "it is the mapping made above, in full")]
    let is_there = unsafe { madvise(start, whole.get(), MmapAdvise::MADV_POPULATE_READ) }.is_ok();
    if is_there {
        #[expect(
            unsafe_code,
            reason = "all pages of the mapping were just found to be readable, and the slice does not outlive it"
        )]
        let bytes = unsafe { slice::from_raw_parts(start.as_ptr().cast::<u8>(), whole.get()) };
        look(&bytes[skipped..]);
    }
    #[expect(
        unsafe_code,
        reason = "it is the mapping made above, and nothing refers to it any more"
    )]
    // It fails for arguments that are no mapping only.
    let _ = unsafe { munmap(start, whole.get()) };
    is_there
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn any_part_of_a_file_is_shown_as_it_is() {
        let content: Vec<u8> = (0..200_000_u32).map(|number| number as u8 ^ 0x5a).collect();
        let file = file(&content);

        for (at, length) in [
            (0, 1),
            (511, 70_000),
            (65_536, 1),
            (199_999, 1),
            (0, 200_000),
        ] {
            let mut seen = Vec::new();
            let shown = look_at(&file, at, length, |bytes| seen.extend_from_slice(bytes));

            let at = at as usize;
            assert!(!shown || seen == content[at..at + length], "{at} {length}");
        }
    }

    #[test]
    fn nothing_is_shown_of_what_is_not_there() {
        let file = file(&[7; 100]);

        for (at, length) in [(1 << 20, 10), (0, 101), (100, 1), (u64::MAX, 1)] {
            let shown = look_at(&file, at, length, |_| panic!("{at} {length}"));
            assert!(!shown);
        }
    }
}
