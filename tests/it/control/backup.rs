//! Backups of a server that works, and what comes back from them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use outpost::{
    control::{
        Storage,
        backup::{self, BackupError},
        tokens,
    },
    proto::outpost::v1::{self as api},
    provision::JobSource as _,
    stop::Stop,
};

use super::{Lab, build_id, built, config, pull_state, state_of, workspace_request};

/// A server on disk with one workspace, and the state of that.
async fn lab(directory: &std::path::Path) -> (Lab, String) {
    let mut lab = Lab::start(Storage::Directory(directory.to_owned())).await;
    let source = lab.daemon("daemon");
    lab.import(&source).await;
    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let job = source.acquire(&Stop::new()).await.unwrap().unwrap();
    source.complete(built(&job)).await.unwrap();
    (lab, state_of(&build_id(&job)))
}

#[tokio::test]
async fn a_backup_of_a_running_server_brings_everything_back() {
    let temp = tempfile::tempdir().unwrap();
    let (mut lab, state) = lab(&temp.path().join("data")).await;
    let answer = lab
        .api
        .create_backup(api::CreateBackupRequest {})
        .await
        .unwrap();
    let archive = std::path::PathBuf::from(answer.into_inner().path);
    assert_eq!(
        fs::metadata(&archive).unwrap().permissions().mode() & 0o777,
        0o600
    );
    lab.api
        .create_workspace(workspace_request("later"))
        .await
        .unwrap();

    let restored = temp.path().join("restored");
    let manifest = backup::restore(&archive, &restored).await.unwrap();
    assert!(manifest.key_included);
    let mut second = Lab::with(config(Storage::Directory(restored), &tokens::generate())).await;

    assert_eq!(pull_state(&mut second.api, "dev").await, state);
    let workspaces = second
        .api
        .list_workspaces(api::ListWorkspacesRequest::default())
        .await;
    assert_eq!(workspaces.unwrap().into_inner().workspaces.len(), 1);
    let staging: Vec<_> = fs::read_dir(archive.parent().unwrap()).unwrap().collect();
    assert_eq!(staging.len(), 1, "{staging:?}");
}

#[tokio::test]
async fn a_state_on_disk_cannot_be_read_without_the_key() {
    let temp = tempfile::tempdir().unwrap();
    let (lab, state) = lab(temp.path()).await;
    lab.server.shutdown().await;

    for entry in fs::read_dir(temp.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let content = fs::read(&path).unwrap();
            let found = content
                .windows(state.len())
                .any(|window| window == state.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[tokio::test]
async fn a_key_that_is_managed_elsewhere_is_not_in_the_backup() {
    let temp = tempfile::tempdir().unwrap();
    let credential = temp.path().join("outpost-state-key");
    fs::write(&credential, [9; 32]).unwrap();
    let data = temp.path().join("data");
    let mut given = config(Storage::Directory(data.clone()), &tokens::generate());
    given.state_key = outpost::control::StateKey::find(Some(temp.path()));
    let lab = Lab::with(given.clone()).await;

    let archive = temp.path().join("backup.tar");
    let manifest = backup::create(&data, &archive).await.unwrap();
    assert!(!manifest.key_included);
    let restored = temp.path().join("restored");
    backup::restore(&archive, &restored).await.unwrap();
    assert!(!restored.join("key").exists() && !data.join("key").exists());
    drop(lab);

    // Without the key it says which one it needs.
    given.storage = Storage::Directory(restored.clone());
    let mut without = given.clone();
    without.state_key = outpost::control::StateKey::Own;
    let error = outpost::control::start(without, Stop::new())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("is missing"), "{error}");
    fs::write(restored.join("key"), [8; 32]).unwrap();
    let mut other = given.clone();
    other.state_key = outpost::control::StateKey::Own;
    let error = outpost::control::start(other, Stop::new())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains(&manifest.key_id), "{error}");
    Lab::with(given).await;
}

#[tokio::test]
async fn a_restore_overwrites_nothing_and_leaves_nothing_half_done() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let (lab, _) = lab(&data).await;
    let archive = temp.path().join("backup.tar");
    backup::create(&data, &archive).await.unwrap();

    let again = backup::create(&data, &archive).await;
    assert!(matches!(again, Err(BackupError::Exists(_))));
    let into_use = backup::restore(&archive, &data).await;
    assert!(matches!(into_use, Err(BackupError::NotEmpty(_))));
    let nothing = backup::create(&temp.path().join("nowhere"), &temp.path().join("x.tar")).await;
    assert!(matches!(nothing, Err(BackupError::NoData(_))));

    let whole = fs::read(&archive).unwrap();
    let target = temp.path().join("target");
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 8192].fill(0x55);
    for content in [
        whole[..whole.len() / 2].to_vec(),
        damaged,
        b"no archive".to_vec(),
        Vec::new(),
    ] {
        let broken = temp.path().join("broken.tar");
        fs::write(&broken, content).unwrap();
        let error = backup::restore(&broken, &target).await.unwrap_err();
        assert!(
            error.hint().is_some() || matches!(error, BackupError::Access { .. }),
            "{error:?}"
        );
        assert!(!target.exists(), "{error}");
    }
    lab.server.shutdown().await;
}
