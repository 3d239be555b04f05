//! The kill matrix: what becomes of state and resources when something dies or is cut off, at three moments of a
//! build. Daemons are processes of their own with a real engine; a resource is a file, and an orphan is a file whose
//! resource the server's state does not know.

mod kept;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, getpgid},
};
use outpost::{
    control::{
        self, Limits, Registration, Running, Storage,
        model::Workspace,
        plane::{Caller, VersionRequest, WorkspaceRequest},
    },
    daemon::journal::{self, Journals},
    job::{CompletedJob, CompletedWork, ImportResult, JobId},
    provision::JobSource as _,
    rules::state::Outline,
    secret::Secret,
    stop::Stop,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    engine::tar,
    support::{
        fault_proxy::{Fault as Cut, FaultProxy},
        skip::skipped,
    },
};

const PSK: &str = "a pre-shared key for tests";

/// Longer than any cell takes, so that one that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(180);
/// Cells at a time: each is mostly an engine that waits.
const AT_A_TIME: usize = 8;
/// After which a daemon gives its server up; four minutes in production.
const OUTAGE_LIMIT: Duration = Duration::from_secs(4);
const OUTAGE_LIMIT_TEXT: &str = "4s";

/// Three resources, one after the other. The second waits in its creation.
const TEMPLATE: &str = r#"
resource "terraform_data" "first" {
  provisioner "local-exec" { command = "touch $CELL/made.first" }
}
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "touch $CELL/reached.during; until [ -e $CELL/open.during ]; do sleep 0.05; done; touch $CELL/made.second"
  }
}
"#;

/// More text in a resource's metadata than servers take, which nobody can know before the apply.
const REFUSED: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
resource "coder_metadata" "large" {
  resource_id = terraform_data.second.id
  item {
    key   = "large"
    value = join("", [for number in range(1000) : "${terraform_data.second.id}${terraform_data.second.id}"])
  }
}
"#;

/// An engine that waits before and after its apply until a file is there. A deaf one never hears an interrupt.
const ENGINE: &str = r#"#!/bin/sh
pause() { touch "$CELL/reached.$1"; until [ -e "$CELL/open.$1" ]; do sleep 0.05; done; }
if [ -n "$DEAF" ]; then trap '' INT; fi
case "$*" in
  apply*) pause before ;;
  "show -json -no-color") pause after ;;
esac
if [ -n "$DEAF" ]; then terraform "$@"; else exec terraform "$@"; fi
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillDaemon,
    KillEngine,
    KillGroup,
    Cut(Cut, Length),
    CancelTimeout,
    Refused,
    DiskFull,
    /// Signals that people and supervisors send twice, and one that asks for haste.
    Signals(Signals),
    PodReplaced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signals {
    TwoTerms,
    TwoInts,
    Quit,
    /// At an engine that hears no interrupt: it goes on without its daemon.
    QuitDeaf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Short,
    Medium,
    OverTheLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    During,
    After,
}

const MOMENTS: [Moment; 3] = [Moment::Before, Moment::During, Moment::After];

impl Fault {
    fn all() -> Vec<Self> {
        let mut all = vec![Self::KillDaemon, Self::KillEngine, Self::KillGroup];
        for cut in [Cut::Fin, Cut::Rst, Cut::BlackHole] {
            for length in [Length::Short, Length::Medium, Length::OverTheLimit] {
                all.push(Self::Cut(cut, length));
            }
        }
        all.extend([
            Self::CancelTimeout,
            Self::Refused,
            Self::DiskFull,
            Self::PodReplaced,
        ]);
        all.extend(
            [
                Signals::TwoTerms,
                Signals::TwoInts,
                Signals::Quit,
                Signals::QuitDeaf,
            ]
            .map(Self::Signals),
        );
        all
    }

    /// Whether the engine dies in the middle of what it does: what it had begun then may exist.
    fn kills_engine(self) -> bool {
        matches!(
            self,
            Self::KillEngine | Self::KillGroup | Self::CancelTimeout | Self::PodReplaced
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(cut, length) => {
                let text = format!("server cut, {cut:?}, {length:?}");
                f.pad(&text)
            }
            other => f.pad(&format!("{other:?}")),
        }
    }
}

