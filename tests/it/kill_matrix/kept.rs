//! What becomes of a job that the server gave up while its daemon was frozen or dead, when the next job of its workspace
//! comes: at the same daemon, at a sibling with its state directory, or elsewhere.

use outpost::{control::plane::BuildRequest, daemon::journal::Entry, job::Transition};
use serde_json::Value;

use super::*;

/// Time without a sign of life after which the server gives a job up; five minutes in production.
const LEASE: Duration = Duration::from_secs(10);

/// Resources whose files carry their ids, so that two of one address are told apart.
const TEMPLATE: &str = r#"
resource "terraform_data" "first" {
  provisioner "local-exec" { command = "touch $CELL/made.first.${self.id}" }
  provisioner "local-exec" {
    when    = destroy
    command = "rm -f $CELL/made.first.${self.id}"
  }
}
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "touch $CELL/reached.during; until [ -e $CELL/open.during ]; do sleep 0.05; done; touch $CELL/made.second.${self.id}"
  }
  provisioner "local-exec" {
    when    = destroy
    command = "rm -f $CELL/made.second.${self.id}"
  }
}
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    Frozen,
    Killed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    Same,
    Sibling,
    Elsewhere,
}

/// One outage past the reaper, and what comes after it.
#[derive(Clone, Copy, Debug)]
struct Case {
    outage: Outage,
    moment: Moment,
    next: Transition,
    taker: Taker,
    /// Set if the daemon expects the server to wait longer than it does.
    is_too_patient: bool,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for outage in [Outage::Frozen, Outage::Killed] {
            for next in [Transition::Start, Transition::Destroy] {
                let case = |moment, taker| Self {
                    outage,
                    moment,
                    next,
                    taker,
                    is_too_patient: false,
                };
                all.extend(MOMENTS.map(|moment| case(moment, Taker::Same)));
                all.push(case(Moment::During, Taker::Sibling));
                all.push(case(Moment::During, Taker::Elsewhere));
                all.push(Self {
                    is_too_patient: true,
                    ..case(Moment::During, Taker::Same)
                });
            }
        }
        all
    }

    /// What is there in the end, what the server knows of it, and what else somebody is told of.
    async fn run(self, cell: &Cell<'_>) -> Result<String, String> {
        let others = MOMENTS.into_iter().filter(|other| *other != self.moment);
        others.for_each(|other| cell.open(other));
        let (workspace, job) = cell.lab.build(&cell.name, TEMPLATE).await;
        let mut daemon = cell.daemon(&cell.name);
        let reached = format!("reached.{}", self.moment.gate());
        cell.until("the moment", || cell.dir.path().join(&reached).exists())
            .await;
        match self.outage {
            Outage::Frozen => signal(&daemon, Signal::SIGSTOP),
            Outage::Killed => daemon.kill().await.unwrap(),
        }
        cell.open_all();
        let reaped = cell.ended(job).await;
        cell.is_quiet().await;
        let second = cell.lab.next(&workspace, self.next).await;
        let wake = || match self.outage {
            Outage::Frozen => {
                signal(&daemon, Signal::SIGCONT);
                None
            }
            Outage::Killed => Some(cell.daemon(&cell.name)),
        };
        let mut daemons = Vec::new();
        match self.taker {
            Taker::Same => daemons.extend(wake()),
            Taker::Sibling => {
                daemons.push(cell.daemon(&format!("{}-sibling", cell.name)));
                if self.outage == Outage::Frozen {
                    let waits = || cell.daemon_log().contains("Waiting for job");
                    cell.until("a wait for the frozen one", waits).await;
                    wake();
                }
            }
            Taker::Elsewhere => {
                let elsewhere = cell.dir.path().join("elsewhere");
                daemons.push(cell.daemon_in(&format!("{}-else", cell.name), &elsewhere));
                cell.ended(second).await;
                daemons.extend(wake());
            }
        }
        let error = cell.ended(second).await;
        let journals = Journals::open(&cell.state_dir(), None).unwrap();
        let entries = || -> Vec<Entry> {
            let found = journals.entries().unwrap().into_iter();
            found.filter_map(|found| found.entry.ok()).collect()
        };
        cell.until("the end of the first job", || {
            !entries().iter().any(Entry::is_pending)
        })
        .await;
        cell.is_quiet().await;
        let known = match self.next {
            Transition::Destroy if error.is_empty() => BTreeSet::new(),
            _ => cell.lab.ids(&workspace).await,
        };
        let kept: BTreeSet<String> = entries().iter().flat_map(|it| ids(&it.state)).collect();
        let made = cell.made();
        for mut daemon in daemons.into_iter().chain([daemon]) {
            daemon.kill().await.ok();
        }
        let orphans: Vec<_> = made.difference(&known).collect();
        let unseen = orphans.iter().filter(|id| !kept.contains(**id)).count();
        let row = format!(
            "{:<7} {:<7} {:<8} {:<10} {:<11} made {} known {} orphans {} unseen {unseen}  {reaped:.50} | {error:.50}",
            format!("{:?}", self.outage),
            format!("{:?}", self.moment),
            self.next,
            format!("{:?}", self.taker),
            if self.is_too_patient {
                "too patient"
            } else {
                ""
            },
            made.len(),
            known.len(),
            orphans.len(),
        );
        let allowed = self.taker == Taker::Elsewhere || orphans.is_empty();
        match unseen == 0 && allowed && error.is_empty() {
            true => Ok(row),
            false => Err(row),
        }
    }
}

