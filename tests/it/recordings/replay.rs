//! Recordings played again: the server's side to a daemon of ours, and the daemon's side to a server of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use outpost::{
    control::Storage,
    net::websocket::{self, ByteStream},
    proto::provisionerd::{
        AcquiredJob, CommitQuotaRequest, CommitQuotaResponse, CompletedJob, Empty, FailedJob,
        UpdateJobRequest, UpdateJobResponse, completed_job, failed_job,
    },
    transport::{
        drpc::{
            Answer, Limits,
            wire::{Kind, Packet, Reader},
        },
        yamux,
    },
};
use prost::Message;
use regex::Regex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    time::timeout,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{client::IntoClientRequest as _, http::HeaderName},
};

use super::{Call, Recording};
use crate::control::{Lab, version_request};

/// Longer than all jobs of a recording take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The key of the server that was recorded; that server is no more.
const PSK: &str = "provisionersftw";

/// What the recorded server tells of itself.
const BUILD_INFO: &[u8] =
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\
    Content-Length: 56\r\n\r\n{\"version\":\"v2.31.0\",\"provisioner_api_version\":\"1.15\"}  ";

/// How a job ended, as a daemon told it.
#[derive(Debug)]
enum End {
    Completed(CompletedJob),
    Failed(FailedJob),
}

/// What a daemon says of one job in the course of it.
#[derive(Debug, Default)]
struct Story {
    /// Stages of its log, in the order of their first lines.
    stages: Vec<String>,
    /// What else is in the log, in order of the text: resources come as they are ready.
    lines: BTreeSet<String>,
    /// What it asked the server to set aside.
    quota: Option<i32>,
    has_readme: bool,
    end: Option<End>,
}

impl Story {
    fn update(&mut self, update: &UpdateJobRequest) {
        self.has_readme |= !update.readme.is_empty();
        for line in &update.logs {
            if line.output.starts_with("terraform environment variable: ") {
                continue; // Of the machine that was recorded.
            }
            if line.output.contains(" elapsed]") {
                continue; // Of how fast it was.
            }
            if !self.stages.contains(&line.stage) {
                self.stages.push(line.stage.clone());
            }
            if line.stage != "Initializing Terraform Directory" {
                let text = lasting(&line.output);
                let (source, level) = (line.source, line.level);
                self.lines
                    .insert(format!("{source} {level} {}: {text}", line.stage));
            }
        }
    }

    fn is_completed(&self) -> bool {
        matches!(self.end, Some(End::Completed(_)))
    }
}

/// A line of a log without what changes from run to run: identifiers, and how many seconds something took.
fn lasting(output: &str) -> String {
    let seconds = Regex::new(r"\b\d+s\b").unwrap();
    seconds
        .replace_all(&without_ids(output), "<n>s")
        .into_owned()
}

/// What was recorded of the jobs that nobody cancelled, for then the moment decides what happens.
#[derive(Default)]
struct Script {
    jobs: Vec<AcquiredJob>,
    stories: BTreeMap<String, Story>,
    values: BTreeMap<String, UpdateJobResponse>,
    quotas: BTreeMap<String, CommitQuotaResponse>,
}

fn messages<M: Message + Default>(packets: &[Packet]) -> Vec<M> {
    let messages = packets.iter().filter(|packet| packet.kind == Kind::Message);
    messages
        .map(|packet| M::decode(packet.data.clone()).unwrap())
        .collect()
}

impl Script {
    fn read(calls: &[Call]) -> Self {
        let mut script = Self::default();
        let mut cancelled = BTreeSet::new();
        for call in calls {
            match call.method() {
                "AcquireJobWithCancel" => {
                    let jobs = messages::<AcquiredJob>(&call.answered);
                    script
                        .jobs
                        .extend(jobs.into_iter().filter(|job| !job.job_id.is_empty()));
                }
                "UpdateJob" => {
                    let asked = messages::<UpdateJobRequest>(&call.asked).remove(0);
                    let answer = messages::<UpdateJobResponse>(&call.answered).pop();
                    let answer = answer.unwrap_or_default();
                    let job = asked.job_id.clone();
                    if answer.canceled {
                        cancelled.insert(job.clone());
                    }
                    script
                        .stories
                        .entry(job.clone())
                        .or_default()
                        .update(&asked);
                    if !answer.variable_values.is_empty() {
                        script.values.insert(job, answer);
                    }
                }
                "CommitQuota" => {
                    let asked = messages::<CommitQuotaRequest>(&call.asked).remove(0);
                    let answer = messages::<CommitQuotaResponse>(&call.answered).remove(0);
                    script
                        .stories
                        .entry(asked.job_id.clone())
                        .or_default()
                        .quota = Some(asked.daily_cost);
                    script.quotas.insert(asked.job_id, answer);
                }
                "CompleteJob" => {
                    let ended = messages::<CompletedJob>(&call.asked).remove(0);
                    let story = script.stories.entry(ended.job_id.clone()).or_default();
                    story.end = Some(End::Completed(ended));
                }
                "FailJob" => {
                    let ended = messages::<FailedJob>(&call.asked).remove(0);
                    let story = script.stories.entry(ended.job_id.clone()).or_default();
                    story.end = Some(End::Failed(ended));
                }
                other => panic!("unexpected method {other}"),
            }
        }
        script.jobs.retain(|job| !cancelled.contains(&job.job_id));
        script
    }
}

/// The server of a recording, and what a daemon of ours tells it.
struct Stage {
    script: Script,
    next: Mutex<usize>,
    told: Mutex<BTreeMap<String, Story>>,
    ended: watch::Sender<usize>,
}

impl Stage {
    /// Serves daemons one connection after the other.
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 16];
            while stream.peek(&mut head).await.unwrap() < head.len() {}
            if head == *b"GET /api/v2/buil" {
                stream.write_all(BUILD_INFO).await.unwrap();
                continue;
            }
            let config = Some(websocket::config());
            let socket = tokio_tungstenite::accept_async_with_config(stream, config).await;
            let socket = socket.unwrap();
            let config = yamux::Config::default();
            let io = ByteStream::new(socket);
            let (_session, mut incoming) =
                yamux::Connection::start(io, yamux::Role::Server, config);
            while let Some(stream) = incoming.accept().await {
                let stage = Arc::clone(&self);
                tokio::spawn(async move { stage.answer(stream).await });
            }
        }
    }

    async fn answer(&self, stream: yamux::Stream) {
        let Ok(Some(mut answer)) = Answer::accept(stream, Limits::CODER).await else {
            return;
        };
        let method = answer.method().rsplit('/').next().unwrap().to_owned();
        match method.as_str() {
            "AcquireJobWithCancel" => {
                let next = {
                    let mut next = self.next.lock().unwrap();
                    *next += 1;
                    *next - 1
                };
                match self.script.jobs.get(next) {
                    Some(job) => answer.reply(job).await.unwrap(),
                    // Nothing more to do: the daemon waits until it is stopped.
                    None => std::future::pending().await,
                }
            }
            "UpdateJob" => {
                let asked: UpdateJobRequest = answer.receive().await.unwrap().unwrap();
                self.story(&asked.job_id, |story| story.update(&asked));
                let asks =
                    !asked.template_variables.is_empty() || !asked.user_variable_values.is_empty();
                let values = self.script.values.get(&asked.job_id).filter(|_| asks);
                let values = values.cloned().unwrap_or_default();
                answer.reply(&values).await.unwrap();
            }
            "CommitQuota" => {
                let asked: CommitQuotaRequest = answer.receive().await.unwrap().unwrap();
                self.story(&asked.job_id, |story| story.quota = Some(asked.daily_cost));
                let quota = self.script.quotas.get(&asked.job_id).copied();
                answer.reply(&quota.unwrap()).await.unwrap();
            }
            "CompleteJob" => {
                let asked: CompletedJob = answer.receive().await.unwrap().unwrap();
                let job = asked.job_id.clone();
                self.story(&job, |story| story.end = Some(End::Completed(asked)));
                answer.reply(&Empty {}).await.unwrap();
                self.ended.send_modify(|count| *count += 1);
            }
            "FailJob" => {
                let asked: FailedJob = answer.receive().await.unwrap().unwrap();
                let job = asked.job_id.clone();
                self.story(&job, |story| story.end = Some(End::Failed(asked)));
                answer.reply(&Empty {}).await.unwrap();
                self.ended.send_modify(|count| *count += 1);
            }
            other => answer
                .fail(&format!("{other} was never recorded"))
                .await
                .unwrap(),
        }
    }

    fn story(&self, job: &str, tell: impl FnOnce(&mut Story)) {
        tell(self.told.lock().unwrap().entry(job.to_owned()).or_default());
    }
}

