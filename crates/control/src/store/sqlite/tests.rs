use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::{
    model::{AuditEntry, EndedBy, FileKind, JobRecord, JobStatus, Organization, OrganizationId},
    store::{
        DaemonStore as _, Effect, End, Ended, JobFilter, JobStore as _, PeopleStore as _,
        StateChange, StoreError, TemplateStore as _, WorkspaceFilter, WorkspaceStore as _,
    },
};

async fn open(directory: &Path) -> Result<Sqlite, OpenError> {
    let backups = directory.join("backups");
    fs::create_dir_all(&backups).unwrap();
    Sqlite::open(&directory.join("outpost.db"), &backups).await
}

fn organization(name: &str) -> Organization {
    Organization {
        id: OrganizationId::random(),
        name: name.to_owned(),
        is_default: false,
        created_at: Timestamp::from_second(1).unwrap(),
    }
}

#[tokio::test]
async fn what_was_stored_is_there_after_it_is_opened_again() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    let stored = organization("acme");
    store.insert_organization(&stored).await.unwrap();
    store.close().await;

    let store = open(temp.path()).await.unwrap();

    assert_eq!(store.organizations().await.unwrap(), [stored]);
    let mode = fs::metadata(temp.path().join("outpost.db"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_taken_name_is_a_conflict_whatever_its_case() {
    let store = Sqlite::in_memory().await.unwrap();
    store
        .insert_organization(&organization("acme"))
        .await
        .unwrap();

    let error = store
        .insert_organization(&organization("ACME"))
        .await
        .unwrap_err();

    assert!(matches!(error, StoreError::Conflict(_)));
    assert_eq!(error.to_string(), "there is already an organization `ACME`");
}

#[tokio::test]
async fn the_audit_log_cannot_be_changed_or_shortened() {
    let store = Sqlite::in_memory().await.unwrap();
    let entry = AuditEntry {
        id: 0,
        at: Timestamp::from_second(1).unwrap(),
        actor: "admin".to_owned(),
        action: "key.create".to_owned(),
        target: "lab".to_owned(),
        detail: String::new(),
    };
    store.audit(&entry).await.unwrap();

    for statement in ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"] {
        let error = sqlx::query(statement)
            .execute(&store.writer)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("the audit log is append-only"),
            "{error}"
        );
    }
    let entries = store.audit_entries(None, 10).await.unwrap();
    assert_eq!(entries, [AuditEntry { id: 1, ..entry }]);
    assert!(store.audit_entries(Some(1), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_newer_format_is_refused_in_one_line_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99")
        .execute(&store.writer)
        .await
        .unwrap();
    store.close().await;

    let error = open(temp.path()).await.unwrap_err();

    let path = temp.path().join("outpost.db");
    let expected = format!(
        "database `{}` has format 99, this version of outpost knows formats up to {FORMAT}",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().unwrap().contains("the version that wrote it"));
    assert!(matches!(
        facts(&path).await,
        Err(OpenError::Newer { found: 99, .. })
    ));
}

#[tokio::test]
async fn an_older_format_is_copied_before_it_is_changed() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    store
        .insert_organization(&organization("acme"))
        .await
        .unwrap();
    store.close().await;
    let (path, backups) = (temp.path().join("outpost.db"), temp.path().join("backups"));

    // The migration of a future version.
    let mut next = vec![""; FORMAT as usize];
    next.push("CREATE TABLE next (id TEXT PRIMARY KEY) STRICT;");
    let writer = pool(1)
        .connect_with(options().filename(&path))
        .await
        .unwrap();
    format::migrate_with(&next, &path, &backups, &writer)
        .await
        .unwrap();
    sqlx::query("SELECT * FROM next")
        .execute(&writer)
        .await
        .unwrap();
    writer.close().await;

    let copies: Vec<_> = fs::read_dir(&backups)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(
        fs::metadata(&copies[0]).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(facts(&copies[0]).await.unwrap().format, FORMAT);
    assert!(matches!(
        open(temp.path()).await,
        Err(OpenError::Newer { found, .. }) if found == FORMAT + 1
    ));
}

/// A workspace whose build the reaper has ended, as the first format stored it.
const OF_THE_FIRST_FORMAT: &str = r#"
INSERT INTO organizations VALUES ('00000000-0000-4000-8000-000000000001', 'default', 1, 1000);
INSERT INTO users VALUES ('00000000-0000-4000-8000-000000000002', 'amy', 'amy@example.com', 'Amy', 0, 5, 1000);
INSERT INTO daemons VALUES ('00000000-0000-4000-8000-000000000003', '00000000-0000-4000-8000-000000000001', NULL, 'd', '',
  '{"scope":"organization","owner":""}', '["terraform"]', 'v1', 1000, 2000);
INSERT INTO files VALUES ('00000000-0000-4000-8000-000000000004', 'template', 'ab', x'00');
INSERT INTO jobs VALUES ('00000000-0000-4000-8000-000000000005', '00000000-0000-4000-8000-000000000001',
  '00000000-0000-4000-8000-000000000002', '{"kind":"template_import","version_id":"00000000-0000-4000-8000-000000000006"}',
  'terraform', '{"scope":"organization","owner":""}', 0, 'small/1', 1000, 1000, 1000, NULL, 2000,
  '00000000-0000-4000-8000-000000000003', 'd', '', NULL, 'daemon', 0, 0, NULL);
INSERT INTO templates VALUES ('00000000-0000-4000-8000-000000000007', '00000000-0000-4000-8000-000000000001', 'small', NULL,
  '00000000-0000-4000-8000-000000000002', 1000, 1000, NULL);
INSERT INTO versions VALUES ('00000000-0000-4000-8000-000000000006', '00000000-0000-4000-8000-000000000007', '1', '',
  '00000000-0000-4000-8000-000000000004', '00000000-0000-4000-8000-000000000005', 1, '{}',
  '00000000-0000-4000-8000-000000000002', 1000, x'00', '{"variables":[],"readme":"hello","workspace_tags":{},
  "parameters":[],"presets":[],"external_auth":[],"modules":[],"start_resources":[],"stop_resources":[],
  "modules_file":null,"has_ai_tasks":false,"has_external_agents":false}', NULL);
INSERT INTO workspaces VALUES ('00000000-0000-4000-8000-000000000008', '00000000-0000-4000-8000-000000000001',
  '00000000-0000-4000-8000-000000000002', '00000000-0000-4000-8000-000000000007', 'dev', 1000, 1000, NULL);
INSERT INTO jobs VALUES ('00000000-0000-4000-8000-000000000009', '00000000-0000-4000-8000-000000000001',
  '00000000-0000-4000-8000-000000000002', '{"kind":"workspace_build","build_id":"00000000-0000-4000-8000-00000000000a"}',
  'terraform', '{"scope":"organization","owner":""}', 0, 'amy/dev', 1000, 1000, 1000, NULL, 2000,
  '00000000-0000-4000-8000-000000000003', 'd', 'lost', NULL, 'reaper', 0, 0, NULL);
INSERT INTO builds VALUES ('00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-000000000008', 1, 'start',
  '00000000-0000-4000-8000-000000000006', '00000000-0000-4000-8000-000000000009', '[]', '', '', 0, NULL, NULL,
  '00000000-0000-4000-8000-000000000002', 1000);
"#;

#[tokio::test]
async fn what_the_first_format_stored_is_read_by_this_version() {
    let temp = tempfile::tempdir().unwrap();
    let (path, backups) = (temp.path().join("outpost.db"), temp.path().join("backups"));
    let writer = pool(1)
        .connect_with(options().filename(&path).create_if_missing(true))
        .await
        .unwrap();
    fs::create_dir(&backups).unwrap();
    let first = &format::MIGRATIONS[..1];
    format::migrate_with(first, &path, &backups, &writer)
        .await
        .unwrap();
    sqlx::raw_sql(OF_THE_FIRST_FORMAT)
        .execute(&writer)
        .await
        .unwrap();
    writer.close().await;

    let store = open(temp.path()).await.unwrap();

    assert_eq!(facts(&path).await.unwrap().format, FORMAT);
    let copies = fs::read_dir(&backups).unwrap();
    let copy = copies.map(|it| it.unwrap().path()).next().unwrap();
    assert_eq!(facts(&copy).await.unwrap().format, 1);
    let (users, daemons) = (store.users().await.unwrap(), store.daemons().await.unwrap());
    assert_eq!((&*users[0].name, &*daemons[0].name), ("amy", "d"));
    let filter = JobFilter {
        limit: 10,
        ..JobFilter::default()
    };
    let jobs = store.jobs(&filter).await.unwrap();
    let statuses: Vec<_> = jobs.iter().map(JobRecord::status).collect();
    assert_eq!(statuses, [JobStatus::Failed, JobStatus::Succeeded]);
    let templates = store.templates().await.unwrap();
    let versions = store.versions(templates[0].id).await.unwrap();
    let output = store.import_output(versions[0].id).await.unwrap();
    assert_eq!(output.readme, "hello");
    let workspaces = store.workspaces(&WorkspaceFilter::default()).await.unwrap();
    let build = store.latest_build(workspaces[0].id).await.unwrap().unwrap();

    let end = End {
        job: jobs[0].id,
        by: EndedBy::Daemon,
        error: String::new(),
        error_code: None,
        lines: Vec::new(),
        effect: Effect::Build {
            build: build.id,
            state: StateChange::Clear,
            made: None,
            agents: Vec::new(),
            deleted: false,
        },
        silent_since: None,
        now: Timestamp::from_second(3).unwrap(),
    };
    assert_eq!(store.end_job(end.clone()).await.unwrap(), Ended::Late);
    let again = store.end_job(end).await.unwrap();
    assert_eq!(again, Ended::Before(EndedBy::Daemon));
}

#[tokio::test]
async fn a_change_of_format_that_fails_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    open(temp.path()).await.unwrap().close().await;
    let (path, backups) = (temp.path().join("outpost.db"), temp.path().join("backups"));

    let mut broken = vec![""; FORMAT as usize];
    broken.push("CREATE TABLE next (id TEXT) STRICT; SELECT nonsense;");
    let writer = pool(1)
        .connect_with(options().filename(&path))
        .await
        .unwrap();
    let failed = format::migrate_with(&broken, &path, &backups, &writer).await;
    writer.close().await;

    assert!(
        matches!(failed, Err(OpenError::Database { .. })),
        "{failed:?}"
    );
    let store = open(temp.path()).await.unwrap();
    assert!(
        sqlx::query("SELECT * FROM next")
            .execute(&store.reader)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_damaged_database_is_named_with_the_remedy() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    for number in 0..20 {
        let name = format!("organization-{number}-{}", "x".repeat(3000));
        store
            .insert_organization(&organization(&name))
            .await
            .unwrap();
    }
    store.close().await;
    let path = temp.path().join("outpost.db");
    let whole = fs::read(&path).unwrap();

    let mut middle = whole.clone();
    let length = middle.len();
    middle[4096 * 3..length - 4096].fill(0x55);
    let mut no_database = whole.clone();
    no_database[..16].copy_from_slice(b"something else!!");
    for damaged in [middle, no_database, whole[..whole.len() / 2].to_vec()] {
        fs::write(&path, damaged).unwrap();
        let error = open(temp.path()).await.unwrap_err();

        assert!(
            matches!(&error, OpenError::Corrupt { path: named, .. } if *named == path),
            "{error:?}"
        );
        assert!(error.to_string().contains(" is damaged: "), "{error}");
        assert!(error.hint().unwrap().contains("outpost server restore"));
    }
}

#[tokio::test]
async fn a_copy_is_whole_while_somebody_writes() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    let writing = async {
        for number in 0..50 {
            store
                .insert_organization(&organization(&number.to_string()))
                .await
                .unwrap();
        }
    };
    let copying = async {
        for number in 0..5 {
            let to = temp.path().join(format!("copy-{number}.db"));
            copy(&temp.path().join("outpost.db"), &to).await.unwrap();
            assert_eq!(facts(&to).await.unwrap().format, FORMAT);
        }
    };

    tokio::join!(writing, copying);

    let taken = temp.path().join("copy-0.db");
    let again = copy(&temp.path().join("outpost.db"), &taken).await;
    assert!(matches!(again, Err(OpenError::Access { path, .. }) if path == taken));
}

#[tokio::test]
async fn a_full_database_refuses_and_then_works_again() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path()).await.unwrap();
    let limit = async |pages: u32| {
        let statement = format!("PRAGMA max_page_count = {pages}");
        sqlx::raw_sql(&statement)
            .execute(&store.writer)
            .await
            .unwrap();
    };
    let large = |byte: u8| store.insert_file(FileKind::Template, vec![byte; 1 << 20].into());
    let entry = async |name: &str| {
        let mut change = store.begin().await?;
        sqlx::query("INSERT INTO meta (key, value) VALUES (?, hex(zeroblob(1 << 20)))")
            .bind(name)
            .execute(&mut *change)
            .await?;
        Ok::<_, StoreError>(change.commit().await?)
    };
    large(1).await.unwrap();

    limit(1).await; // Below its current size, so that it counts as full.
    assert!(matches!(large(2).await, Err(StoreError::DiskFull)));
    for name in ["a", "b"] {
        // A connection that was replaced has forgotten the limit.
        limit(1).await;
        let full = entry(name).await;
        assert!(matches!(full, Err(StoreError::DiskFull)), "{full:?}");
    }
    limit(1 << 30).await;

    large(2).await.unwrap();
    store.begin().await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_leaves_the_memory_store_usable() {
    use futures::FutureExt as _;
    let store = Sqlite::in_memory().await.unwrap();
    let stored = organization("acme");
    store.insert_organization(&stored).await.unwrap();

    for number in 0..20 {
        let other = organization(&number.to_string());
        drop(store.insert_organization(&other).now_or_never());
        drop(store.begin().now_or_never());
    }

    assert!(store.organizations().await.unwrap().contains(&stored));
}
