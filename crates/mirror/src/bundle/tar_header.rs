//! Headers of a tar file, in the only form that we write and accept.

/// Size of a tar block in bytes; headers and padding consist of whole blocks.
pub(super) const BLOCK: usize = 512;

/// Largest size that the octal form can express; above it GNU's binary form begins.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// Returns the header of a regular file, readable by everybody, with time 0 and without an owner. `name` has at most
/// 100 ASCII letters.
pub(super) fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000444\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    match size {
        0..=MAX_OCTAL => put(124, format!("{size:011o}\0").as_bytes()),
        _ => {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    block
}

/// Returns the name and the size in a header; `None` if it is not one that [`header`] makes.
pub(super) fn parse(block: &[u8; BLOCK]) -> Option<(String, u64)> {
    let end = block[..100]
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(100);
    let name = std::str::from_utf8(&block[..end])
        .ok()
        .filter(|name| name.is_ascii())?;
    let size = match block[124] {
        0x80 => u64::from_be_bytes(block[128..136].try_into().ok()?),
        _ => u64::from_str_radix(std::str::from_utf8(&block[124..135]).ok()?, 8).ok()?,
    };
    (header(name, size) == *block).then(|| (name.to_owned(), size))
}

/// Returns the number of zero bytes after a file of this size.
pub(super) fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Returns the bytes that a file of this size occupies, with its header and its padding.
pub(super) fn room(size: u64) -> u64 {
    size.saturating_add((BLOCK + padding(size)) as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn others_read_what_we_write() {
        let mut file = header("blobs/a", 5).to_vec();
        file.extend(b"hello");
        file.resize(file.len() + padding(5) + 2 * BLOCK, 0);
        let mut archive = tar::Archive::new(&file[..]);

        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();

        assert_eq!(entry.path().unwrap().to_str(), Some("blobs/a"));
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        assert_eq!(content, "hello");
        assert_eq!(entry.header().mtime().unwrap(), 0);
    }

    #[test]
    fn a_size_is_read_as_it_was_written_however_large() {
        for size in [0, 1, MAX_OCTAL, MAX_OCTAL + 1, u64::MAX] {
            let block = header("a", size);
            assert_eq!(parse(&block), Some(("a".to_owned(), size)));
            let theirs = tar::Header::from_byte_slice(&block).entry_size().unwrap();
            assert_eq!(theirs, size);
        }
    }

    #[test]
    fn a_header_that_we_would_not_have_written_is_none() {
        let good = header("manifest.json", 42);
        for at in 0..BLOCK {
            for flip in [1, 0x20, 0x80] {
                let mut block = good;
                block[at] ^= flip;
                assert_eq!(parse(&block), None, "byte {at}");
            }
        }
    }
}