impl Length {
    fn time(self) -> Duration {
        match self {
            Self::Short => Duration::from_millis(300),
            Self::Medium => OUTAGE_LIMIT / 2,
            Self::OverTheLimit => OUTAGE_LIMIT * 3 / 2,
        }
    }
}

impl Moment {
    fn gate(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::During => "during",
            Self::After => "after",
        }
    }

    /// What the engine has created and written down by then.
    fn certain(self) -> &'static [&'static str] {
        match self {
            Self::Before => &[],
            Self::During => &["first"],
            Self::After => &["first", "second"],
        }
    }
}

/// One server for all cells.
pub(crate) struct Lab {
    dir: TempDir,
    server: Running,
    caller: Caller,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::with_limits(Limits::standard()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::Directory(dir.path().join("data"));
        let config = control::Config {
            limits,
            ..crate::control::config(storage, &Secret::new(PSK))
        };
        let server = control::start(config, Stop::new()).await.unwrap();
        let caller = server.plane().authenticate(server.admin_token()).await;
        fs::write(dir.path().join("psk"), PSK).unwrap();
        let engine = dir.path().join("engine");
        fs::write(&engine, ENGINE).unwrap();
        fs::set_permissions(&engine, fs::Permissions::from_mode(0o700)).unwrap();
        Self {
            dir,
            server,
            caller: caller.unwrap(),
        }
    }

    /// Where the server has its data; `psk` in it is the key for daemons.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Queues the first build of a workspace whose jobs only daemons with the tag `cell` get.
    async fn build(&self, cell: &str, template: &str) -> (Workspace, JobId) {
        self.import(cell, cell, template).await;
        self.create(cell).await
    }

    /// Makes a template for daemons that have `tag`. None of them may run, or wait for a build, yet.
    pub(crate) async fn import(&self, cell: &str, tag: &str, template: &str) {
        let (plane, caller) = (self.server.plane(), &self.caller);
        let organization = plane.organization("").await.unwrap().id;
        let tags = BTreeMap::from([("cell".to_owned(), tag.to_owned())]);
        let registration = Registration {
            name: format!("importer-{cell}"),
            tags: tags.clone(),
            provisioners: vec!["terraform".to_owned()],
            version: "v0.0.0-test".to_owned(),
            ..Registration::default()
        };
        let request = VersionRequest {
            template: cell.to_owned(),
            archive: tar(&[("main.tf", template)]),
            name: String::new(),
            message: String::new(),
            variables: Vec::new(),
            tags,
            activate: true,
        };
        let importer = self.server.local_source(registration).await.unwrap();
        plane
            .create_version(caller, organization, request)
            .await
            .unwrap();
        let import = importer.acquire(&Stop::new()).await.unwrap().unwrap();
        let nothing = ImportResult {
            start_resources: Vec::new(),
            stop_resources: Vec::new(),
            parameters: Vec::new(),
            external_auth: Vec::new(),
            modules: Vec::new(),
            presets: Vec::new(),
            plan: Bytes::new(),
            module_files: Bytes::new(),
            has_ai_tasks: false,
            has_external_agents: false,
        };
        let result = CompletedWork::TemplateImport(Box::new(nothing));
        let imported = CompletedJob {
            id: import.id,
            result,
        };
        importer.complete(imported).await.unwrap();
    }

    /// Queues the first build of a workspace of a template that has the same name.
    pub(crate) async fn create(&self, cell: &str) -> (Workspace, JobId) {
        let (plane, caller) = (self.server.plane(), &self.caller);
        let organization = plane.organization("").await.unwrap().id;
        let template = plane.template(organization, cell).await.unwrap();
        let version = plane.version(&template, "").await.unwrap();
        let request = WorkspaceRequest {
            name: cell.to_owned(),
            owner: String::new(),
            parameters: Vec::new(),
            preset: String::new(),
            log_level: String::new(),
        };
        let workspace = plane
            .create_workspace(caller, &template, &version, request)
            .await
            .unwrap();
        let builds = plane.store().builds(workspace.id).await.unwrap();
        (workspace, builds[0].job_id)
    }

