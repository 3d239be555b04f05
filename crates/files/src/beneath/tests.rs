use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn lab() -> (tempfile::TempDir, Dir) {
    let lab = tempfile::tempdir().unwrap();
    let dir = lab.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(lab.path().join("secret"), "of somebody else").unwrap();
    (lab, Dir::open(&dir).unwrap())
}

fn refusal(dir: &Dir, name: &str) -> Refusal {
    let error = dir.read(name, 100).unwrap_err();
    Refusal::of(&error)
        .unwrap_or_else(|| panic!("{error}"))
        .clone()
}

#[test]
fn a_file_is_read_up_to_its_limit() {
    let (_lab, dir) = lab();
    fs::write(dir.path().join("file"), "12345").unwrap();

    assert_eq!(dir.read("file", 5).unwrap().unwrap(), b"12345");
    assert_eq!(dir.read_start("file", 2).unwrap().unwrap(), b"12");
    assert_eq!(dir.read("missing", 5).unwrap(), None);
    let error = dir.read("file", 4).unwrap_err().to_string();
    assert_eq!(error, "it is larger than the limit of 4 bytes");
}

#[test]
fn no_link_is_followed_wherever_it_stands() {
    let (lab, dir) = lab();
    symlink("../secret", dir.path().join("link")).unwrap();
    symlink(lab.path(), dir.path().join("up")).unwrap();

    assert_eq!(refusal(&dir, "link"), Refusal::Link);
    assert_eq!(refusal(&dir, "up/secret"), Refusal::Link);
    assert_eq!(refusal(&dir, "../secret"), Refusal::Outside);
    assert_eq!(refusal(&dir, "/etc/passwd"), Refusal::Outside);
    assert!(dir.list("up").is_err() && dir.dir("up").is_err());
    assert_eq!(dir.find("link").unwrap().unwrap().kind, Kind::Link);
    assert!(dir.find("up/secret").is_err());
}

#[test]
fn a_link_in_the_place_of_the_directory_is_refused() {
    let (lab, dir) = lab();
    symlink(dir.path(), lab.path().join("link")).unwrap();

    assert!(Dir::open(&lab.path().join("link")).is_err());
}

#[test]
fn only_a_regular_file_with_a_single_name_is_read() {
    let (lab, dir) = lab();
    let path = |name: &str| dir.path().join(name);
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(path("directory")).unwrap();
    fs::hard_link(lab.path().join("secret"), path("second")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();

    assert_eq!(refusal(&dir, "pipe"), Refusal::Kind("a named pipe"));
    assert_eq!(refusal(&dir, "directory"), Refusal::Kind("a directory"));
    assert!(matches!(refusal(&dir, "socket"), Refusal::Kind(_)));
    assert_eq!(refusal(&dir, "second"), Refusal::Names(2));
}

#[test]
fn what_is_replaced_while_it_is_held_stays_what_it_was() {
    let (lab, dir) = lab();
    fs::write(dir.path().join("file"), "ours").unwrap();
    fs::rename(dir.path(), lab.path().join("moved")).unwrap();
    let other = lab.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "theirs").unwrap();
    symlink(&other, dir.path()).unwrap();

    assert_eq!(dir.read("file", 100).unwrap().unwrap(), b"ours");
}

#[test]
fn a_huge_sparse_file_costs_nothing() {
    let (_lab, dir) = lab();
    let file = File::create(dir.path().join("huge")).unwrap();
    file.set_len(1 << 40).unwrap();

    assert_eq!(refusal(&dir, "huge"), Refusal::Size { limit: 100 });
}

#[test]
fn a_kernel_without_the_call_gives_the_same() {
    let (lab, dir) = lab();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), "x").unwrap();
    symlink("sub", dir.path().join("link")).unwrap();
    symlink(lab.path().join("secret"), dir.path().join("sub/link")).unwrap();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |name: &str| {
        let opened = resolve::step_by_step(dir.fd(), Path::new(name), flags, Mode::empty());
        opened.map(|fd| start_of(File::from(fd), 100).unwrap())
    };

    assert_eq!(open("sub/file").unwrap(), b"x");
    for name in ["link/file", "sub/link"] {
        let error = open(name).unwrap_err();
        assert_eq!(Refusal::of(&error), Some(&Refusal::Link), "{name}: {error}");
    }
    assert_eq!(open("none").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_is_written_replaces_a_link_and_not_what_it_leads_to() {
    let (lab, dir) = lab();
    symlink("../secret", dir.path().join("link")).unwrap();
    symlink(lab.path(), dir.path().join("up")).unwrap();

    dir.write_private("link", b"ours").unwrap();
    let error = dir.write_private("up/new", b"ours").unwrap_err();

    assert_eq!(Refusal::of(&error), Some(&Refusal::Link));
    assert_eq!(fs::read(dir.path().join("link")).unwrap(), b"ours");
    let secret = lab.path().join("secret");
    assert_eq!(fs::read(&secret).unwrap(), b"of somebody else");
    let mode = fs::metadata(dir.path().join("link")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(dir.list("").unwrap().len(), 2, "no temporary file is left");

    fs::hard_link(&secret, dir.path().join("second")).unwrap();
    std::io::Write::write_all(&mut dir.create("second", 0o600).unwrap(), b"ours").unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"of somebody else");
    assert!(dir.create("up/new", 0o600).is_err() && !lab.path().join("new").exists());
}

#[test]
fn directories_links_and_times_stay_inside() {
    let (lab, dir) = lab();
    symlink(lab.path(), dir.path().join("up")).unwrap();

    dir.symlink("a/b/link", Path::new("/target")).unwrap();
    dir.touch("a/b/link").unwrap();

    assert_eq!(
        dir.read_link("a/b/link").unwrap().unwrap(),
        Path::new("/target")
    );
    assert_eq!(dir.read_link("a/b").unwrap(), None);
    assert!(dir.symlink("up/link", Path::new("/target")).is_err());
    assert!(dir.create_dirs("up/sub").is_err() && !lab.path().join("sub").exists());
    dir.remove_dir("a").unwrap();
    dir.remove_dir("a").unwrap();
    assert!(dir.remove_dir("up/dir").is_err());
    assert!(dir.path().exists());
}

#[test]
fn a_directory_is_listed_with_kinds() {
    let (_lab, dir) = lab();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    symlink("sub", dir.path().join("link")).unwrap();
    fs::set_permissions(dir.path().join("file"), fs::Permissions::from_mode(0o000)).unwrap();

    let listed = dir.list("").unwrap();

    let expected = [
        ("file", Kind::File),
        ("link", Kind::Link),
        ("sub", Kind::Directory),
    ];
    assert_eq!(listed, expected.map(|(name, kind)| (name.into(), kind)));
}

#[tokio::test]
async fn work_that_does_not_end_is_given_up() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();

    let given_up = within(Duration::from_millis(1), move || receiver.recv()).await;

    assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
    drop(sender);
}
