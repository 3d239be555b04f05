//! Files, by sftp and scp.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::PermissionsExt as _,
    },
};

use super::lab::{self, Lab, ended, has_ssh, succeed, text};

/// More than any window or buffer on the way.
const LARGE: usize = 24 << 20;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    bytes.take(length).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sftp_does_with_files_what_people_do() {
    if !has_ssh() {
        return;
    }
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let large = noise(LARGE);
    fs::write(lab.path("large"), &large).unwrap();
    fs::write(lab.path("small"), "small\n").unwrap();
    let there = &running.home;
    let run = async |lines: &[String]| {
        fs::write(lab.path("batch"), lines.join("\n")).unwrap();
        let mut sftp = lab.open("sftp").await;
        sftp.arg("-b").arg(lab.path("batch")).arg("dev.outpost");
        ended(sftp).await
    };
    let [local, small, back] = ["large", "small", "back"].map(|it| lab.path(it));
    let output = run(&[
        "pwd".to_owned(),
        "mkdir d".to_owned(),
        format!("put {} d/large", local.display()),
        format!("get d/large {}", back.display()),
        format!("put -p {} d/small", small.display()),
        "chmod 640 d/small".to_owned(),
        "rename d/small d/renamed".to_owned(),
        format!("put {} d/over", small.display()),
        "rename d/renamed d/over".to_owned(),
        "ln -s over d/link".to_owned(),
        "ln d/over d/hard".to_owned(),
        "ls -l d".to_owned(),
        "mkdir d/e".to_owned(),
        "rmdir d/e".to_owned(),
        "df d".to_owned(),
    ])
    .await;
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    assert!(
        shown.contains(&format!("working directory: {}\n", there.display())),
        "{shown}"
    );
    assert!(fs::read(there.join("d/large")).unwrap() == large);
    assert!(fs::read(&back).unwrap() == large);
    assert_eq!(fs::read(there.join("d/over")).unwrap(), b"small\n");
    assert_eq!(fs::read(there.join("d/hard")).unwrap(), b"small\n");
    let mode = fs::metadata(there.join("d/over")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o640);
    let link = fs::read_link(there.join("d/link")).unwrap();
    assert_eq!(link.to_str(), Some("over"));
    assert!(!there.join("d/renamed").exists() && !there.join("d/e").exists());

    let again = run(&["rm d/link".to_owned(), "rm d/large".to_owned()]).await;
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(!there.join("d/large").exists());

    for (line, said) in [
        ("get nowhere", "not found"),
        ("rmdir d", "Failure"),
        ("ls nowhere", "not found"),
    ] {
        let failed = run(&[line.to_owned()]).await;
        assert_eq!(failed.status.code(), Some(1), "{line}");
        let text = text(&failed.stderr);
        assert!(text.contains(said), "{line}: {text}");
    }
}