    /// Waits until a job has ended and tells why it failed; empty if it did not.
    pub(crate) async fn ended(&self, job: JobId) -> String {
        let plane = self.server.plane();
        let log = plane.logs(&self.caller, job, 0, true).await.unwrap();
        log.for_each(|_| std::future::ready(())).await;
        plane.job(&self.caller, job).await.unwrap().error
    }

    /// The newest state that the server has.
    pub(crate) async fn state(&self, workspace: &Workspace) -> Bytes {
        let plane = self.server.plane();
        let state = plane.pull_state(&self.caller, workspace, 0).await;
        state.unwrap().into()
    }

    /// Which of the resources the server's state has.
    async fn known(&self, workspace: &Workspace) -> BTreeSet<String> {
        let state = self.state(workspace).await;
        let addresses = Outline::read(&state).unwrap_or_default().addresses;
        let ours = addresses.iter();
        ours.filter_map(|address| Some(address.strip_prefix("terraform_data.")?.to_owned()))
            .collect()
    }
}

/// One fault at one moment.
struct Cell<'a> {
    lab: &'a Lab,
    fault: Fault,
    name: String,
    dir: TempDir,
    proxy: FaultProxy,
    is_mounted: bool,
    /// Time after which its daemons give the server up.
    outage_limit: &'static str,
}

impl Drop for Cell<'_> {
    fn drop(&mut self) {
        for leader in self.leaders() {
            killpg(leader, Signal::SIGKILL).ok();
        }
        if self.is_mounted {
            let umount = std::process::Command::new("umount")
                .arg("-l")
                .arg(self.state_dir())
                .status();
            umount.unwrap();
        }
    }
}

