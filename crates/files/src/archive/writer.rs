//! Writes tar archives byte for byte as Go's `archive/tar` does, so that both give the same hash for the same files.

/// Size of a tar block in bytes: headers have this size, contents are padded to it.
const BLOCK: usize = 512;
/// Length of the header's field for the name.
const NAME: usize = 100;
/// Length of the header's field for the directories of a longer name.
const PREFIX: usize = 155;
/// Largest size in eleven octal digits; above it a PAX record is necessary.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// An archive in memory, without times and names of owners.
#[derive(Debug)]
pub(crate) struct Writer {
    out: Vec<u8>,
    owner_id: u32,
}

impl Writer {
    /// Returns an empty archive, all of whose entries belong to user and group `owner_id`.
    pub(crate) fn new(owner_id: u32) -> Self {
        Self {
            out: Vec::new(),
            owner_id,
        }
    }

    /// Returns the number of bytes that were written.
    pub(crate) fn len(&self) -> u64 {
        self.out.len() as u64
    }

    /// Adds a directory; `name` has no slash at its end.
    pub(crate) fn directory(&mut self, name: &str, mode: u32) {
        self.entry(b'5', &format!("{name}/"), "", mode, &[]);
    }

    /// Adds a regular file.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(b'0', name, "", mode, content);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, name: &str, target: &str) {
        self.entry(b'2', name, target, 0o777, &[]);
    }

    /// Returns the archive without the two empty blocks that end it.
    pub(crate) fn into_open_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Returns the complete archive.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.out.resize(self.out.len() + 2 * BLOCK, 0);
        self.out
    }

    fn entry(&mut self, kind: u8, name: &str, link: &str, mode: u32, content: &[u8]) {
        let split = split_name(name);
        let mut records = String::new();
        if link.len() > NAME || !link.is_ascii() {
            records.push_str(&pax_record("linkpath", link));
        }
        if split.is_none() {
            records.push_str(&pax_record("path", name));
        }
        if content.len() as u64 > MAX_OCTAL_SIZE {
            records.push_str(&pax_record("size", &content.len().to_string()));
        }
        // With one PAX record Go does not split the name either.
        let (prefix, short) = match split {
            Some(split) if records.is_empty() => split,
            _ => ("", name),
        };
        if !records.is_empty() {
            self.pax_header(name, &records);
        }
        let mut block = [0; BLOCK];
        put_name(&mut block[..NAME], short);
        self.put_numbers(&mut block, mode, content.len() as u64);
        block[156] = kind;
        put_text(&mut block[157..257], link);
        put_octal(&mut block[329..337], 0);
        put_octal(&mut block[337..345], 0);
        put_text(&mut block[345..345 + PREFIX], prefix);
        self.push(block, content);
    }

    fn put_numbers(&self, block: &mut [u8; BLOCK], mode: u32, size: u64) {
        put_octal(&mut block[100..108], u64::from(mode));
        put_octal(&mut block[108..116], u64::from(self.owner_id));
        put_octal(&mut block[116..124], u64::from(self.owner_id));
        put_octal(&mut block[124..136], size);
        put_octal(&mut block[136..148], 0);
    }

    /// Writes a PAX header. Like Go, it leaves the device numbers empty, and uses `PaxHeaders.0` for the process id.
    fn pax_header(&mut self, name: &str, records: &str) {
        let (dir, file) = name.rsplit_once('/').unwrap_or(("", name));
        let name = format!("{dir}/PaxHeaders.0/{file}");
        let name = name.trim_start_matches('/');
        let mut ascii: String = name.chars().filter(char::is_ascii).collect();
        ascii.truncate(NAME);
        let mut block = [0; BLOCK];
        put_text(&mut block[..NAME], ascii.trim_end_matches('/'));
        put_octal(&mut block[100..108], 0);
        put_octal(&mut block[108..116], 0);
        put_octal(&mut block[116..124], 0);
        put_octal(&mut block[124..136], records.len() as u64);
        put_octal(&mut block[136..148], 0);
        block[156] = b'x';
        self.push(block, records.as_bytes());
    }

    fn push(&mut self, mut block: [u8; BLOCK], content: &[u8]) {
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        put_octal(&mut block[148..155], sum);
        block[154] = 0;
        self.out.extend_from_slice(&block);
        self.out.extend_from_slice(content);
        self.out.resize(self.out.len().next_multiple_of(BLOCK), 0);
    }
}

