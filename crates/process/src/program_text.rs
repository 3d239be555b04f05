//! Memory that only the start or a busy time needed: pages of our own program, and the allocator's reserves.

use std::{fs, num::NonZeroUsize, ptr::NonNull};

use nix::sys::mman::{MmapAdvise, madvise};

/// Releases the pages of our program's text, and of the tables by which it was loaded. Those that are still needed
/// return from the page cache by themselves; the code that parsed options, read authorities and dialled for the first
/// time is not needed again.
///
/// Where the kernel does not list the mappings, they stay. The allocator returns its free memory as well.
pub fn give_back() {
    trim_heap();
    let Ok(program) = fs::read_link("/proc/self/exe") else {
        return;
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = program.to_string_lossy();
    for (start, length) in maps.lines().filter_map(|line| text_of(line, &program)) {
        let Some(start) = NonZeroUsize::new(start) else {
            continue;
        };
        let start = NonNull::without_provenance(start);
        #[expect(
            unsafe_code,
            reason = "the range is a private mapping of a file that nobody could ever write to: it has no changed pages, \
                      so the kernel reads the same bytes again at the next access"
        )]
        // A failure only means that no memory is saved.
        let _ = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// Size in bytes from which on memory is mapped separately.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// Makes the allocator map large blocks, such as the buffers of a connection, separately: they are zeros that take no
/// memory until they are written, and are returned to the system when they are freed. Glibc does so at first, but
/// raises the limit once such a block is freed; from then on it takes them from its heap, writes the zeros and keeps
/// the memory.
///
/// To be called before there are other threads that need it; where the allocator has no such limit, nothing is done.
pub fn map_large() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(
            unsafe_code,
            reason = "it sets a number of the allocator's under the allocator's own lock"
        )]
        // A limit that is not accepted only costs memory.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}

/// Returns free memory of the heap to the system. Glibc keeps it in each thread's arena, wherever something at its
/// end is still in use.
#[cfg(target_env = "gnu")]
fn trim_heap() {
    #[expect(
        unsafe_code,
        reason = "it takes the allocator's own locks and touches only what nobody has allocated"
    )]
    // The result only says whether memory was returned.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

/// Returns the address and the length, in bytes, of a mapping of the program's text or of its beginning, where those
/// tables are; `None` for any other line of `/proc/PID/maps`. Other read-only data may have been written while it was
/// loaded.
fn text_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut words = line.splitn(6, ' ').map(str::trim);
    let (range, permissions) = (words.next()?, words.next()?);
    let is_beginning = words.next()?.bytes().all(|digit| digit == b'0');
    let name = words.nth(2)?;
    let is_clean = permissions == "r-xp" || permissions == "r--p" && is_beginning;
    let (start, end) = range.split_once('-')?;
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).ok());
    let (start, end) = (start?, end?);
    (is_clean && name == program && start < end).then(|| (start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_text_is_meant() {
        let line = |permissions: &str, name: &str| {
            format!(
                "5590cd640000-5590cd642000 {permissions} 004eb000 fe:00 6128904                    {name}"
            )
        };
        let text = (0x5590_cd64_0000, 0x2000);

        assert_eq!(text_of(&line("r-xp", "/bin/a b"), "/bin/a b"), Some(text));
        let beginning = line("r--p", "/bin/a b").replace("004eb000", "00000000");
        assert_eq!(text_of(&beginning, "/bin/a b"), Some(text));
        for (permissions, name) in [
            ("r--p", "/bin/a b"),
            ("rw-p", "/bin/a b"),
            ("r-xp", "/lib/c"),
        ] {
            assert_eq!(text_of(&line(permissions, name), "/bin/a b"), None);
        }
        for line in [
            "",
            "7ffd-",
            "x-y r-xp 0 0 0 /bin/a b",
            "2000-1000 r-xp 0 0:0 0 /bin/a b",
        ] {
            assert_eq!(text_of(line, "/bin/a b"), None, "{line}");
        }
    }

    /// Returns a figure of `/proc/self/status`, in KiB.
    fn resident(name: &str) -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let mut lines = status.lines();
        let line = lines.find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_goes_on_without_a_page_of_it() {
        let before = resident("RssFile:");

        give_back();

        assert!(resident("RssFile:") < before, "{before} KiB");
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn large_memory_is_given_back_at_once_and_costs_nothing_before_it_is_written() {
        map_large();
        let before = resident("RssAnon:");
        let buffers = || -> Vec<Vec<u8>> { (0..200).map(|_| vec![0; 1 << 20]).collect() };
        // Something beyond them keeps the heap from shrinking, if they are on it.
        let mut beyond = Vec::new();
        for _ in 0..2 {
            let mut used = buffers();
            used.iter_mut().for_each(|it| it.fill(1));
            beyond.push(vec![1_u8; 64 << 10]);
        }

        let unused = buffers();

        let after = resident("RssAnon:");
        assert!(
            after < before + (100 << 10),
            "{before} KiB, then {after} KiB"
        );
        drop((unused, beyond));
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn freed_memory_below_what_is_in_use_is_given_back() {
        // Small enough for the heap, and one in a hundred stays.
        let mut all: Vec<Vec<u8>> = (0..10_000).map(|_| vec![1; 16 << 10]).collect();
        let mut at = 0;
        all.retain(|_| {
            at += 1;
            at % 100 == 0
        });
        let before = resident("RssAnon:");

        give_back();

        let after = resident("RssAnon:");
        assert!(
            after + (100 << 10) < before,
            "{before} KiB, then {after} KiB"
        );
        drop(all);
    }
}
