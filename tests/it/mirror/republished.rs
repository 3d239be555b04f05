//! Modules and tags that are not what they were: pinned when they were first used, as checksums of providers are.

use std::{fs, path::Path};

use outpost::mirror::{Generation, Store};
use serde_json::json;
use tempfile::TempDir;

use super::{
    modules::{piped, tar},
    origin::Origin,
    round_trip::{done, run},
};

const HOST: &str = "registry.example";
const MODULE: &str = "registry.example/acme/hello/coder";

/// A home whose mirror.toml wants these things.
fn home(origin: &Origin, config: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let config = format!("{config}\n{}", origin.host(HOST));
    fs::write(dir.path().join("mirror.toml"), config).unwrap();
    dir
}

/// The exit code of a sync, and what it said.
fn sync(home: &Path, more: &[&str]) -> (i32, String) {
    let arguments = [&["mirror", "sync", "--mirror-dir", "mirror"][..], more].concat();
    let output = run(home, &arguments);
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code().unwrap(), text)
}

fn newest(home: &Path) -> Generation {
    let store = Store::open(&home.join("mirror")).unwrap();
    store.newest().unwrap().1
}

fn wants_module() -> String {
    format!("[[modules]]\nsource = \"{MODULE}\"\nversions = [\"1.0.0\"]\n")
}

