//! A file as mapped memory: reading a large one would copy every byte once more.

use std::{ffi::c_void, fs::File, num::NonZeroUsize, ptr::NonNull, slice};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// Alignment of mappings: a multiple of the page size of every Linux.
const ALIGNMENT: u64 = 64 * 1024;

/// A mapped part of a file, none of which is in memory until it is requested.
///
/// If the file is shortened meanwhile, SIGBUS ends this process. So it is for files on a command line, not for
/// services.
pub struct Mapped {
    start: NonNull<c_void>,
    whole: NonZeroUsize,
    /// Number of mapped bytes before the part.
    skipped: usize,
}

impl Mapped {
    /// Maps the `length` bytes of the file from `at` on; `None` if the file is shorter, or cannot be mapped.
    pub fn of(file: &File, at: u64, length: u64) -> Option<Self> {
        let begin = at / ALIGNMENT * ALIGNMENT;
        let end = at.checked_add(length)?;
        // The rest of a last page reads as zeros, which are not in the file.
        if end > file.metadata().ok()?.len() {
            return None;
        }
        let whole = NonZeroUsize::new(usize::try_from(end - begin).ok()?)?;
        let (access, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
        #[expect(
            unsafe_code,
            reason = "a new mapping, at an address that the kernel chooses, that is read only"
        )]
        let start = unsafe { mmap(None, whole, access, flags, file, begin.try_into().ok()?) };
        Some(Self {
            start: start.ok()?,
            whole,
            skipped: usize::try_from(at - begin).ok()?,
        })
    }

    /// Returns `length` bytes of the part from `at` on, in memory.
    ///
    /// `None` if they are not in the part, on an old kernel, or if the medium cannot be read. Reading the file then
    /// returns the error.
    pub fn look_at(&self, at: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(at).ok()?.checked_add(self.skipped)?;
        let end = from.checked_add(length)?;
        if end > self.whole.get() {
            return None;
        }
        let page = from / ALIGNMENT as usize * ALIGNMENT as usize;
        #[expect(
            unsafe_code,
            reason = "both ends are within the mapping, which is there as long as we are"
        )]
        let (page, asked) = (unsafe { self.start.byte_add(page) }, end - page);
        #[expect(unsafe_code, reason = "it brings pages of that mapping into memory")]
        unsafe { madvise(page, asked, MmapAdvise::MADV_POPULATE_READ) }.ok()?;
        #[expect(
            unsafe_code,
            reason = "these pages of the mapping were just found to be readable, and the slice does not outlive it"
        )]
        let bytes = unsafe {
            slice::from_raw_parts(self.start.byte_add(from).as_ptr().cast::<u8>(), length)
        };
        Some(bytes)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        #[expect(
            unsafe_code,
            reason = "it is the mapping that we made, and nothing refers to it any more"
        )]
        // It can fail only for arguments that are not a mapping.
        let _ = unsafe { munmap(self.start, self.whole.get()) };
    }
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
            let mapped = Mapped::of(&file, at, length).unwrap();
            for (skipped, shown) in [(0, length), (length / 2, 1), (length - 1, 1)] {
                let expected = &content[(at + skipped) as usize..][..shown as usize];

                let bytes = mapped.look_at(skipped, shown as usize);

                // A kernel without the necessary call returns nothing.
                assert!(bytes.is_none_or(|it| it == expected), "{at} {length}");
            }
        }
    }

    #[test]
    fn nothing_is_shown_of_what_is_not_there() {
        let file = file(&[7; 100]);

        for (at, length) in [(1 << 20, 10), (0, 101), (100, 1), (u64::MAX, 1), (0, 0)] {
            assert!(Mapped::of(&file, at, length).is_none(), "{at} {length}");
        }
        let mapped = Mapped::of(&file, 10, 80).unwrap();
        for (at, length) in [(0, 81), (80, 1), (u64::MAX, 1)] {
            assert!(mapped.look_at(at, length).is_none(), "{at} {length}");
        }
    }
}