impl<'a> Cell<'a> {
    fn new(lab: &'a Lab, number: usize, fault: Fault) -> Self {
        let mut cell = Self {
            lab,
            fault,
            name: format!("cell-{number}"),
            dir: tempfile::tempdir().unwrap(),
            proxy: FaultProxy::start(lab.server.address()),
            is_mounted: false,
            outage_limit: OUTAGE_LIMIT_TEXT,
        };
        fs::create_dir(cell.state_dir()).unwrap();
        if fault == Fault::DiskFull {
            let mount = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
                .arg(cell.state_dir())
                .stderr(Stdio::null())
                .status();
            cell.is_mounted = mount.is_ok_and(|status| status.success());
        }
        cell
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn daemon(&self, name: &str) -> Child {
        self.daemon_in(name, &self.state_dir())
    }

    fn daemon_in(&self, name: &str, state_dir: &Path) -> Child {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("daemon.log"))
            .unwrap();
        let lab = self.lab.dir.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
        command
            .args(["provisioner", "start", "--url", self.proxy.url().as_str()])
            .args(["--name", name, "--tag", &format!("cell={}", self.name)])
            .args(["--server", "outpost", "--isolation", "none"])
            .args(["--coder-provider", "builtin", "--psk-file"])
            .arg(lab.join("psk"))
            .arg("--engine")
            .arg(lab.join("engine"))
            .arg("--cache-dir")
            .arg(lab.join("cache"))
            .arg("--state-dir")
            .arg(state_dir);
        command
            .env("CELL", self.dir.path())
            .env("OUTPOST_OUTAGE_LIMIT", self.outage_limit)
            .env("OUTPOST_FORCE_CANCEL", "1s")
            .env_remove("CREDENTIALS_DIRECTORY");
        if matches!(
            self.fault,
            Fault::CancelTimeout | Fault::Signals(Signals::QuitDeaf)
        ) {
            command.env("DEAF", "1");
        }
        command
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    fn daemon_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("daemon.log")).unwrap()
    }

    fn open(&self, moment: Moment) {
        fs::write(self.dir.path().join(format!("open.{}", moment.gate())), "").unwrap();
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let so = async {
            while !is_so() {
                sleep(Duration::from_millis(20)).await; // Files and processes tell nobody.
            }
        };
        if timeout(PATIENCE, so).await.is_err() {
            let log = self.daemon_log();
            panic!(
                "{} {}: {what} never happened:\n{log}",
                self.fault, self.name
            );
        }
    }

    /// Processes that work for a session, leaders of groups only.
    fn leaders(&self) -> Vec<Pid> {
        let sessions = self.state_dir().join("sessions");
        workers(&sessions)
            .into_iter()
            .filter(|pid| getpgid(Some(*pid)).is_ok_and(|group| group == *pid))
            .collect()
    }

    /// Waits until nobody works for a session any more, such as a script that its engine left behind.
    async fn is_quiet(&self) {
        let sessions = self.state_dir().join("sessions");
        self.until("quiet", || workers(&sessions).is_empty()).await;
    }

    /// Lets the fault happen, with the daemon that runs when it is over.
    async fn strike(&self, mut daemon: Child, job: JobId) -> Child {
        let signal = |daemon: &Child, signal| {
            let pid = i32::try_from(daemon.id().unwrap()).unwrap();
            kill(Pid::from_raw(pid), signal).ok();
        };
        match self.fault {
            Fault::KillDaemon => {
                daemon.kill().await.unwrap();
                self.open_all();
                return self.daemon(&self.name);
            }
            Fault::PodReplaced => {
                daemon.kill().await.unwrap();
                self.leaders().into_iter().for_each(|leader| {
                    killpg(leader, Signal::SIGKILL).ok();
                });
                self.open_all();
                return self.daemon(&format!("{}-new", self.name));
            }
            Fault::KillEngine => self.leaders().into_iter().for_each(|leader| {
                kill(leader, Signal::SIGKILL).unwrap();
            }),
            Fault::KillGroup => self.leaders().into_iter().for_each(|leader| {
                killpg(leader, Signal::SIGKILL).unwrap();
            }),
            Fault::Cut(cut, length) => {
                self.proxy.set(cut);
                if length == Length::Short {
                    self.open_all();
                }
                sleep(length.time()).await; // How long it lasts is what is tried.
                self.proxy.set(Cut::None);
            }
            Fault::CancelTimeout => {
                let plane = self.lab.server.plane();
                plane.cancel_job(&self.lab.caller, job).await.unwrap();
                self.until("the kill", || self.leaders().is_empty()).await;
            }
            Fault::Refused => {}
            Fault::DiskFull => {
                let path = self.state_dir().join("filler");
                let filled = fs::write(path, vec![0; 4 << 20]);
                assert!(filled.is_err(), "the disk is full");
            }
            Fault::Signals(signals) => {
                let (which, is_repeated) = match signals {
                    Signals::TwoTerms => (Signal::SIGTERM, true),
                    Signals::TwoInts => (Signal::SIGINT, true),
                    Signals::Quit | Signals::QuitDeaf => (Signal::SIGQUIT, false),
                };
                signal(&daemon, which);
                self.until("the end of the daemon", || {
                    let has_ended = daemon.try_wait().unwrap().is_some();
                    if is_repeated && !has_ended {
                        signal(&daemon, which);
                    }
                    has_ended
                })
                .await;
                let is_alive = !self.leaders().is_empty();
                let is_left = daemon.try_wait().unwrap().unwrap().code() == Some(3);
                assert_eq!(is_left, is_alive, "{}", self.daemon_log());
                self.open_all();
                return self.daemon(&self.name);
            }
        }
        self.open_all();
        daemon
    }

    fn open_all(&self) {
        MOMENTS.into_iter().for_each(|moment| self.open(moment));
    }

    async fn run(self, moment: Moment) -> Row {
        let template = match self.fault {
            Fault::Refused => format!("{REFUSED}{TEMPLATE}"),
            _ => TEMPLATE.to_owned(),
        };
        let others = MOMENTS.into_iter().filter(|other| *other != moment);
        others.for_each(|other| self.open(other));
        let (workspace, job) = self.lab.build(&self.name, &template).await;
        let daemon = self.daemon(&self.name);
        let reached = self.dir.path().join(format!("reached.{}", moment.gate()));
        tokio::select! {
            () = self.until("the moment", || reached.exists()) => {}
            error = self.lab.ended(job) => {
                let log = self.daemon_log();
                panic!("{} {moment:?}: the job ended too early: {error}\n{log}", self.fault)
            }
        }
        let mut daemon = self.strike(daemon, job).await;
        let ended = timeout(PATIENCE, self.lab.ended(job)).await;
        let error = ended.unwrap_or_else(|_| {
            let log = self.daemon_log();
            panic!("{} {moment:?}: the job never ended:\n{log}", self.fault)
        });
        self.is_quiet().await;
        let journals = Journals::open(&self.state_dir(), None);
        // The server has it first, and then the journal is cleared, but for what may have come after a reaper.
        let is_left = |found: &journal::Found| {
            let entry = found.entry.as_ref();
            entry.is_ok_and(|entry| entry.taken_late_at.is_none())
        };
        let left = || match &journals {
            Ok(journals) => {
                let entries = journals.entries().unwrap();
                entries.iter().filter(|found| is_left(found)).count()
            }
            Err(_) => 0,
        };
        self.until("an empty journal", || left() == 0).await;
        daemon.kill().await.ok();
        let made: BTreeSet<String> = ["first", "second"]
            .into_iter()
            .filter(|name| self.dir.path().join(format!("made.{name}")).exists())
            .map(str::to_owned)
            .collect();
        let known = self.lab.known(&workspace).await;
        let certain = moment.certain().iter().map(|name| (*name).to_owned());
        let lost: Vec<_> = certain.filter(|name| !known.contains(name)).collect();
        let orphans: Vec<_> = made.difference(&known).cloned().collect();
        let is_named = |name: &&String| error.contains(&format!("terraform_data.{name}"));
        let named = orphans.iter().filter(is_named).count();
        Row {
            fault: self.fault,
            moment,
            lost,
            named,
            orphans,
            made,
            known,
            error,
        }
    }
}