/// Splits a name so that it fits the header: `Some` with an empty prefix if it fits unsplit, `None` if it cannot.
fn split_name(name: &str) -> Option<(&str, &str)> {
    if !name.is_ascii() || name.contains('\0') {
        return None;
    }
    if name.len() <= NAME {
        return Some(("", name));
    }
    // A slash at the very end is part of the directory's name and does not separate.
    let head = match name.get(..=PREFIX) {
        Some(head) if name.len() > PREFIX + 1 => head,
        _ => name.strip_suffix('/').unwrap_or(name),
    };
    let at = head.rfind('/').filter(|at| *at > 0)?;
    let (prefix, short) = (&name[..at], &name[at + 1..]);
    (!short.is_empty() && short.len() <= NAME).then_some((prefix, short))
}

/// Returns `LENGTH KEY=VALUE
/// `, where the length includes itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let guess = rest + rest.to_string().len();
    let length = rest + guess.to_string().len();
    format!("{length} {key}={value}\n")
}

fn put_text(field: &mut [u8], text: &str) {
    let ascii = text.bytes().filter(u8::is_ascii);
    for (to, from) in field.iter_mut().zip(ascii) {
        *to = from;
    }
}

/// Writes a text as [`put_text`] does, but a truncated name must not end in a slash: old readers would mistake it for
/// a directory.
fn put_name(field: &mut [u8], name: &str) {
    put_text(field, name);
    let length = name.bytes().filter(u8::is_ascii).count();
    if length > field.len() && field.last() == Some(&b'/') {
        let kept = field.iter().rposition(|byte| *byte != b'/');
        field[kept.map_or(0, |at| at + 1)] = 0;
    }
}

/// Fills the field with octal digits up to its last byte, which stays NUL.
fn put_octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let digits = format!("{value:0width$o}");
    if digits.len() == width {
        field[..width].copy_from_slice(digits.as_bytes());
    } else {
        // The value is in a PAX record.
        field[..width].fill(b'0');
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            (name, content)
        });
        entries.collect()
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("path", "a"), "9 path=a\n");
        for length in 80..120 {
            let record = pax_record("path", &"a".repeat(length));
            let (count, _) = record.split_once(' ').unwrap();
            assert_eq!(count.parse(), Ok(record.len()));
        }
    }

    #[test]
    fn names_are_split_where_go_splits_them() {
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(90));
        let (dir, file) = long.split_once('/').unwrap();
        assert_eq!(split_name(&long), Some((dir, file)));
        assert_eq!(split_name(&"f".repeat(101)), None);
        assert_eq!(split_name("short"), Some(("", "short")));
        assert_eq!(split_name("ä"), None);
    }

    #[test]
    fn a_header_is_laid_out_as_gos_writer_lays_it_out() {
        let mut writer = Writer::new(1000);

        writer.file("a", 0o644, b"x");
        let bytes = writer.into_bytes();

        assert_eq!(bytes.len(), 4 * BLOCK);
        assert_eq!(
            &bytes[100..156],
            b"0000644\x000001750\x000001750\x0000000000001\x0000000000000\x00007371\x00 "
        );
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert_eq!(&bytes[329..345], b"0000000\x000000000\x00");
    }

    proptest! {
        #[test]
        fn whatever_is_written_can_be_read(
            files in prop::collection::vec(("[a-zä]{1,60}(/[a-z]{1,80}){0,5}", prop::collection::vec(any::<u8>(), 0..1100)), 0..6)
        ) {
            let mut writer = Writer::new(0);
            for (name, content) in &files {
                writer.file(name, 0o644, content);
            }
            prop_assert_eq!(read(&writer.into_bytes()), files);
        }
    }
}
