//! Simulation of daemons, their names and their jobs on clocks that are changed, with events chosen by a seed.
//! Whatever happens, a job is handed out once and belongs to the daemon that took it, a name belongs to the daemon
//! that is present under it, and dead jobs end in time by the uptime clock.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{model::DaemonId, plane::daemons::RestoredState};

const STEPS: usize = 1_500;
const NAMES: [&str; 3] = ["one", "two", "three"];
/// Largest number of jobs that wait or run at the same time.
const MAX_OPEN: usize = 8;
/// Largest change of the clock in seconds.
const SET: i64 = 40 * 24 * 3600;

/// One process of a daemon.
struct Process {
    name: usize,
    credential: usize,
    state_id: String,
    /// Registered daemon; `None` before its registration.
    daemon: Option<Daemon>,
    jobs: BTreeSet<JobId>,
}

/// A running job, as far as the daemons know.
struct Running {
    daemon: DaemonId,
    credential: usize,
    /// Time of its last sign of life, by the uptime of one boot of the machine. A sign from before that boot, or from
    /// before this process of the server, counts as given at that start.
    heard: i64,
    boot: usize,
}

struct World {
    random: StdRng,
    lab: Lab,
    credentials: Vec<Credential>,
    processes: Vec<Process>,
    /// Holder of each name, with the time of its last sign of life.
    names: BTreeMap<usize, (usize, i64)>,
    running: BTreeMap<JobId, Running>,
    /// Daemon that each job was handed out to.
    handed_out: BTreeMap<JobId, DaemonId>,
    /// Jobs that succeeded, and the daemon that completed each.
    completed: BTreeMap<JobId, DaemonId>,
    open: BTreeSet<JobId>,
    boot: usize,
    began: i64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let lab = Lab::new().await;
        let mut credentials = vec![Credential::Shared];
        for name in ["a", "b"] {
            credentials.push(lab.key(name).await);
        }
        Self {
            random: StdRng::seed_from_u64(seed),
            began: lab.uptime.load(Ordering::Relaxed),
            lab,
            credentials,
            processes: Vec::new(),
            names: BTreeMap::new(),
            running: BTreeMap::new(),
            handed_out: BTreeMap::new(),
            completed: BTreeMap::new(),
            open: BTreeSet::new(),
            boot: 0,
        }
    }

    fn up(&self) -> i64 {
        self.lab.uptime.load(Ordering::Relaxed)
    }

    fn limit(&self, of: impl Fn(&Limits) -> Duration) -> i64 {
        i64::try_from(of(self.lab.plane.limits()).as_secs()).unwrap()
    }

    /// Picks one of at most a dozen processes.
    fn somebody(&mut self) -> usize {
        if self.processes.is_empty() || self.processes.len() < 12 && self.random.random_bool(0.1) {
            let number = self.processes.len();
            self.processes.push(Process {
                name: self.random.random_range(0..NAMES.len()),
                credential: self.random.random_range(0..self.credentials.len()),
                state_id: format!("state {number}"),
                daemon: None,
                jobs: BTreeSet::new(),
            });
        }
        let processes = self.processes.iter().enumerate();
        let here = processes.filter(|(_, it)| it.daemon.is_some());
        let here: Vec<usize> = here.map(|(at, _)| at).collect();
        match here.is_empty() || self.random.random_bool(0.3) {
            true => self.random.random_range(0..self.processes.len()),
            false => here[self.random.random_range(0..here.len())],
        }
    }

    /// Returns whether another credential than `credential` is present under a name, or has a job under it.
    fn is_held(&self, name: usize, credential: usize) -> bool {
        let Some((holder, heard)) = self.names.get(&name) else {
            return false;
        };
        let is_there = self.up() - (*heard).max(self.began) < self.limit(|it| it.offline);
        let has_job = self.running.values().any(|it| it.credential == *holder)
            && self
                .processes
                .iter()
                .any(|it| it.name == name && it.credential == *holder && !it.jobs.is_empty());
        *holder != credential && (is_there || has_job)
    }

    /// Records a sign of life of a process that has its name, or has it from now on.
    fn hear(&mut self, at: usize) {
        let (name, credential) = (self.processes[at].name, self.processes[at].credential);
        self.names.insert(name, (credential, self.up()));
    }

    /// Returns whether a process still has the name that it registered.
    fn has_name(&self, at: usize) -> bool {
        let process = &self.processes[at];
        let holder = self.names.get(&process.name);
        holder.is_some_and(|(holder, _)| *holder == process.credential)
    }

    async fn registers(&mut self, at: usize) {
        let process = &self.processes[at];
        let mut registration = registration(NAMES[process.name], &[]);
        let has_begun = process.daemon.is_none();
        registration.restored = has_begun.then(|| RestoredState {
            state_id: process.state_id.clone(),
            held: process.jobs.iter().copied().collect(),
        });
        let (name, credential) = (process.name, process.credential);
        let is_held = self.is_held(name, credential);
        let with = &self.credentials[credential];
        match self.lab.plane.register(with, registration).await {
            Ok(daemon) => {
                assert!(!is_held, "a name passed on while somebody has it");
                self.processes[at].daemon = Some(daemon);
                self.hear(at);
            }
            // The name may also be held by a daemon that is gone: for some time, or because of a job whose end is
            // due.
            Err(RequestError::Conflict(_)) => self.processes[at].daemon = None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn acquires(&mut self, at: usize) {
        let Some(daemon) = self.processes[at].daemon.clone() else {
            return;
        };
        let nothing_to_wait_for = std::future::ready(());
        match self.lab.plane.acquire(&daemon, nothing_to_wait_for).await {
            Ok(Some(job)) => {
                let before = self.handed_out.insert(job.id, daemon.id);
                assert_eq!(before, None, "handed out twice");
                let running = Running {
                    daemon: daemon.id,
                    credential: self.processes[at].credential,
                    heard: self.up(),
                    boot: self.boot,
                };
                self.running.insert(job.id, running);
                self.processes[at].jobs.insert(job.id);
                self.hear(at);
            }
            Ok(None) => self.hear(at),
            Err(RequestError::Unauthenticated(_)) => self.processes[at].daemon = None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Lets a process report on a job, its own or another's.
    async fn speaks(&mut self, at: usize, job: JobId, is_end: bool) {
        let Some(daemon) = self.processes[at].daemon.clone() else {
            return;
        };
        let plane = &self.lab.plane;
        let spoke = match is_end {
            true => {
                let result = CompletedWork::TemplateImport(Box::new(import_output()));
                plane
                    .complete_job(&daemon, CompletedJob { id: job, result })
                    .await
            }
            false => plane
                .update_job(&daemon, JobUpdate::heartbeat(job))
                .await
                .map(drop),
        };
        let (up, boot) = (self.up(), self.boot);
        let running = self.running.get_mut(&job);
        let is_its = running.as_ref().is_some_and(|it| it.daemon == daemon.id);
        match spoke {
            Ok(()) if is_end => {
                // A daemon that lost the answer repeats its message, and a success counts even after the job was
                // given up.
                let taken_by = self.handed_out.get(&job);
                assert_eq!(
                    taken_by,
                    Some(&daemon.id),
                    "a result of somebody else's was taken"
                );
                assert!(self.has_name(at), "somebody was heard who has no name");
                self.completed.insert(job, daemon.id);
                self.ends(job);
                self.hear(at);
            }
            Ok(()) => {
                let running = running.filter(|_| is_its);
                let running = running.expect("somebody else's sign of life counted");
                (running.heard, running.boot) = (up, boot);
                self.hear(at);
            }
            Err(RequestError::Unauthenticated(_)) => self.processes[at].daemon = None,
            Err(_) => assert!(!is_its, "what a daemon said of its own job was refused"),
        }
    }

    fn ends(&mut self, job: JobId) {
        self.running.remove(&job);
        self.open.remove(&job);
        for process in &mut self.processes {
            process.jobs.remove(&job);
        }
    }

    /// Ends the jobs that were silent for longer than their lease, and no others.
    async fn reaps(&mut self) {
        let (lease, pending) = (self.limit(|it| it.lease), self.limit(|it| it.pending));
        let reaped = self.lab.plane.reap().await.unwrap();
        for job in &reaped {
            let silent = self.running.get(job).map(|it| self.up() - it.heard > lease);
            let waited = self.up() > pending;
            assert!(silent.unwrap_or(waited), "a job ended that was alive");
            self.ends(*job);
        }
        // A name that is no longer in the store is free.
        let daemons = self.lab.plane.store().daemons().await.unwrap();
        let is_known = |name: usize| daemons.iter().any(|it| it.name == NAMES[name]);
        self.names.retain(|name, _| is_known(*name));
        let late = self
            .running
            .values()
            .filter(|it| self.up() - it.heard > lease);
        let most = self.lab.plane.limits().reap_at_most;
        assert!(
            late.count() == 0 || reaped.len() == most,
            "a dead job goes on"
        );
    }

    /// Replaces the server's process, possibly after a reboot.
    fn server_begins(&mut self, is_new_boot: bool) {
        const BOOTS: [&str; 4] = ["boot", "second", "third", "fourth"];
        if is_new_boot && self.boot + 1 < BOOTS.len() {
            self.boot += 1;
            self.lab.uptime.store(10, Ordering::Relaxed);
            self.names.values_mut().for_each(|(_, heard)| *heard = 10);
        }
        self.began = self.up();
        let of_before = self.running.values_mut().filter(|it| it.boot != self.boot);
        of_before.for_each(|it| it.heard = self.began);
        self.lab.plane = Arc::new(self.lab.restarted(BOOTS[self.boot]));
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..10 if self.open.len() < MAX_OPEN => {
                let queued = self.lab.queue_version(version("demo")).await;
                self.open.insert(queued.job_id);
            }
            10..20 => {
                let at = self.somebody();
                self.registers(at).await;
            }
            20..40 => {
                let at = self.somebody();
                self.acquires(at).await;
            }
            40..70 => {
                let at = self.somebody();
                let is_end = self.random.random_bool(0.2);
                let own: Vec<JobId> = self.processes[at].jobs.iter().copied().collect();
                let any: Vec<JobId> = self.handed_out.keys().copied().collect();
                let among = match self.random.random_bool(0.7) {
                    true => own,
                    false => any,
                };
                if !among.is_empty() {
                    let job = among[self.random.random_range(0..among.len())];
                    self.speaks(at, job, is_end).await;
                }
            }
            70..82 => {
                let seconds = self.random.random_range(1..120);
                self.lab.pass(Duration::from_secs(seconds));
            }
            82..87 => {
                let by = self.random.random_range(-SET..=SET);
                let now = self.lab.seconds.load(Ordering::Relaxed);
                // Not before the beginning of the calendar.
                self.lab.set_clock(by.max(1_000 - now));
            }
            87..94 => self.reaps().await,
            94..98 => {
                // A process dies; its successor with the same state directory has the journal.
                let at = self.somebody();
                let has_journal = self.random.random_bool(0.5);
                let process = &mut self.processes[at];
                process.daemon = None;
                if !has_journal {
                    process.jobs.clear();
                }
            }
            98 => self.server_begins(false),
            99 => {
                let is_new_boot = self.random.random_bool(0.3);
                self.server_begins(is_new_boot);
            }
            _ => {}
        }
    }

    /// Notices jobs that the server ended because their daemon came back without them.
    async fn notice_ended(&mut self) {
        for job in self.running.keys().copied().collect::<Vec<_>>() {
            let record = self.lab.job(job).await;
            if record.ended_by == Some(EndedBy::Server) {
                let its = |it: &Process| it.jobs.contains(&job) && it.daemon.is_some();
                assert!(
                    !self.processes.iter().any(its),
                    "a job ended whose daemon has it"
                );
                self.ends(job);
            }
        }
    }
}

#[tokio::test]
async fn names_and_jobs_survive_whatever_happens_to_clocks_and_processes() {
    let seeds = match std::env::var("OUTPOST_SIMULATION_SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 1..=8,
    };
    let (mut handed_out, mut completed) = (0, 0);
    for seed in seeds {
        println!("OUTPOST_SIMULATION_SEED={seed}");
        let mut world = World::new(seed).await;
        for _ in 0..STEPS {
            world.step().await;
            world.notice_ended().await;
        }

        // All daemons are gone: all jobs end within their lease, and all names become free.
        let lease = world.limit(|it| it.lease.max(it.offline)) + 1;
        world.lab.pass(Duration::from_secs(lease.unsigned_abs()));
        while !world.running.is_empty() {
            world.reaps().await;
        }
        handed_out += world.handed_out.len();
        completed += world.completed.len();
        for name in NAMES {
            let stranger = Credential::Person(world.lab.caller.user.clone());
            let taken = registration(name, &[]);
            let taken = world.lab.plane.register(&stranger, taken).await;
            assert!(taken.is_ok(), "{name}: {taken:?}");
        }
    }
    assert!(
        handed_out > 100 && completed > 50,
        "{handed_out} {completed}"
    );
}
