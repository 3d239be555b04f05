use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use proptest::prelude::*;

use super::*;
use crate::archive::Writer;

const MIB: usize = 1024 * 1024;

/// Returns one entry with a header made by hand, so that it can contain anything.
fn raw(name: &[u8], kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    raw(
        name.as_bytes(),
        b'0',
        content.len() as u64,
        content.as_bytes(),
    )
}

fn link(kind: u8, name: &str, target: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_link_name(target).unwrap();
    header.set_entry_type(EntryType::new(kind));
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

struct Case {
    outside: tempfile::TempDir,
    dest: PathBuf,
}

impl Case {
    fn new() -> Self {
        let outside = tempfile::tempdir().unwrap();
        let dest = outside.path().join("dest");
        fs::create_dir(&dest).unwrap();
        Self { outside, dest }
    }

    fn extract(&self, archive: &[u8]) -> Result<Extracted, ArchiveError> {
        extract_template(archive, &self.dir(), &Stop::new())
    }

    fn dir(&self) -> Dir {
        Dir::open(&self.dest).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dest.join(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        let metadata = fs::metadata(self.dest.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    }

    fn escaped(&self) -> Vec<String> {
        let entries = fs::read_dir(self.outside.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "dest").collect()
    }
}

#[test]
fn files_and_directories_are_unpacked() {
    let case = Case::new();
    let mut writer = Writer::new(0);
    writer.directory("dir", 0o755);
    writer.file("dir/run", 0o755, b"x");
    writer.file("./main.tf", 0o644, b"y");

    let extracted = case.extract(&writer.into_bytes()).unwrap();

    assert_eq!(extracted, Extracted::default());
    assert_eq!(
        (case.read("dir/run"), case.read("main.tf")),
        ("x".into(), "y".into())
    );
    assert_eq!(case.mode("dir/run") & 0o700, 0o700);
}

#[test]
fn an_archive_without_end_blocks_is_complete() {
    let case = Case::new();

    case.extract(&file("main.tf", "x")).unwrap();

    assert_eq!(case.read("main.tf"), "x");
}

#[test]
fn no_bytes_are_an_archive_without_entries() {
    assert_eq!(Case::new().extract(b"").unwrap(), Extracted::default());
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in [
        "../../../etc/passwd",
        "/etc/passwd",
        "..",
        "a/../../b",
        "//x",
        "./../x",
        "a/b/../../../c",
    ] {
        let case = Case::new();

        let error = case.extract(&file(name, "x")).unwrap_err();

        let expected = format!("refusing to extract to non-local path {name:?}");
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some());
        assert_eq!(case.escaped(), [""; 0]);
    }
}

#[test]
fn a_name_that_stays_inside_may_have_dots() {
    let case = Case::new();

    case.extract(&file("a/../b", "x")).unwrap();

    assert_eq!(case.read("b"), "x");
}

#[test]
fn a_name_with_nul_is_refused() {
    let case = Case::new();
    // Only records before the header can contain a NUL: the header's own field ends at the first one.
    let record = b"16 path=a\0/../b\n";
    let mut archive = raw(b"pax", b'x', record.len() as u64, record);
    archive.extend(file("x", "x"));
    let error = case.extract(&archive).unwrap_err();
    assert!(matches!(error, ArchiveError::NonLocal { .. }), "{error}");

    let long = b"evil\0name\0";
    let mut archive = raw(b"././@LongLink", b'L', long.len() as u64, long);
    archive.extend(file("x", "x"));
    let error = case.extract(&archive).unwrap_err();

    assert!(matches!(error, ArchiveError::NonLocal { .. }), "{error}");
}

#[test]
fn a_file_through_a_link_of_the_archive_stays_inside() {
    let case = Case::new();
    let mut archive = link(b'2', "out", "..");
    archive.extend(file("out/escaped", "x"));

    let extracted = case.extract(&archive).unwrap();

    assert_eq!(extracted.warnings.len(), 1);
    assert!(extracted.warnings[0].contains("symbolic link \"out\""));
    assert_eq!(
        (case.escaped(), case.read("out/escaped")),
        (vec![], "x".into())
    );
}

#[test]
fn a_link_that_is_already_there_is_not_followed() {
    for name in ["link/escaped", "link"] {
        let case = Case::new();
        symlink(case.outside.path(), case.dest.join("link")).unwrap();

        let error = case.extract(&file(name, "x")).unwrap_err();

        assert!(matches!(error, ArchiveError::ThroughLink { .. }), "{error}");
        assert_eq!(case.escaped(), [""; 0]);
    }
}

#[test]
fn a_directory_through_a_link_that_is_already_there_is_refused() {
    let case = Case::new();
    symlink(case.outside.path(), case.dest.join("link")).unwrap();

    let error = case.extract(&raw(b"link/new/", b'5', 0, b"")).unwrap_err();

    assert!(matches!(error, ArchiveError::ThroughLink { .. }), "{error}");
    assert_eq!(case.escaped(), [""; 0]);
}

#[test]
fn links_and_devices_are_skipped_with_a_warning() {
    let case = Case::new();
    let mut archive = link(b'1', "hard", "/etc/passwd");
    archive.extend(link(b'2', "soft", "/etc/passwd"));
    archive.extend(raw(b"char", b'3', 0, b""));
    archive.extend(raw(b"block", b'4', 0, b""));
    archive.extend(raw(b"pipe", b'6', 0, b""));
    archive.extend(file("main.tf", "x"));

    let warnings = case.extract(&archive).unwrap().warnings;

    let names = [
        "hard link \"hard\"",
        "link \"soft\"",
        "device \"char\"",
        "device \"block\"",
        "pipe \"pipe\"",
    ];
    assert_eq!(warnings.len(), names.len());
    assert!(
        warnings
            .iter()
            .zip(names)
            .all(|(warning, name)| warning.contains(name))
    );
    assert_eq!(fs::read_dir(&case.dest).unwrap().count(), 1);
}

#[test]
fn the_log_gets_a_bounded_number_of_warnings() {
    let case = Case::new();
    let archive: Vec<u8> = (0..500)
        .flat_map(|index| link(b'2', &format!("l{index}"), "x"))
        .collect();

    let warnings = case.extract(&archive).unwrap().warnings;

    assert_eq!(warnings.len(), MAX_WARNINGS + 1);
    assert_eq!(warnings[MAX_WARNINGS], "skipped 400 more links and devices");
}

#[test]
fn a_file_of_10_mib_is_unpacked_and_one_byte_more_is_refused() {
    let case = Case::new();
    let content = vec![b'x'; 10 * MIB + 1];
    let mut writer = Writer::new(0);
    writer.file("fits", 0o644, &content[..10 * MIB]);
    case.extract(&writer.into_bytes()).unwrap();
    assert_eq!(case.read("fits").len(), 10 * MIB);

    let mut writer = Writer::new(0);
    writer.file("dir/large.bin", 0o644, &content);
    let error = case.extract(&writer.into_bytes()).unwrap_err();

    assert_eq!(
        error.to_string(),
        "file \"dir/large.bin\" has 10485761 bytes, more than the 10485760 that a template's file may have"
    );
    assert!(!case.dest.join("dir/large.bin").exists());
}

#[test]
fn a_header_that_promises_a_gibibyte_is_refused_before_anything_is_written() {
    let case = Case::new();

    let error = case
        .extract(&raw(b"large", b'0', 1 << 30, b"x"))
        .unwrap_err();

    assert!(matches!(error, ArchiveError::FileTooBig { size, .. } if size == 1 << 30));
    assert!(!case.dest.join("large").exists());
}

#[test]
fn a_sparse_file_that_expands_to_a_gibibyte_is_refused() {
    let case = Case::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize[..11].copy_from_slice(b"10000000000");
    gnu.sparse[0].offset[..11].copy_from_slice(b"10000000000");
    gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000000000");
    header.set_cksum();

    let error = case.extract(header.as_bytes()).unwrap_err();

    assert!(
        matches!(error, ArchiveError::FileTooBig { size, .. } if size == 1 << 30),
        "{error}"
    );
}

#[test]
fn all_files_together_are_bounded() {
    let case = Case::new();
    let limits = Limits {
        total_bytes: 10,
        ..Limits::DEFAULT
    };
    let archive = [file("a", "12345678"), file("b", "123")].concat();

    let error = extract_template_within(&archive, &case.dir(), &Stop::new(), limits).unwrap_err();

    assert_eq!(
        error.to_string(),
        "archive unpacks to more than 10 bytes at \"b\""
    );
}

#[test]
fn a_hundred_thousand_entries_are_refused() {
    let case = Case::new();
    let one = raw(b"d/", b'5', 0, b"");
    let archive = one.repeat(100_000);

    let error = case.extract(&archive).unwrap_err();

    assert_eq!(error.to_string(), "archive has more than 65536 entries");
}

#[test]
fn a_shorter_entry_of_the_same_name_replaces_the_longer_one_completely() {
    let case = Case::new();
    let archive = [file("main.tf", "a longer text"), file("main.tf", "short")].concat();

    case.extract(&archive).unwrap();

    assert_eq!(case.read("main.tf"), "short");
}

#[test]
fn modules_go_over_a_template_that_is_already_there() {
    let case = Case::new();
    case.extract(&file("main.tf", "a longer text")).unwrap();

    case.extract(&file("main.tf", "short")).unwrap();

    assert_eq!(case.read("main.tf"), "short");
}

#[test]
fn missing_parents_are_made_for_the_owner_alone() {
    let case = Case::new();

    case.extract(&file("a/b/c", "x")).unwrap();

    assert_eq!(case.read("a/b/c"), "x");
    assert_eq!((case.mode("a"), case.mode("a/b")), (0o700, 0o700));
}

#[test]
fn modes_lose_what_is_not_permission_and_never_lock_the_owner_out() {
    let case = Case::new();
    let mut writer = Writer::new(0);
    writer.directory("locked", 0o000);
    writer.file("locked/secret", 0o000, b"x");
    writer.file("setuid", 0o4755, b"x");
    writer.file("read_only", 0o444, b"x");

    case.extract(&writer.into_bytes()).unwrap();

    assert_eq!(
        (case.mode("locked"), case.mode("locked/secret")),
        (0o700, 0o600)
    );
    assert_eq!(case.mode("read_only") & 0o600, 0o600);
    let setuid = fs::metadata(case.dest.join("setuid")).unwrap();
    assert_eq!(setuid.permissions().mode() & 0o7000, 0);
}

#[test]
fn a_file_where_a_directory_is_fails_by_name() {
    let case = Case::new();
    let archive = [file("a/b", "x"), file("a", "x")].concat();

    let error = case.extract(&archive).unwrap_err();

    assert_eq!(error.to_string(), "failed to extract \"a\"");
}

#[test]
fn a_slash_alone_makes_a_directory() {
    let case = Case::new();

    case.extract(&raw(b"old/", 0, 0, b"")).unwrap();

    assert!(case.dest.join("old").is_dir());
}

#[test]
fn the_entry_of_the_directory_itself_changes_nothing() {
    let case = Case::new();

    case.extract(&raw(b"./", b'5', 0, b"")).unwrap();

    assert_eq!(fs::read_dir(&case.dest).unwrap().count(), 0);
}

#[test]
fn long_names_are_unpacked_in_both_dialects() {
    let case = Case::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let mut writer = Writer::new(0);
    writer.file(&long, 0o644, b"pax");
    case.extract(&writer.into_bytes()).unwrap();
    assert_eq!(case.read(&long), "pax");

    let mut archive = raw(b"././@LongLink", b'L', long.len() as u64, long.as_bytes());
    archive.extend(file("short", "gnu"));
    case.extract(&archive).unwrap();

    assert_eq!(case.read(&long), "gnu");
}

#[test]
fn a_file_that_ends_too_early_is_damage() {
    let case = Case::new();
    let mut archive = raw(b"main.tf", b'0', 5000, b"");
    archive.extend_from_slice(&[b'x'; 600]);

    let error = case.extract(&archive).unwrap_err();

    assert!(matches!(error, ArchiveError::Damaged(_)), "{error}");
}

#[test]
fn what_is_no_archive_is_damage() {
    let error = Case::new().extract(&[b'x'; 2048]).unwrap_err();

    assert!(matches!(error, ArchiveError::Damaged(_)), "{error}");
}

#[test]
fn a_stop_ends_it_before_the_next_entry() {
    let (case, stop) = (Case::new(), Stop::new());
    stop.cancel();

    let error = extract_template(&file("main.tf", "x"), &case.dir(), &stop).unwrap_err();

    assert!(matches!(error, ArchiveError::Cancelled), "{error}");
    assert!(!case.dest.join("main.tf").exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_refused_or_stay_inside(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let case = Case::new();
        let _ = case.extract(&bytes);
        prop_assert!(case.escaped().is_empty());
    }

    #[test]
    fn any_header_is_refused_or_stays_inside(
        name in "[./a-c\\x00]{0,30}", kind in any::<u8>(), size in any::<u64>(), noise in prop::collection::vec((0usize..512, any::<u8>()), 0..4)
    ) {
        let case = Case::new();
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_size(size);
        for (at, byte) in noise {
            header.as_mut_bytes()[at] = byte;
        }
        header.set_cksum();
        let mut archive = header.as_bytes().to_vec();
        archive.extend_from_slice(&[b'x'; 1024]);
        let _ = case.extract(&archive);
        prop_assert!(case.escaped().is_empty());
    }
}
