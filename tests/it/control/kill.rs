//! Two daemons, many jobs, and a server that is killed again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use outpost::{
    client::Api,
    job::{JobId, LogLevel, LogLine, LogSource},
    proto::outpost::v1::{self as api},
    provision::{JobSource, JobUpdate, SourceError},
    secret::Secret,
    stop::Stop,
    transport::auth::Credential,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

use super::{
    PATIENCE, build_id, built, connect, daemon, import, insist, pull_state, state_of,
    workspace_request,
};

const JOBS: usize = 200;
/// After how many finished jobs the server is killed.
const KILLS: [usize; 3] = [30, 90, 150];

/// A server in a process of its own, always on the same port.
pub struct Server {
    pub address: SocketAddr,
    pub child: Child,
    /// Variables beside those of the tests.
    pub settings: Vec<(&'static str, &'static str)>,
}

pub async fn spawn(directory: &Path, address: SocketAddr) -> Server {
    spawn_with(directory, address, &[]).await
}

pub async fn spawn_with(
    directory: &Path,
    address: SocketAddr,
    settings: &[(&'static str, &'static str)],
) -> Server {
    let mut child = Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args(["server", "--job-lease", "4s", "--listen"])
        .arg(address.to_string())
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--psk-file")
        .arg(directory.join("psk"))
        .env_remove("CREDENTIALS_DIRECTORY")
        .envs(settings.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let listening = async {
        while let Some(line) = said.next_line().await.unwrap() {
            if line.contains("Listening at") {
                return;
            }
            println!("server: {line}");
        }
        panic!("the server ended before it listened");
    };
    timeout(PATIENCE, listening).await.unwrap();
    // Drained, so that it never waits for a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    Server {
        address,
        child,
        settings: settings.to_vec(),
    }
}

/// An address that nobody has now, below those that the system gives to whoever wants any: a server that is away for a while
/// gets it back.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let address =
            SocketAddr::from(([127, 0, 0, 1], 20_000 + first.wrapping_add(next) % 10_000));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What the daemons did: by job, the daemon that got it and whether the server took its result.
#[derive(Default)]
struct Record {
    received: BTreeMap<JobId, (String, &'static str)>,
    accepted: BTreeSet<JobId>,
    gone: BTreeSet<JobId>,
}

async fn work(
    source: impl JobSource,
    name: &'static str,
    record: Arc<Mutex<Record>>,
    finished: watch::Sender<usize>,
    stop: Stop,
) {
    loop {
        let job = match source.acquire(&stop).await {
            Ok(Some(job)) => job,
            Ok(None) if stop.is_draining() => return,
            Ok(None) | Err(SourceError::Lost(_) | SourceError::Unauthorized(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        let before = record
            .lock()
            .unwrap()
            .received
            .insert(job.id, (build_id(&job), name));
        assert_eq!(before, None, "the job {} was handed out twice", job.id);
        let update = JobUpdate {
            logs: vec![LogLine {
                source: LogSource::Provisioner,
                level: LogLevel::Info,
                created_at: job.created_at,
                stage: "Starting workspace".to_owned(),
                output: "working".to_owned(),
            }],
            ..JobUpdate::heartbeat(job.id)
        };
        let updated = insist(|| source.update(update.clone())).await;
        assert!(
            matches!(updated, Ok(_) | Err(SourceError::Gone(_))),
            "{updated:?}"
        );
        // The second time is what a daemon does that did not hear the first answer.
        for _ in 0..2 {
            insist(|| source.complete(built(&job))).await.unwrap();
        }
        let mut record = record.lock().unwrap();
        record.accepted.insert(job.id);
        if updated.is_err() {
            record.gone.insert(job.id);
        }
        finished.send_modify(|finished| *finished += 1);
    }
}

async fn all_jobs(api: &mut Api) -> Vec<api::Job> {
    let request = api::ListJobsRequest {
        limit: 10_000,
        ..Default::default()
    };
    api.list_jobs(request).await.unwrap().into_inner().jobs
}

async fn ended(api: &mut Api) -> Vec<api::Job> {
    loop {
        let jobs = all_jobs(api).await;
        let open = jobs.iter().filter(|job| job.completed_at == 0).count();
        if open == 0 {
            return jobs;
        }
        // Those left belong to a daemon that never got them; the reaper ends them after the lease.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn every_job_ends_once_and_no_state_is_lost_though_the_server_is_killed() {
    let temp = tempfile::tempdir().unwrap();
    let psk = outpost::control::tokens::generate();
    std::fs::write(temp.path().join("psk"), psk.expose()).unwrap();
    let mut server = spawn(temp.path(), free_address()).await;
    let url = format!("http://{}", server.address).parse().unwrap();
    let token = std::fs::read_to_string(temp.path().join("data/admin.token")).unwrap();
    let token = Secret::new(token.trim());
    let mut api = connect(&url, &token);
    let source = |name| daemon(&url, name, Credential::Psk(psk.clone()));
    import(&mut api, &source("first")).await;
    for number in 0..JOBS {
        let request = workspace_request(&format!("w{number}"));
        api.create_workspace(request).await.unwrap();
    }

    let record = Arc::new(Mutex::new(Record::default()));
    let (finished, mut progress) = watch::channel(0);
    let stop = Stop::new();
    let mut daemons = tokio::task::JoinSet::new();
    for name in ["first", "second"] {
        daemons.spawn(work(
            source(name),
            name,
            record.clone(),
            finished.clone(),
            stop.clone(),
        ));
    }
    for threshold in KILLS {
        let enough = progress.wait_for(|finished| *finished >= threshold);
        timeout(PATIENCE, enough).await.unwrap().unwrap();
        server.child.kill().await.unwrap(); // SIGKILL
        server = spawn(temp.path(), server.address).await;
    }
    let mut api = connect(&url, &token);
    let jobs = timeout(PATIENCE, ended(&mut api)).await.unwrap();
    stop.drain();
    timeout(PATIENCE, async {
        while let Some(done) = daemons.join_next().await {
            done.unwrap();
        }
    })
    .await
    .unwrap();

    assert_eq!(jobs.len(), JOBS + 1);
    let record = std::mem::take(&mut *record.lock().unwrap());
    let mut lost = 0;
    for job in jobs.iter().filter(|job| job.kind == "workspace_build") {
        let id: JobId = job.id.parse().unwrap();
        match record.received.get(&id) {
            Some((build, _)) => {
                assert!(record.accepted.contains(&id));
                let expected = if record.gone.contains(&id) {
                    "failed"
                } else {
                    "succeeded"
                };
                assert_eq!(job.status, expected, "{job:?}");
                assert_eq!(pull_state(&mut api, &job.subject).await, state_of(build));
            }
            None => {
                // It was on its way to a daemon when the server was killed, or the connection broke.
                assert_eq!(job.status, "failed", "{job:?}");
                lost += 1;
            }
        }
    }
    // Each kill can cost at most the one job that was on its way to either daemon.
    assert!(lost <= 2 * KILLS.len(), "{lost} jobs lost");
    let workers: BTreeSet<_> = record
        .received
        .values()
        .map(|(_, daemon)| *daemon)
        .collect();
    assert_eq!(workers.len(), 2, "both daemons worked");
    server.child.kill().await.unwrap();
}