/// Two names that differ only in bytes that are no UTF-8, through everything that takes or returns a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_text_stay_as_they_are() {
    if !has_ssh() {
        return;
    }
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let there = running.home.join("d");
    let name = |byte: u8| OsStr::from_bytes(&[b'f', byte]).to_owned();
    let local = lab.path("local");
    fs::create_dir(&local).unwrap();
    for byte in [0xfe, 0xff] {
        fs::write(local.join(name(byte)), [byte]).unwrap();
    }
    let run = async |lines: &[&[u8]]| {
        fs::write(lab.path("batch"), lines.join(&b'\n')).unwrap();
        let mut sftp = lab.open("sftp").await;
        sftp.arg("-b").arg(lab.path("batch")).arg("dev.outpost");
        sftp.current_dir(&local);
        let output = ended(sftp).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };

    run(&[
        b"mkdir d",
        b"put f\xfe d/f\xfe",
        b"put f\xff d/f\xff",
        b"rename d/f\xfe d/g\xfe",
        b"ln -s g\xfe d/l\xff",
        b"ln d/g\xfe d/h\xfe",
        b"chmod 600 d/g\xfe",
        b"mkdir d/m\xff",
        b"get d/f\xff back\xff",
        b"get d/l\xff back\xfe",
    ])
    .await;
    let mut names: Vec<Vec<u8>> = fs::read_dir(&there)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect();
    names.sort();
    let expected: [&[u8]; 5] = [b"f\xff", b"g\xfe", b"h\xfe", b"l\xff", b"m\xff"];
    assert_eq!(names, expected);
    for byte in [0xfe, 0xff] {
        let back = local.join(OsStr::from_bytes(&[b"back", &[byte][..]].concat()));
        assert_eq!(fs::read(back).unwrap(), [byte]);
    }
    let link = fs::read_link(there.join(OsStr::from_bytes(b"l\xff"))).unwrap();
    assert_eq!(link.as_os_str().as_bytes(), b"g\xfe");

    run(&[b"cd d/m\xff", b"rm ../h\xfe", b"rmdir ../m\xff"]).await;
    assert!(!there.join(OsStr::from_bytes(b"h\xfe")).exists());
    assert!(!there.join(OsStr::from_bytes(b"m\xff")).exists());

    // A command's words, and the old protocol of scp, which puts names into them.
    let mut listing = lab.open("ssh").await;
    listing
        .arg("dev.outpost")
        .arg(OsStr::from_bytes(b"cat d/f\xff"));
    assert_eq!(ended(listing).await.stdout, [0xff]);
    for protocol in ["-s", "-O"] {
        let mut scp = lab.open("scp").await;
        let place: &[u8] = b"dev.outpost:d/f\xff";
        scp.arg(protocol)
            .arg(OsStr::from_bytes(place))
            .arg(local.join(protocol));
        let copied = ended(scp).await;
        assert!(copied.status.success(), "{}", text(&copied.stderr));
        assert_eq!(fs::read(local.join(protocol)).unwrap(), [0xff]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scp_copies_both_ways_by_either_of_its_protocols() {
    if !has_ssh() {
        return;
    }
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/c d"), noise(1 << 20)).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    for protocol in ["-s", "-O"] {
        let mut there = lab.open("scp").await;
        there
            .args([protocol, "-r", "-p"])
            .arg(&tree)
            .arg(format!("dev.outpost:copy{protocol}"));
        succeed(there).await;
        let copy = running.home.join(format!("copy{protocol}"));
        let mode = fs::metadata(copy.join("run")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o755);

        let back = lab.path(&format!("back{protocol}"));
        let mut here = lab.open("scp").await;
        here.args([protocol, "-r"])
            .arg(format!("dev.outpost:copy{protocol}"))
            .arg(&back);
        succeed(here).await;
        assert!(fs::read(back.join("a/b/c d")).unwrap() == noise(1 << 20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_refuses_files_says_so_and_runs_commands() {
    if !has_ssh() {
        return;
    }
    let settings = [("CODER_AGENT_BLOCK_FILE_TRANSFER", "true")];
    let (lab, running) = Lab::with_agent(lab::agent("main"), &settings).await;
    fs::write(lab.path("small"), "small\n").unwrap();

    assert_eq!(lab.there("echo yes").await, "yes\n");
    for command in [
        "scp -t x",
        "/usr/bin/rsync --server",
        "nc localhost 1",
        "sftp x",
    ] {
        let refused = lab.ssh(&["dev.outpost", command]).await;
        assert_eq!(
            (refused.status.code(), text(&refused.stderr)),
            (
                Some(65),
                "\u{2}File transfer has been disabled.\n".to_owned()
            ),
            "{command}"
        );
    }
    for protocol in ["-s", "-O"] {
        let mut scp = lab.open("scp").await;
        scp.arg(protocol)
            .arg(lab.path("small"))
            .arg("dev.outpost:small");
        assert!(!ended(scp).await.status.success(), "{protocol}");
    }
    let mut sftp = lab.open("sftp").await;
    sftp.arg("dev.outpost");
    assert!(!ended(sftp).await.status.success());
    assert!(!running.home.join("small").exists());
}