impl Lab {
    /// Queues the next build of a workspace.
    async fn next(&self, workspace: &Workspace, transition: Transition) -> JobId {
        let request = BuildRequest {
            transition,
            version: String::new(),
            parameters: Vec::new(),
            log_level: String::new(),
        };
        let plane = self.server.plane();
        let build = plane.create_build(&self.caller, workspace, request).await;
        build.unwrap().job_id
    }

    /// Ids of the resources that the server's state has.
    async fn ids(&self, workspace: &Workspace) -> BTreeSet<String> {
        let plane = self.server.plane();
        ids(&plane.pull_state(&self.caller, workspace, 0).await.unwrap())
    }
}

impl Cell<'_> {
    /// Waits until a job has ended and tells why it failed; empty if it did not.
    async fn ended(&self, job: JobId) -> String {
        let ended = timeout(PATIENCE, self.lab.ended(job)).await;
        ended.unwrap_or_else(|_| {
            panic!("{}: the job never ended:\n{}", self.name, self.daemon_log())
        })
    }

    /// Ids of the resources that exist.
    fn made(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter_map(|name| Some(name.strip_prefix("made.")?.split_once('.')?.1.to_owned()))
            .collect()
    }
}

fn signal(daemon: &Child, signal: Signal) {
    let pid = i32::try_from(daemon.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn ids(state: &[u8]) -> BTreeSet<String> {
    let state: Value = serde_json::from_slice(state).unwrap_or_default();
    let resources = state["resources"].as_array().cloned().unwrap_or_default();
    let instances = resources.iter().flat_map(|resource| {
        resource["instances"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    instances
        .filter_map(|instance| Some(instance["attributes"]["id"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_job_that_the_server_gave_up_is_forgotten_by_the_next_one() {
    let limits = Limits {
        lease: LEASE,
        reap_every: Duration::from_millis(500),
        ..Limits::standard()
    };
    let lab = Arc::new(Lab::with_limits(limits).await);
    let runs = Case::all().into_iter().enumerate().map(|(number, case)| {
        let lab = Arc::clone(&lab);
        async move {
            let mut cell = Cell::new(&lab, number, Fault::KillDaemon);
            if case.is_too_patient {
                cell.outage_limit = "4m";
            }
            let row = case.run(&cell).await;
            println!("{row:?}");
            (number, row)
        }
    });
    let mut rows: Vec<_> = futures::stream::iter(runs)
        .buffer_unordered(AT_A_TIME / 2)
        .collect()
        .await;
    rows.sort_by_key(|(number, _)| *number);
    println!("--- jobs that the server gave up");
    let mut bad = 0;
    for (_, row) in rows {
        match row {
            Ok(row) => println!("ok  {row}"),
            Err(row) => {
                bad += 1;
                println!("BAD {row}");
            }
        }
    }
    assert_eq!(bad, 0, "see the table");
}
