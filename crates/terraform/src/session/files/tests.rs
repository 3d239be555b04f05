use std::{fs, os::unix::fs::PermissionsExt as _};

use outpost_base::secret::Secret;
use tempfile::TempDir;

use super::*;

const MAIN: &str = "variable \"kept\" {}\nvariable \"passing\" {\n  ephemeral = true\n}\n";

async fn files() -> (TempDir, Files) {
    let work = TempDir::new().unwrap();
    let files = Files::create(work.path(), "Session1").await.unwrap();
    fs::write(files.dir.path().join("main.tf"), MAIN).unwrap();
    (work, files)
}

fn values() -> Vec<VariableValue> {
    let value = |name: &str| VariableValue {
        name: name.to_owned(),
        value: Secret::new(format!("{name} secret")),
        sensitive: true,
    };
    vec![value("kept"), value("passing")]
}

#[tokio::test]
async fn both_directories_are_private_and_go_together() {
    let (work, files) = files().await;

    for name in ["Session1", "Session1.private"] {
        let mode = fs::metadata(work.path().join(name)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o700, "{name}");
    }
    assert!(files.remove().await.is_empty());
    assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn values_lie_where_no_template_sees_them_and_an_apply_gets_the_ephemeral_ones() {
    let (_work, files) = files().await;
    let path = files.private.path().join(VARIABLES);

    let written = files.write_variables(values(), false).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("kept secret") && text.contains("passing secret"),
        "{text}"
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(written);
    assert!(!path.exists(), "the values go with their handle");

    let written = files.write_variables(values(), true).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains("kept") && text.contains("passing secret"),
        "{text}"
    );
    drop(written);
    let only_kept = values().into_iter().take(1).collect();
    assert!(
        files
            .write_variables(only_kept, true)
            .await
            .unwrap()
            .is_none()
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn a_state_is_private_and_its_version_changes_with_it() {
    let (_work, files) = files().await;
    assert_eq!(files.state().await.unwrap(), None);
    assert_eq!(files.state_version().await, None);

    files
        .write_state(Bytes::from_static(br#"{"serial":1}"#))
        .await
        .unwrap();
    let first = files.state_version().await.unwrap();
    files
        .write_state(Bytes::from_static(br#"{"serial":20}"#))
        .await
        .unwrap();

    assert_eq!(files.state().await.unwrap().unwrap(), r#"{"serial":20}"#);
    assert_ne!(files.state_version().await.unwrap(), first);
    let path = files.dir.path().join(state_file::NAME);
    fs::write(&path, "{").unwrap();
    assert!(files.state().await.is_err(), "half a state is none");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0);
}

#[tokio::test]
async fn only_an_apply_that_was_recorded_as_done_ended_well() {
    let (_work, files) = files().await;
    assert!(!files.ended_well().await, "nothing is recorded");

    for (report, is_well) in [
        ("0", true),
        ("1", false),
        ("signal: 9", false),
        ("00", false),
    ] {
        fs::write(files.report(), report).unwrap();
        assert_eq!(files.ended_well().await, is_well, "{report}");
    }
}

#[tokio::test]
async fn a_lock_file_that_is_a_link_or_too_large_counts_as_none() {
    let (work, files) = files().await;
    let lock = files.dir.path().join(lock::FILE_NAME);
    assert_eq!(files.lock().await, None);

    fs::write(&lock, "known").unwrap();
    assert_eq!(files.lock().await.unwrap(), b"known");
    fs::write(
        &lock,
        vec![b'x'; usize::try_from(MAX_LOCK_BYTES).unwrap() + 1],
    )
    .unwrap();
    assert_eq!(files.lock().await, None);

    fs::remove_file(&lock).unwrap();
    fs::write(work.path().join("elsewhere"), "secret").unwrap();
    std::os::unix::fs::symlink(work.path().join("elsewhere"), &lock).unwrap();
    assert_eq!(files.lock().await, None);
}