fn daemon(url: &str, dir: &Path) -> Child {
    let psk = dir.join("psk");
    std::fs::write(&psk, PSK).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    command
        .args(["provisioner", "start", "--url", url, "--name", "recorded"])
        .args([
            "--isolation",
            "none",
            "--coder-provider",
            "builtin",
            "--psk-file",
        ])
        .arg(psk)
        .arg("--cache-dir")
        .arg(dir.join("cache"))
        .arg("--state-dir")
        .arg(dir.join("state"))
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).unwrap());
    command.spawn().unwrap()
}

/// What must be equal of two ends: all that does not change from run to run.
fn told(end: &End) -> String {
    let completed = match end {
        End::Completed(completed) => completed,
        End::Failed(failed) => {
            let keeps_state = match &failed.r#type {
                Some(failed_job::Type::WorkspaceBuild(build)) => !build.state.is_empty(),
                _ => false,
            };
            return format!("{}, state: {keeps_state}", failed.error_code);
        }
    };
    let mut resources: Vec<_> = match completed.r#type.as_ref().unwrap() {
        completed_job::Type::WorkspaceBuild(build) => vec![("state", build.resources.clone())],
        completed_job::Type::TemplateImport(import) => vec![
            ("start", import.start_resources.clone()),
            ("stop", import.stop_resources.clone()),
        ],
        completed_job::Type::TemplateDryRun(run) => vec![("dry run", run.resources.clone())],
    };
    for (_, resources) in &mut resources {
        resources.sort_by(|a, b| (&a.r#type, &a.name).cmp(&(&b.r#type, &b.name)));
        for resource in resources {
            for agent in &mut resource.agents {
                agent.id.clear();
                agent.auth = None;
            }
        }
    }
    let import = match completed.r#type.as_ref().unwrap() {
        completed_job::Type::TemplateImport(import) => {
            format!("{:#?} {:#?}", import.rich_parameters, import.presets)
        }
        _ => String::new(),
    };
    without_ids(&format!("{resources:#?} {import}"))
}

