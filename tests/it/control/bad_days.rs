//! Damaged files, newer formats, read-only and full disks: each is named, with its place and a remedy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use outpost::{
    control::{self, Storage, tokens},
    proto::outpost::v1::{self as api},
    provision::{JobSource as _, SourceError},
    secret::Secret,
    stop::Stop,
    transport::auth::Credential,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};
use tonic::Code;

use super::{
    Lab, PATIENCE, build_id, built, config, connect, daemon, import, listener, namespace,
    pull_state, state_of, version_request, workspace_request,
};
use crate::support::wait::until;

/// What `outpost server` says, and whether it succeeds, when it cannot start.
async fn refused(directory: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory)
        .env_remove("CREDENTIALS_DIRECTORY")
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output).await.unwrap().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

async fn make(directory: &Path) {
    let storage = Storage::Directory(directory.to_owned());
    Lab::start(storage).await.server.shutdown().await;
}

#[tokio::test]
async fn a_database_that_is_gone_beside_its_key_is_not_replaced_by_an_empty_one() {
    let temp = tempfile::tempdir().unwrap();
    make(temp.path()).await;
    let database = temp.path().join("outpost.db");
    fs::write(temp.path().join("backups/outpost-1.tar"), "backup").unwrap();

    for (what, content) in [("is missing", None), ("is empty", Some(""))] {
        fs::remove_file(&database).ok();
        if let Some(content) = content {
            fs::write(&database, content).unwrap();
        }
        let said = refused(temp.path()).await;
        for part in [
            what,
            "outpost.db",
            "outpost-1.tar",
            "outpost server restore",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(fs::metadata(&database).map_or(0, |file| file.len()) == 0);
    }
}

#[tokio::test]
async fn a_damaged_database_is_named_with_the_remedy() {
    let temp = tempfile::tempdir().unwrap();
    make(temp.path()).await;
    let path = temp.path().join("outpost.db");
    fs::write(&path, b"this is no database, whatever its name says").unwrap();

    let said = refused(temp.path()).await;

    assert!(
        said.contains(&format!("database `{}` is damaged", path.display())),
        "{said}"
    );
    assert!(said.contains("outpost server restore"), "{said}");
}

#[tokio::test]
async fn a_newer_format_is_refused_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    make(temp.path()).await;
    // The format is the number at offset 60 of a database's header.
    let path = temp.path().join("outpost.db");
    let mut content = fs::read(&path).unwrap();
    content[60..64].copy_from_slice(&77_u32.to_be_bytes());
    fs::write(&path, &content).unwrap();

    let said = refused(temp.path()).await;

    let line = format!(
        "database `{}` has format 77, this version of outpost knows formats up to",
        path.display()
    );
    assert_eq!(
        said.lines().filter(|said| said.contains(&line)).count(),
        1,
        "{said}"
    );
    assert_eq!(fs::read(&path).unwrap(), content, "it is left alone");
}

#[tokio::test]
async fn a_directory_in_use_and_a_lost_key_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let lab = Lab::start(Storage::Directory(temp.path().to_owned())).await;
    let said = refused(temp.path()).await;
    assert!(said.contains("is in use by another server"), "{said}");
    lab.server.shutdown().await;

    fs::remove_file(temp.path().join("key")).unwrap();
    let said = refused(temp.path()).await;
    let key = temp.path().join("key");
    assert!(
        said.contains(&format!("state key `{}` is missing", key.display())),
        "{said}"
    );
    assert!(said.contains("backup"), "{said}");
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let lab = Lab::start(Storage::Memory).await;
    let mut same = config(Storage::Memory, &tokens::generate());
    same.listen = lab.server.address();

    let error = control::start(same, Stop::new()).await.err().unwrap();

    assert_eq!(
        error.to_string(),
        format!("cannot listen on {}", lab.server.address())
    );
    assert!(error.hint().unwrap().contains("another"));
}