/// Puts the module's archive where its registry says that it is.
fn pack(origin: &Origin, text: &str, program: &str, end: &str) {
    let packed = piped(program, &tar(&[("hello-1/main.tf", text)]));
    origin.put("files/hello-1.0.0", &packed);
    let location = format!("{}/files/hello-1.0.0//hello-1?archive={end}", origin.url);
    let path = MODULE.split_once('/').unwrap().1;
    let download = format!("{HOST}/modules/{path}/1.0.0/download");
    origin.put(
        &download,
        json!({ "location": location }).to_string().as_bytes(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_is_republished_is_noticed_and_not_taken_until_it_is_accepted() {
    let origin = Origin::start().await;
    origin.publish_module(MODULE, "1.0.0", "nowhere");
    pack(&origin, "# one\n", "gzip", "tar.gz");
    let dir = home(&origin, &wants_module());
    let (code, said) = sync(dir.path(), &[]);
    assert_eq!(code, 0, "{said}");
    let before = newest(dir.path());

    // Forges pack anew what did not change.
    pack(&origin, "# one\n", "xz", "tar.xz");
    let (code, said) = sync(dir.path(), &[]);
    assert_eq!((code, &newest(dir.path())), (0, &before), "{said}");

    pack(&origin, "# two\n", "gzip", "tar.gz");
    let remedy = format!("--accept-changed {MODULE}@1.0.0");
    for more in [&["--dry-run"][..], &[]] {
        let (code, said) = sync(dir.path(), more);
        assert_eq!(code, 4, "{said}");
        assert!(said.contains(&remedy), "{said}");
        assert_eq!(newest(dir.path()), before, "what is there stays");
    }
    // A mirror without pins, as a bundle brings one, knows it by what it has.
    let pins = dir.path().join("mirror/trust");
    fs::rename(&pins, dir.path().join("aside")).unwrap();
    assert_eq!(sync(dir.path(), &[]).0, 4);
    fs::remove_dir_all(&pins).unwrap();
    fs::rename(dir.path().join("aside"), &pins).unwrap();

    let accept = remedy.split(' ').collect::<Vec<_>>();
    let (code, said) = sync(dir.path(), &accept);
    assert_eq!(code, 0, "{said}");
    let after = newest(dir.path());
    assert_eq!(after.modules.len(), 1);
    assert_ne!(after.modules[0].archive, before.modules[0].archive);
    let (code, said) = sync(dir.path(), &[]);
    assert_eq!((code, &newest(dir.path())), (0, &after), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_the_mirror_has_no_more_is_known_by_its_pin() {
    let origin = Origin::start().await;
    origin.publish_module(MODULE, "1.0.0", "nowhere");
    pack(&origin, "# one\n", "gzip", "tar.gz");
    let dir = home(&origin, &wants_module());
    assert_eq!(sync(dir.path(), &[]).0, 0);
    let other = home(&origin, &wants_module());
    fs::create_dir(other.path().join("mirror")).unwrap();
    fs::rename(
        dir.path().join("mirror/trust"),
        other.path().join("mirror/trust"),
    )
    .unwrap();
    pack(&origin, "# two\n", "gzip", "tar.gz");

    let (code, said) = sync(other.path(), &[]);

    assert_eq!(code, 4, "{said}");
    assert!(said.contains(&format!("{MODULE}@1.0.0")), "{said}");
    let store = Store::open(&other.path().join("mirror")).unwrap();
    assert!(store.newest().is_err(), "nothing of it was taken");
}

/// Runs git in a repository.
fn git(dir: &Path, arguments: &[&str]) {
    let mut command = std::process::Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]);
    let output = command.args(arguments).current_dir(dir).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
}

fn change(dir: &Path, text: &str) {
    fs::write(dir.join("main.tf"), text).unwrap();
    git(dir, &["add", "."]);
    git(dir, &["commit", "--quiet", "-m", text]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_is_moved_is_noticed_and_a_branch_moves() {
    let origin = Origin::start().await;
    let source = TempDir::new().unwrap();
    git(
        source.path(),
        &["init", "--quiet", "--initial-branch=trunk", "."],
    );
    change(source.path(), "# one\n");
    git(source.path(), &["tag", "v1"]);
    origin.publish_repository("git/acme/mods.git", source.path());
    let module = format!("git::{}/git/acme/mods.git?ref=v1", origin.url);
    origin.publish_module(MODULE, "1.0.0", &module);
    let url = format!("{}/git/acme/mods.git", origin.url);
    let repository = format!("[[git]]\nurl = \"{url}\"\n");
    let of_both = [
        home(&origin, &repository),
        // A registry that names the tag is asked for the module alone.
        home(&origin, &wants_module()),
    ];
    for dir in &of_both {
        let (code, said) = sync(dir.path(), &[]);
        assert_eq!(code, 0, "{said}");
    }

    change(source.path(), "# two\n");
    git(source.path(), &["tag", "v2"]);
    origin.publish_repository("git/acme/mods.git", source.path());
    let (code, said) = sync(of_both[0].path(), &[]);
    assert_eq!(code, 0, "{said}");
    let moved = newest(of_both[0].path());
    let refs = &moved.git[0].refs;
    assert_eq!(refs["refs/heads/trunk"], refs["refs/tags/v2"]);

    git(source.path(), &["tag", "--force", "v1"]);
    origin.publish_repository("git/acme/mods.git", source.path());
    let place = url.strip_prefix("http://").unwrap();
    let place = place.strip_suffix(".git").unwrap();
    let accepted = format!("{place}@v1");
    for dir in &of_both {
        let before = newest(dir.path());
        for more in [&["--dry-run"][..], &[]] {
            let (code, said) = sync(dir.path(), more);
            assert_eq!(code, 4, "{said}");
            let remedy = format!("--accept-changed {accepted}");
            assert!(said.contains(&remedy), "{said}");
            assert_eq!(newest(dir.path()), before, "what is there stays");
        }
    }

    let (code, said) = sync(of_both[0].path(), &["--accept-changed", &accepted]);
    assert_eq!(code, 0, "{said}");
    let refs = newest(of_both[0].path()).git[0].refs.clone();
    assert_eq!(refs["refs/tags/v1"], refs["refs/tags/v2"]);
    // A module is a version of its own.
    let (code, said) = sync(of_both[1].path(), &["--accept-changed", &accepted]);
    assert_eq!(code, 4, "{said}");
    let version = format!("{MODULE}@1.0.0");
    assert!(
        said.contains(&format!("--accept-changed {version}")),
        "{said}"
    );
    let both = ["--accept-changed", &accepted, "--accept-changed", &version];
    let (code, said) = sync(of_both[1].path(), &both);
    assert_eq!(code, 0, "{said}");
    for dir in &of_both {
        let (code, said) = sync(dir.path(), &[]);
        assert_eq!(code, 0, "{said}");
    }
    let doctored = source.path().join("template");
    fs::create_dir(&doctored).unwrap();
    let call = format!("module \"a\" {{\n  source = \"{MODULE}\"\n}}\n");
    fs::write(doctored.join("main.tf"), call).unwrap();
    let doctor = ["mirror", "doctor", "--mirror", "mirror"];
    let template = doctored.to_str().unwrap();
    done(&run(
        of_both[1].path(),
        &[&doctor[..], &[template]].concat(),
    ));
}
