use std::fs;

use outpost_base::stop::Stop;
use proptest::prelude::*;

use super::*;
use crate::archive::extract_template;

/// Returns a template with fetched modules: each has its name as key and source, and one file.
fn template(modules: &[(&str, usize)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = vec![r#"{"Key":"","Source":"","Dir":"."}"#.to_owned()];
    for (name, size) in modules {
        let module = dir.path().join(FETCHED).join(name);
        fs::create_dir_all(&module).unwrap();
        fs::write(module.join("payload"), vec![b'x'; *size]).unwrap();
        entries.push(format!(
            r#"{{"Key":"{name}","Source":"{name}","Version":"0.1.0","Dir":"{FETCHED}{name}"}}"#
        ));
    }
    write_manifest(dir.path(), &entries);
    dir
}

fn open(dir: &tempfile::TempDir) -> Dir {
    Dir::open(dir.path()).unwrap()
}

fn write_manifest(dir: &Path, entries: &[String]) {
    fs::create_dir_all(dir.join(FETCHED)).unwrap();
    let manifest = format!(r#"{{"Modules":[{}]}}"#, entries.join(","));
    fs::write(dir.join(MANIFEST), manifest).unwrap();
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    let name = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        entry.unwrap().path().unwrap().display().to_string()
    };
    entries.map(name).collect()
}

#[test]
fn a_template_without_modules_has_no_archive() {
    let dir = tempfile::tempdir().unwrap();

    assert_eq!(pack_modules(&open(&dir)).unwrap(), Packed::default());
    assert_eq!(read_modules(&open(&dir)).unwrap(), []);
    assert_eq!(
        pack_modules(&open(&template(&[]))).unwrap(),
        Packed::default()
    );
}

#[test]
fn the_smallest_modules_come_first_and_the_manifest_last() {
    let dir = template(&[("large", 5000), ("small", 10), ("medium", 1500)]);

    let packed = pack_modules(&open(&dir)).unwrap();

    let expected = [
        "small/",
        "small/payload",
        "medium/",
        "medium/payload",
        "large/",
        "large/payload",
        "modules.json",
    ];
    assert_eq!(
        names(&packed.archive),
        expected.map(|name| format!("{FETCHED}{name}"))
    );
    assert_eq!(packed.skipped, [""; 0]);
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = template(&[("small", 500), ("medium", 1500), ("large", 5000)]);

    let packed = pack_modules_within(&open(&dir), 8000).unwrap();

    assert_eq!(packed.skipped, ["large:large"]);
    assert_eq!(names(&packed.archive).len(), 5);
}

#[test]
fn an_exact_fit_leaves_no_room_for_the_next() {
    let size = pack_modules(&open(&template(&[("exact", 1000)])))
        .unwrap()
        .archive
        .len() as u64;
    let both = template(&[("exact", 1000), ("extra", 2000)]);
    let manifest_grows = 512;

    let packed = pack_modules_within(&open(&both), size + manifest_grows).unwrap();

    assert_eq!(packed.skipped, ["extra:extra"]);
}

#[test]
fn a_last_block_that_is_full_counts_as_two() {
    let item = |size| Item {
        name: String::new(),
        mode: 0,
        size,
    };

    let estimates =
        [None, Some(0), Some(1), Some(511), Some(512)].map(|size| item(size).estimate());

    assert_eq!(estimates, [512, 1024, 1024, 1024, 1536]);
}

#[test]
fn if_none_fits_there_is_no_archive() {
    let packed = pack_modules_within(&open(&template(&[("a", 2000), ("b", 3000)])), 2500).unwrap();

    assert_eq!((packed.archive.len(), packed.skipped.len()), (0, 2));
}

#[test]
fn git_directories_links_and_local_modules_are_left_out() {
    let dir = template(&[("m", 1)]);
    let module = dir.path().join(FETCHED).join("m");
    fs::create_dir_all(module.join("sub/.git")).unwrap();
    fs::write(module.join("sub/.git/config"), "x").unwrap();
    fs::write(module.join(".gitignore"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", module.join("link")).unwrap();
    fs::create_dir(dir.path().join("local")).unwrap();
    fs::write(dir.path().join("local/main.tf"), "").unwrap();
    write_manifest(
        dir.path(),
        &[
            format!(r#"{{"Key":"m","Source":"m","Dir":"{FETCHED}m"}}"#),
            r#"{"Key":"l","Source":"./local","Dir":"local"}"#.to_owned(),
        ],
    );

    let packed = pack_modules(&open(&dir)).unwrap();

    let expected = ["m/", "m/.gitignore", "m/payload", "m/sub/", "modules.json"];
    assert_eq!(
        names(&packed.archive),
        expected.map(|name| format!("{FETCHED}{name}"))
    );
}

#[test]
fn a_packed_template_unpacks_to_the_same_modules() {
    let (dir, dest) = (
        template(&[("a", 10), ("b", 600)]),
        tempfile::tempdir().unwrap(),
    );

    let first = pack_modules(&open(&dir)).unwrap();
    extract_template(&first.archive, &open(&dest), &Stop::new()).unwrap();

    assert_eq!(pack_modules(&open(&dest)).unwrap(), first);
    assert_eq!(
        read_modules(&open(&dest)).unwrap(),
        read_modules(&open(&dir)).unwrap()
    );
}

#[test]
fn the_template_itself_is_no_module() {
    let modules = read_modules(&open(&template(&[("m", 1)]))).unwrap();

    let expected = Module {
        source: "m".into(),
        version: "0.1.0".into(),
        key: "m".into(),
    };
    assert_eq!(modules, [expected]);
}

#[test]
fn a_module_outside_of_the_template_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let outside = format!("{FETCHED}../../../etc");
    write_manifest(
        dir.path(),
        &[format!(r#"{{"Key":"x","Source":"x","Dir":"{outside}"}}"#)],
    );

    let error = pack_modules(&open(&dir)).unwrap_err();

    assert!(matches!(error, ModuleError::NonLocal { dir } if dir == outside));
}

#[test]
fn a_damaged_manifest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write_manifest(dir.path(), &["{".to_owned()]);

    let error = read_modules(&open(&dir)).unwrap_err().to_string();

    assert!(
        error.ends_with(".terraform/modules/modules.json`"),
        "{error}"
    );
}

#[test]
fn links_and_pipes_in_the_place_of_manifest_and_modules_are_not_read() {
    let secret = template(&[("secret", 1)]);
    let module = |dir: &tempfile::TempDir| dir.path().join(FETCHED).join("m");

    let dir = template(&[("m", 1)]);
    fs::remove_file(dir.path().join(MANIFEST)).unwrap();
    let theirs = secret.path().join(MANIFEST);
    std::os::unix::fs::symlink(theirs, dir.path().join(MANIFEST)).unwrap();
    assert!(read_modules(&open(&dir)).is_err());

    let dir = template(&[("m", 1)]);
    fs::remove_file(dir.path().join(MANIFEST)).unwrap();
    nix::unistd::mkfifo(&dir.path().join(MANIFEST), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(read_modules(&open(&dir)).is_err());

    let dir = template(&[("m", 1)]);
    fs::remove_dir_all(module(&dir)).unwrap();
    std::os::unix::fs::symlink(secret.path(), module(&dir)).unwrap();
    assert_eq!(pack_modules(&open(&dir)).unwrap(), Packed::default());
}

#[test]
fn a_manifest_whose_list_is_null_has_no_modules() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(FETCHED)).unwrap();
    fs::write(dir.path().join(MANIFEST), r#"{"Modules":null}"#).unwrap();

    assert_eq!(read_modules(&open(&dir)).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_manifest_is_refused_or_read(text in "\\PC{0,200}") {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(FETCHED)).unwrap();
        fs::write(dir.path().join(MANIFEST), text).unwrap();
        let _ = (read_modules(&open(&dir)), pack_modules(&open(&dir)));
    }
}