/// Processes that work in a directory below `dir`, also in one that is gone.
fn workers(dir: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let works_here =
            fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (true, Some(pid)) = (works_here, pid) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

/// What became of one cell.
struct Row {
    fault: Fault,
    moment: Moment,
    lost: Vec<String>,
    orphans: Vec<String>,
    named: usize,
    made: BTreeSet<String>,
    known: BTreeSet<String>,
    error: String,
}

impl Row {
    fn is_good(&self) -> bool {
        let allowed = match self.fault.kills_engine() {
            true => self.orphans.len() == self.named,
            false => self.orphans.is_empty(),
        };
        self.lost.is_empty() && allowed
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error: String = self.error.chars().take(90).collect();
        write!(
            f,
            "{:<42} {:<7} {:<4} made {} known {} lost {} orphans {} named {}  {error}",
            self.fault,
            format!("{:?}", self.moment),
            if self.is_good() { "ok" } else { "BAD" },
            self.made.len(),
            self.known.len(),
            self.lost.len(),
            self.orphans.len(),
            self.named,
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_at_any_moment_loses_a_state_or_an_unnamed_resource() {
    let lab = Arc::new(Lab::start().await);
    let faults = Fault::all().into_iter();
    let cells = faults.flat_map(|fault| MOMENTS.map(|moment| (fault, moment)));
    let runs = cells.enumerate().map(|(number, (fault, moment))| {
        let lab = Arc::clone(&lab);
        async move {
            let cell = Cell::new(&lab, number, fault);
            if fault == Fault::DiskFull && !cell.is_mounted {
                skipped(
                    &format!("{fault}, {moment:?}"),
                    "no small disk can be mounted",
                );
                return (number, None);
            }
            let row = cell.run(moment).await;
            println!("{row}");
            (number, Some(row))
        }
    });
    let mut rows: Vec<_> = futures::stream::iter(runs)
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    rows.sort_by_key(|(number, _)| *number);
    let rows: Vec<Row> = rows.into_iter().filter_map(|(_, row)| row).collect();
    println!("--- the kill matrix");
    rows.iter().for_each(|row| println!("{row}"));
    let bad: Vec<_> = rows.iter().filter(|row| !row.is_good()).collect();
    assert!(bad.is_empty(), "{} bad cells, see the table", bad.len());
}
