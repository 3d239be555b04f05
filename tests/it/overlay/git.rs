//! What git is given in a workspace: the owner's key, and answers to its questions.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use outpost::proto::coder::agent::v2::Manifest;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::{
    fake::Fake,
    lab::{Lab, ended, outpost, succeed, text},
};

const KEY: &str = "-----BEGIN KEY-----\nsecret\n-----END KEY-----\n";
const QUESTIONS: [&str; 2] = [
    "Username for 'https://git.example.com': ",
    "Password for 'https://amy@git.example.com': ",
];

/// An `ssh` that says what it is given.
fn fake_ssh(directory: &Path) {
    let script = "#!/bin/sh\n\
        if [ \"$1\" = -G ]; then echo \"identityfile $HOME/own\"; echo 'identityfile ~/.ssh/none'; exit; fi\n\
        echo \"$@\"\n\
        while [ \"$1\" = -i ]; do stat -c %a \"$2\"; cat \"$2\"; shift 2; done\n\
        exit 255\n";
    let path = directory.join("ssh");
    fs::write(&path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn helper(url: &str, home: &Path) -> Command {
    let mut command = outpost();
    let path = std::env::var("PATH").unwrap();
    command
        .env("CODER_AGENT_URL", url)
        .env("CODER_AGENT_TOKEN", uuid::Uuid::new_v4().to_string())
        .env("PATH", format!("{}:{path}", home.display()))
        .env("HOME", home)
        .env("TMPDIR", home)
        .kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_gets_the_owner_s_key_after_those_that_it_has_and_keeps_nothing() {
    let fake = Fake::start(Manifest::default()).await;
    let home = TempDir::new().unwrap();
    fake_ssh(home.path());
    fs::write(home.path().join("own"), "own\n").unwrap();
    let run = async || {
        let mut command = helper(&fake.url, home.path());
        command.args([
            "gitssh",
            "--",
            "-o",
            "SendEnv=GIT_PROTOCOL",
            "git@host",
            "git-upload-pack 'a'",
        ]);
        ended(command).await
    };

    // A server without a key is no reason to fail: there may be another one.
    let without = run().await;
    let said = "-o SendEnv=GIT_PROTOCOL git@host git-upload-pack 'a'\n";
    assert_eq!(
        (without.status.code(), text(&without.stdout)),
        (Some(255), said.to_owned())
    );

    fake.answer(
        "gitsshkey",
        200,
        json!({ "public_key": "ssh-ed25519 AAAA", "private_key": KEY }),
    );
    let with = run().await;
    let (out, err) = (text(&with.stdout), text(&with.stderr));
    let own = home.path().join("own");
    assert!(
        out.starts_with(&format!(
            "-i {} -i {}",
            own.display(),
            home.path().display()
        )),
        "{out}"
    );
    assert!(out.contains(&format!("own\n600\n{KEY}")), "{out}");
    assert_eq!(with.status.code(), Some(255));
    assert!(
        err.contains("ssh-ed25519 AAAA") && !err.contains("secret"),
        "{err}"
    );
    let mut left: Vec<_> = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["own", "ssh"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_of_git_are_answered_or_left_to_git() {
    let fake = Fake::start(Manifest::default()).await;
    let home = TempDir::new().unwrap();
    let ask = async |question: &str| {
        let mut command = helper(&fake.url, home.path());
        command.arg(question);
        command
    };
    let unknown = ended(ask(QUESTIONS[0]).await).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(text(&unknown.stdout), "");
    assert!(text(&unknown.stderr).contains("no external login for this host"));

    let login = json!({ "username": "oauth2", "password": "hunter2", "url": "" });
    fake.answer("external-auth", 200, login);
    assert_eq!(succeed(ask(QUESTIONS[0]).await).await, "oauth2\n");
    assert_eq!(succeed(ask(QUESTIONS[1]).await).await, "hunter2\n");
    // Some hosts want the token as the name, and no password.
    let login = json!({ "username": "token", "password": "" });
    fake.answer("external-auth", 200, login);
    assert_eq!(succeed(ask(QUESTIONS[1]).await).await, "token\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_server_keeps_neither_keys_nor_logins_and_says_so() {
    let lab = Lab::start().await;
    let home = TempDir::new().unwrap();
    fake_ssh(home.path());

    let mut command = helper(lab.url(), home.path());
    command.args(["gitssh", "--", "git@host"]);
    let without = ended(command).await;
    assert_eq!(
        text(&without.stdout),
        "git@host\n",
        "{}",
        text(&without.stderr)
    );

    let mut command = helper(lab.url(), home.path());
    command.arg(QUESTIONS[0]);
    let unknown = ended(command).await;
    assert_eq!(unknown.status.code(), Some(1));
    let said = text(&unknown.stderr);
    assert!(said.contains("no external login for this host"), "{said}");
}
