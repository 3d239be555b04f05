use std::os::{
    fd::OwnedFd,
    unix::fs::{PermissionsExt as _, symlink},
};

use rustix::fs::Mode;

use super::*;
use crate::beneath::{DIRECTORY, resolve};

fn lab() -> (tempfile::TempDir, PathBuf) {
    in_lab(tempfile::tempdir().unwrap())
}

fn in_lab(lab: tempfile::TempDir) -> (tempfile::TempDir, PathBuf) {
    let dir = lab.path().join("Session1");
    fs::create_dir(&dir).unwrap();
    (lab, dir)
}

/// Returns a lab in memory where possible, because disks take a millisecond for each directory.
fn quick_lab() -> (tempfile::TempDir, PathBuf) {
    in_lab(tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap()))
}

/// Creates nested directories without a path that would be too long.
pub(crate) fn nest(dir: &Path, depth: usize) {
    let mut at: OwnedFd = fs::File::open(dir).unwrap().into();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = resolve::open(at.as_fd(), Path::new("d"), DIRECTORY, Mode::empty()).unwrap();
    }
}

fn left(lab: &tempfile::TempDir) -> Vec<OsString> {
    let entries = fs::read_dir(lab.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[tokio::test]
async fn sixty_thousand_nested_directories_go() {
    let (lab, dir) = quick_lab();
    nest(&dir, 60_000);

    let removed = remove_within(&dir, LONG_PATIENCE).await;

    let is_gone = left(&lab).is_empty();
    if !is_gone {
        let _ = lab.keep(); // Its own removal is recursive, and would overflow the stack.
    }
    assert!(removed.is_ok() && is_gone, "{removed:?}");
}

#[tokio::test]
async fn a_link_is_removed_and_what_it_leads_to_stays() {
    let (lab, dir) = lab();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "").unwrap();
    fs::create_dir(dir.join("deep")).unwrap();
    for place in [dir.join("link"), dir.join("deep/link")] {
        symlink(outside.path(), place).unwrap();
    }

    remove_dir(&dir).await.unwrap();

    assert!(left(&lab).is_empty());
    assert!(outside.path().join("kept").exists());
}

#[tokio::test]
async fn a_link_in_the_place_of_the_directory_is_all_that_goes() {
    let (lab, dir) = lab();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "").unwrap();
    fs::remove_dir(&dir).unwrap();
    symlink(outside.path(), &dir).unwrap();

    remove_dir(&dir).await.unwrap();

    assert!(left(&lab).is_empty());
    assert!(outside.path().join("kept").exists());
}

#[tokio::test]
async fn directories_without_any_rights_go() {
    let (lab, dir) = lab();
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    fs::write(dir.join("a/b/file"), "").unwrap();
    for name in ["a/b/c", "a/b", "a", "."] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }

    remove_dir(&dir).await.unwrap();

    assert!(left(&lab).is_empty());
}

#[tokio::test]
async fn a_directory_that_is_gone_counts_as_removed() {
    let (_lab, dir) = lab();

    remove_dir(&dir).await.unwrap();
    remove_dir(&dir).await.unwrap();
    remove_dir(&dir.join("and/its/parent")).await.unwrap();
}

#[test]
fn what_a_turn_leaves_the_next_one_finds() {
    let (lab, dir) = quick_lab();
    nest(&dir, 3_000);
    let parent = fs::File::open(lab.path()).unwrap();
    let name = dir.file_name().unwrap();

    let mut turns = 0;
    while !matches!(
        turn(
            parent.as_fd(),
            name,
            Instant::now() + Duration::from_millis(1)
        )
        .unwrap(),
        Turn::Done
    ) {
        turns += 1;
    }

    assert!(turns > 0);
    assert!(left(&lab).is_empty());
}

#[tokio::test]
async fn a_sweep_removes_what_a_removal_left_and_what_is_old() {
    let (lab, dir) = lab();
    for name in ["Session2.removing", "Session3.aside", "other.removing"] {
        fs::create_dir_all(lab.path().join(name).join("deep")).unwrap();
    }
    fs::write(lab.path().join("Session4.removing"), "a file").unwrap();

    sweep(lab.path(), "Session", Duration::from_secs(60), false).await;

    assert!(dir.exists());
    let mut names = left(&lab);
    names.sort();
    let expected = [
        "Session1",
        "Session3.aside",
        "Session4.removing",
        "other.removing",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        put_aside(lab.path()).unwrap(),
        [lab.path().join("Session3.aside")]
    );

    sweep(lab.path(), "Session", Duration::ZERO, true).await;

    assert_eq!(left(&lab).len(), 2, "{:?}", left(&lab));
}

#[test]
fn only_what_nobody_uses_and_nobody_touched_for_long_is_stale() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let (lab, dir) = lab();
    let modified = fs::metadata(&dir).unwrap().modified().unwrap();

    let stale = |now| leftovers(lab.path(), "Session", 7 * DAY, now, false).unwrap();

    // A clock that is set forward makes the directory of a running job look old.
    let running = Dir::open(&dir).unwrap();
    running.mark_in_use();
    assert!(stale(modified + 7 * DAY).is_empty());
    drop(running);
    assert_eq!(stale(modified + 7 * DAY), [dir]);
    assert!(stale(modified + 7 * DAY - Duration::from_secs(1)).is_empty());
}

/// Mounts a small file system, where that is allowed.
struct Mount(PathBuf);

impl Mount {
    fn new(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(&path);
        let is_mounted = mount.output().is_ok_and(|done| done.status.success());
        is_mounted.then_some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        umount.arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test]
async fn what_does_not_go_is_put_aside_and_what_is_mounted_is_not_entered() {
    let (lab, dir) = lab();
    let Some(mut mount) = Mount::new(dir.join("a/mounted")) else {
        // Not `println!`, which the harness keeps to itself: `.ci/run` lists such lines.
        let line = b"skipped: what is mounted in a removed directory: no right to mount\n";
        return std::io::Write::write_all(&mut std::io::stderr(), line).unwrap();
    };
    fs::write(mount.0.join("kept"), "").unwrap();
    fs::write(dir.join("a/gone"), "").unwrap();

    let error = remove_dir(&dir).await.unwrap_err().to_string();

    let aside = lab.path().join("Session1.aside");
    mount.0 = aside.join("a/mounted");
    assert!(error.contains("moved aside"), "{error}");
    assert_eq!(put_aside(lab.path()).unwrap(), std::slice::from_ref(&aside));
    assert!(mount.0.join("kept").exists() && !aside.join("a/gone").exists());
    drop(mount);
    remove_dir(&aside).await.unwrap();
    assert!(left(&lab).is_empty());
}