/// Identifiers are drawn anew by each apply.
fn without_ids(text: &str) -> String {
    let is_id = |word: &str| uuid::Uuid::parse_str(word).is_ok();
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut kept = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if is_part(c) {
            word.push(c);
            continue;
        }
        kept.push_str(if is_id(&word) { "<id>" } else { &word });
        word.clear();
        kept.push(c);
    }
    kept
}

async fn play_server(name: &str) {
    let Some(recording) = Recording::open(name) else {
        return;
    };
    let stage = Arc::new(Stage {
        script: Script::read(&recording.calls()),
        next: Mutex::new(0),
        told: Mutex::default(),
        ended: watch::Sender::new(0),
    });
    let jobs = stage.script.jobs.len();
    assert!(jobs > 3, "{name} has only {jobs} jobs");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(Arc::clone(&stage).serve(listener));
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = daemon(&url, dir.path());

    let mut ended = stage.ended.subscribe();
    let all = timeout(PATIENCE, ended.wait_for(|count| *count == jobs)).await;

    daemon.kill().unwrap();
    daemon.wait().unwrap();
    server.abort();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(
        all.is_ok(),
        "only {} of {jobs} ended:\n{log}",
        *stage.ended.borrow()
    );
    let ours = stage.told.lock().unwrap();
    for job in &stage.script.jobs {
        let (theirs, ours) = (&stage.script.stories[&job.job_id], &ours[&job.job_id]);
        let what = format!(
            "{name}, {} of {:?}",
            job.job_id,
            job.r#type.as_ref().map(kind)
        );
        assert_eq!(
            ours.is_completed(),
            theirs.is_completed(),
            "{what}: {:?}",
            ours.end
        );
        assert_eq!(ours.stages, theirs.stages, "{what}");
        let further: Vec<_> = ours.lines.symmetric_difference(&theirs.lines).collect();
        assert!(further.is_empty(), "{what}: in one log only {further:#?}");
        assert_eq!(ours.quota, theirs.quota, "{what}");
        assert_eq!(ours.has_readme, theirs.has_readme, "{what}");
        let (ours, theirs) = (ours.end.as_ref().unwrap(), theirs.end.as_ref().unwrap());
        if let (End::Failed(ours), End::Failed(theirs)) = (ours, theirs) {
            // Ours goes on with the first diagnostic.
            assert!(
                ours.error.starts_with(&theirs.error),
                "{what}: {}",
                ours.error
            );
        }
        let (ours, theirs) = (told(ours), told(theirs));
        let pairs = ours.lines().zip(theirs.lines());
        let other: Vec<_> = pairs
            .filter(|(ours, theirs)| ours != theirs)
            .take(10)
            .collect();
        assert!(
            ours == theirs,
            "{what}: (ours, theirs) differ, first in {other:#?}"
        );
    }
}

