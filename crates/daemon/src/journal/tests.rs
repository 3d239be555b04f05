//! Tests on a real disk, because they are about files and locks.

use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::job::WorkspaceBuild;
use uuid::Uuid;

use super::*;

const JOB: JobId = JobId(Uuid::from_u128(7));
const STATE: Bytes = Bytes::from_static(b"{\"serial\":7}");

fn identity(name: &str) -> Identity {
    Identity {
        server: "https://coder.example/".to_owned(),
        name: name.to_owned(),
    }
}

fn entry() -> Entry {
    let build = WorkspaceBuild {
        workspace_name: "dev".to_owned(),
        ..WorkspaceBuild::default()
    };
    Entry::new(JOB, &identity("ada"), &build, Timestamp::UNIX_EPOCH)
}

#[tokio::test]
async fn what_a_dead_daemon_knew_is_found_by_the_next_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let journals = Journals::open(dir.path(), None).unwrap();
    let journal = journals.take(&identity("ada"), &Stop::new()).await.unwrap();
    let record = journal.begin(entry(), None).await.unwrap();

    record.observer().began("a.b");
    record.observer().state(STATE);
    record.live.write().await.unwrap();
    drop((record, journal, journals));

    let journals = Journals::open(dir.path(), None).unwrap();
    let journal = journals.take(&identity("ada"), &Stop::new()).await.unwrap();
    let found = journal.entries();
    assert_eq!((found.len(), &found[0].state), (1, &STATE));
    assert_eq!(found[0].unfinished(), ["a.b"]);
}

#[tokio::test]
async fn a_change_reaches_the_disk_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let journals = Journals::open(dir.path(), None).unwrap();
    let journal = journals.take(&identity("ada"), &Stop::new()).await.unwrap();
    let record = journal.begin(entry(), None).await.unwrap();

    record.observer().state(STATE);

    let arrived = async {
        while journal.entries()[0].state != STATE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), arrived).await.unwrap();
}

#[tokio::test]
async fn an_acknowledged_entry_is_gone_and_a_refused_one_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let journals = Journals::open(dir.path(), None).unwrap();
    let journal = journals.take(&identity("ada"), &Stop::new()).await.unwrap();

    let record = journal.begin(entry(), None).await.unwrap();
    record.observer().state(STATE);
    record.erase().await;
    assert_eq!(journal.entries(), []);

    let record = journal.begin(entry(), None).await.unwrap();
    record.keep(Some("job already completed".to_owned())).await;
    let kept = journal.entries();
    assert_eq!(kept[0].refused.as_deref(), Some("job already completed"));
}

#[tokio::test]
async fn states_are_sealed_and_for_one_user_alone() {
    let dir = tempfile::tempdir().unwrap();
    let journals = Journals::open(dir.path(), None).unwrap();
    let journal = journals.take(&identity("ada"), &Stop::new()).await.unwrap();
    let record = journal.begin(entry(), None).await.unwrap();
    record.observer().state(STATE);
    record.keep(None).await;

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = journal.dir.join(JOB.to_string());
    assert_eq!((mode(&journals.root), mode(&journal.dir)), (0o700, 0o700));
    assert_eq!(
        (mode(&file), mode(&journals.root.join("key"))),
        (0o600, 0o600)
    );
    let bytes = fs::read(&file).unwrap();
    assert!(!bytes.windows(8).any(|window| window == b"\"serial\""));

    fs::write(journals.root.join("key"), [0; 32]).unwrap();
    let other = Journals::open(dir.path(), None).unwrap();
    let read = other.entries().unwrap().pop().unwrap().entry;
    assert!(matches!(read, Err(JournalError::Entry { .. })), "{read:?}");
}

#[tokio::test]
async fn a_sibling_takes_the_journal_of_the_dead_only_and_clears_it_away() {
    let dir = tempfile::tempdir().unwrap();
    let journals = Journals::open(dir.path(), None).unwrap();
    let alive = journals
        .take(&identity("alive"), &Stop::new())
        .await
        .unwrap();
    let dead = journals
        .take(&identity("dead"), &Stop::new())
        .await
        .unwrap();
    dead.write(&entry()).unwrap();
    drop(dead);

    let mut found = journals.abandoned().unwrap();
    assert_eq!(found.len(), 1);
    let dead = found.pop().unwrap();
    assert!(journals.abandoned().unwrap().is_empty(), "it is ours now");
    assert_eq!(dead.entries(), [entry()]);

    dead.erase(JOB).unwrap();
    dead.remove_if_empty();
    let left = journals.directories().unwrap();
    assert_eq!(left.as_slice(), std::slice::from_ref(&alive.dir));
    assert!(journals.take(&identity("dead"), &Stop::new()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_name_is_for_one_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let journals = Journals::open(dir.path(), None).unwrap();
    let _first = journals.take(&identity("ada"), &Stop::new()).await.unwrap();

    let second = journals.take(&identity("ada"), &Stop::new()).await;

    assert!(matches!(second, Err(JournalError::InUse { .. })));
}

#[test]
fn a_journal_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    Journals::open(dir.path(), None).unwrap();
    fs::write(dir.path().join("journal/format"), "2\n").unwrap();

    let error = Journals::open(dir.path(), None).unwrap_err();
    assert!(matches!(error, JournalError::Format { .. }), "{error}");
}