#[tokio::test]
async fn a_read_only_data_directory_is_named_with_the_remedy() {
    let temp = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=1m tmpfs "$DIRECTORY" && mkdir "$DIRECTORY/data" &&
        mount -o remount,ro "$DIRECTORY" &&
        exec "$OUTPOST" server --listen 127.0.0.1:0 --data-dir "$DIRECTORY/data""#;
    let Some(mut command) = namespace(script, temp.path()) else {
        return;
    };

    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();

    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    let data = temp.path().join("data");
    assert!(said.contains(&data.display().to_string()), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(said.contains("choose another data directory"), "{said}");
}

/// A server on a small disk with a filler that can be removed.
const SMALL_DISK: &str = r#"mount -t tmpfs -o size=8m tmpfs "$DIRECTORY" &&
    head -c 4000000 /dev/zero > "$DIRECTORY/filler" || exit 1
    "$OUTPOST" server --listen 127.0.0.1:0 --data-dir "$DIRECTORY/data" --psk-file "$PSK_FILE" &
    server=$!
    trap 'rm "$DIRECTORY/filler"' USR1
    while kill -0 $server 2> /dev/null; do wait $server; done"#;

#[tokio::test]
async fn a_full_disk_loses_nothing_and_work_goes_on_once_there_is_space() {
    let temp = tempfile::tempdir().unwrap();
    let disk = temp.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let psk = tokens::generate();
    let psk_file = temp.path().join("psk");
    fs::write(&psk_file, psk.expose()).unwrap();
    let Some(mut command) = namespace(SMALL_DISK, &disk) else {
        return;
    };
    let mut shell = command
        .env("PSK_FILE", &psk_file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(shell.stderr.take().unwrap()).lines();
    let listening = async {
        loop {
            let line = said.next_line().await.unwrap().expect("the server listens");
            if let Some((_, rest)) = line.split_once("Listening at ") {
                return rest.split_once(". ").unwrap().0.to_owned();
            }
        }
    };
    let url: url::Url = timeout(PATIENCE, listening).await.unwrap().parse().unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    let shell_id = nix::unistd::Pid::from_raw(i32::try_from(shell.id().unwrap()).unwrap());
    let _group = Group(shell_id);
    let token = fs::read_to_string(inside(shell_id, &disk.join("data/admin.token"))).unwrap();
    let token = Secret::new(token.trim());
    let mut api = connect(&url, &token);
    let source = daemon(&url, "daemon", Credential::Psk(psk));
    import(&mut api, &source).await;
    api.create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let job = source.acquire(&Stop::new()).await.unwrap().unwrap();
    let mut large = 600_000_u32;
    let status = loop {
        let mut archive = vec![0; large as usize];
        archive[..4].copy_from_slice(&large.to_be_bytes());
        let request = api::CreateVersionRequest {
            archive: archive.into(),
            ..version_request("large")
        };
        match api.create_version(request).await {
            Ok(_) => large += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.message(), "disk with the database is full");
    // What is left is filled up, too, so that not even a short row fits.
    let mut size = 100_000_u32;
    while size > 16 {
        let request = api::CreateVersionRequest {
            archive: vec![1; size as usize].into(),
            ..version_request("large")
        };
        if api.create_version(request).await.is_err() {
            size /= 2;
        } else {
            size += 1;
        }
    }

    let mut full = built(&job);
    if let outpost::job::CompletedWork::WorkspaceBuild(result) = &mut full.result {
        let padding = " ".repeat(1_000_000);
        result.state = (state_of(&build_id(&job)) + &padding).into();
    }
    let lost = source.complete(full.clone()).await;
    assert!(matches!(lost, Err(SourceError::Lost(_))), "{lost:?}");
    let address = url.socket_addrs(|| None).unwrap()[0];
    let readiness = listener::get(address, "/readyz").await;
    assert!(readiness.starts_with("HTTP/1.1 503"), "{readiness}");
    let health = listener::get(address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let workspaces = api
        .list_workspaces(api::ListWorkspacesRequest::default())
        .await
        .unwrap();
    let build = workspaces
        .into_inner()
        .workspaces
        .remove(0)
        .latest_build
        .unwrap();
    assert_eq!(
        build.job.unwrap().status,
        "running",
        "reads go on, and nothing is half done"
    );

    nix::sys::signal::kill(shell_id, nix::sys::signal::Signal::SIGUSR1).unwrap();
    let filler = inside(shell_id, &disk.join("filler"));
    until("the disk has room again", async || !filler.exists()).await;
    let stored = timeout(PATIENCE, super::insist(|| source.complete(full.clone()))).await;
    stored.unwrap().unwrap();
    let is_ready = async || {
        let answer = listener::get(address, "/readyz").await;
        answer.starts_with("HTTP/1.1 200")
    };
    until("the server is ready", is_ready).await;
    assert_eq!(
        pull_state(&mut api, "dev").await.trim_end(),
        state_of(&build_id(&job))
    );
}

/// A file as a process in another mount namespace sees it.
fn inside(process: nix::unistd::Pid, path: &Path) -> PathBuf {
    format!("/proc/{process}/root{}", path.display()).into()
}

/// Kills a process group when the test ends, however it does.
struct Group(nix::unistd::Pid);

impl Drop for Group {
    fn drop(&mut self) {
        nix::sys::signal::killpg(self.0, nix::sys::signal::Signal::SIGKILL).ok();
    }
}