fn kind(work: &outpost::proto::provisionerd::acquired_job::Type) -> &'static str {
    use outpost::proto::provisionerd::acquired_job::Type;
    match work {
        Type::WorkspaceBuild(_) => "a build",
        Type::TemplateImport(_) => "an import",
        Type::TemplateDryRun(_) => "a dry run",
    }
}

#[tokio::test]
async fn jobs_of_a_recorded_server_end_as_they_did_then() {
    play_server("provisionerd.jsonl").await;
}

#[tokio::test]
async fn jobs_that_failed_then_fail_now() {
    play_server("provisionerd-failures.jsonl").await;
}

/// Says what a recorded daemon said on one stream, and returns the first packet that it is answered.
async fn say(session: &yamux::Connection, said: &[u8]) -> Packet {
    let mut stream = session.open().unwrap();
    stream.write_all(said).await.unwrap();
    let mut reader = Reader::new(64 << 20);
    loop {
        if let Some(packet) = reader.next_packet().unwrap() {
            return packet;
        }
        let mut bytes = vec![0; 64 << 10];
        let count = stream.read(&mut bytes).await.unwrap();
        assert_ne!(count, 0, "the stream ended without an answer");
        reader.push(&bytes[..count]);
    }
}

#[tokio::test]
async fn a_recorded_daemon_gets_a_job_and_may_not_touch_any_other() {
    let Some(recording) = Recording::open("provisionerd.jsonl") else {
        return;
    };
    let mut lab = Lab::start(Storage::Memory).await;
    let mut request = version_request("demo");
    request.tags.insert("wire".to_owned(), "1".to_owned());
    lab.api.create_version(request).await.unwrap();
    let mut head = recording.head.split("\r\n");
    let path = head.next().unwrap().split(' ').nth(1).unwrap();
    let url = format!("ws://{}{path}", lab.server.address());
    let mut dial = url.into_client_request().unwrap();
    for (name, value) in head.filter_map(|line| line.split_once(": ")) {
        let value = match name {
            "Coder-Provisioner-Daemon-Psk" => lab.psk.expose(),
            "User-Agent" => value,
            _ => continue,
        };
        let name: HeaderName = name.parse().unwrap();
        dial.headers_mut().insert(name, value.parse().unwrap());
    }
    let (socket, _) = connect_async(dial).await.unwrap();
    let io = ByteStream::new(socket);
    let (session, _incoming) =
        yamux::Connection::start(io, yamux::Role::Client, yamux::Config::default());
    let said = yamux::stream_payloads(&recording.client).unwrap();
    let mut calls = recording.calls().into_iter().zip(said.into_values());

    let (first, said) = calls.next().unwrap();
    assert_eq!(first.method(), "AcquireJobWithCancel");
    let answer = timeout(PATIENCE, say(&session, &said)).await.unwrap();

    let job = AcquiredJob::decode(answer.data).unwrap();
    assert_eq!(job.template_source_archive, &b"archive"[..]);
    let others = calls.take_while(|(call, _)| call.method() != "AcquireJobWithCancel");
    let mut refused = 0;
    for (call, said) in others {
        let answer = timeout(PATIENCE, say(&session, &said)).await.unwrap();
        assert_eq!(answer.kind, Kind::Error, "{}", call.method());
        refused += 1;
    }
    assert!(refused > 3, "only {refused} calls were recorded");
    assert!(!session.is_closed());
}
