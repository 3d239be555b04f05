//! Processes of a job: whom they can signal, who ends with them, and how much of the machine they can take.

use std::{
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use outpost::process::{
    ProcessError, Shim,
    control_group::{Hierarchy, Limits as GroupLimits},
    isolation::launcher::ended_well,
    run, take_over,
};
use tokio::{net::unix::pipe, time::timeout};

use super::*;

/// A process of the same user that has nothing to do with the job.
struct Neighbour(std::process::Child);

impl Neighbour {
    fn start() -> Self {
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(cat.spawn().unwrap())
    }

    /// Whether it still does what it is for: it was neither killed nor stopped.
    fn answers(mut self) -> bool {
        drop(self.0.stdin.take());
        let mut rest = String::new();
        let mut stdout = self.0.stdout.take().unwrap();
        stdout.read_to_string(&mut rest).unwrap();
        self.0.wait().unwrap().signal().is_none()
    }
}

#[tokio::test]
async fn a_template_can_signal_nobody_but_its_own() {
    let bench = Bench::new().await;
    for &(mechanism, held) in &bench.held {
        if !held.signals {
            skipped("scope of signals", format!("{mechanism} has none here"));
            continue;
        }
        let neighbour = Neighbour::start();
        let (theirs, ours) = (neighbour.0.id(), std::process::id());
        let script = format!(
            "sleep 600 & kill -TERM $! && echo own; \
             for pid in {theirs} {ours}; do \
               kill -0 $pid; kill -STOP $pid; kill -KILL {theirs}; kill -TERM -- -{theirs}; \
             done; true"
        );

        let ran = bench.run(mechanism, &script).await;

        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(said.starts_with("own"), "{mechanism}: {said}");
        assert!(neighbour.answers(), "{mechanism}");
    }
}

/// Linux 6.12 brought Landlock's scope for signals and abstract sockets.
fn has_scopes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|it| it.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(6_u32), Some(12_u32))
}

/// Tests of what a mechanism does not hold are skipped, so it must not lose what it can hold.
#[tokio::test]
async fn a_mechanism_holds_all_that_this_kernel_can_hold() {
    let bench = Bench::new().await;
    let has_landlock = bench.mechanisms.contains(&Mechanism::Landlock);
    for (mechanism, held) in &bench.held {
        assert!(held.background, "{mechanism}");
        if has_landlock && has_scopes() {
            assert!(held.signals && held.abstract_sockets, "{mechanism}");
        }
        let has_namespaces = *mechanism != Mechanism::Landlock;
        if has_namespaces && !nix::unistd::geteuid().is_root() {
            assert!(held.task_count, "{mechanism}");
        }
    }
}

#[tokio::test]
async fn what_leaves_its_session_ends_with_the_job_unless_it_may_live_on() {
    let bench = Bench::new().await;
    for &mechanism in &bench.mechanisms {
        for (background, lives) in [(Background::Ends, false), (Background::LivesOn, true)] {
            let path = bench.path("sessions/own/alive");
            mkfifo(&path, Mode::S_IRWXU).unwrap();
            let mut alive = pipe::OpenOptions::new().open_receiver(&path).unwrap();
            // Twice removed from the script, in a session of its own, deaf to what can be heard.
            let script = "(setsid sh -c 'trap \"\" HUP TERM INT; exec 3> alive; echo $$ > pid; exec sleep 600' \
                          > /dev/null 2>&1 &) ; until [ -s pid ]; do sleep 0.02; done; cat pid";

            let ran = bench.run_with(mechanism, background, script).await;

            assert!(ran.exit.is_success(), "{mechanism}");
            let told = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(
                told.contains("Ended processes that this step left in the background"),
                !lives,
                "{mechanism}: {told}"
            );
            if lives {
                let pid = String::from_utf8_lossy(&ran.stdout).trim().parse().unwrap();
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
            let mut rest = Vec::new();
            let gone = tokio::io::AsyncReadExt::read_to_end(&mut alive, &mut rest);
            timeout(LONG, gone).await.expect("it lives on").unwrap();
            fs::remove_file(path).unwrap();
            fs::remove_file(bench.path("sessions/own/pid")).unwrap();
        }
    }
}

#[tokio::test]
async fn memory_in_a_session_of_its_own_counts_for_the_job() {
    let bench = Bench::new().await;
    for &mechanism in &bench.mechanisms {
        // `tail` keeps what it reads.
        let script =
            "setsid sh -c 'head -c 100000000 /dev/zero | tail -c 100000000 | sleep 600'; sleep 600";
        let command = process::Command {
            memory: Memory::watched(Some(60 << 20)),
            ..bench.command(mechanism, Background::Ends, script)
        };

        let exit = run(&command, &LIMITS, &Stop::new(), |_, _| {}).await;

        let text = exit.unwrap().to_string();
        assert!(
            text.contains("the limit for a job is 60 MiB"),
            "{mechanism}: {text}"
        );
    }
}

#[tokio::test]
async fn a_held_engine_outlives_its_daemon_and_is_interrupted_once_by_the_next() {
    let bench = Bench::new().await;
    for &mechanism in &bench.mechanisms {
        let report = bench.path("sessions/own/apply.end");
        let script = "n=0; trap 'n=$((n+1)); echo interrupted $n' INT; echo ready; \
                      until [ $n -gt 0 ]; do sleep 0.02; done; sleep 0.2; exit $((n-1))";
        let command = process::Command {
            outlives_us: true,
            shim: Some(Shim {
                launcher: LAUNCHER.into(),
                report: report.clone(),
            }),
            ..bench.command(mechanism, Background::Ends, script)
        };
        let stop = Stop::new();
        let leaving = stop.clone();
        let left = run(&command, &LIMITS, &stop, move |_, _| leaving.leave()).await;
        assert!(
            matches!(left, Err(ProcessError::Left(_))),
            "{mechanism}: {left:?}"
        );

        let mut lines = Vec::new();
        let on_line = |_, line: process::Line| lines.push(line.into_text());
        let taken = take_over(&bench.path("sessions/own"), &LIMITS, &Stop::new(), on_line).await;

        assert!(taken.unwrap(), "{mechanism}");
        assert_eq!(lines, ["interrupted 1"], "{mechanism}");
        assert!(ended_well(&fs::read(&report).unwrap()), "{mechanism}");
        fs::remove_file(report).unwrap();
    }
}

#[tokio::test]
async fn a_control_group_counts_limits_and_ends_all_that_a_job_started() {
    let groups = match Hierarchy::find() {
        Ok(groups) => groups,
        Err(reason) => return skipped("control-groups", reason),
    };
    let bench = Bench::new().await;
    for &mechanism in &bench.mechanisms {
        let limits = GroupLimits {
            memory: Some(1 << 30),
            tasks: 64,
        };
        let name = format!("test-{}-{mechanism}", std::process::id());
        let group = std::sync::Arc::new(groups.create(&name, &limits).unwrap());
        let mut command = bench.command(
            mechanism,
            Background::Ends,
            "i=0; while [ $i -lt 200 ]; do setsid sleep 600 > /dev/null 2>&1 & i=$((i+1)); done; echo done",
        );
        let confinement = command.confinement.as_mut().unwrap();
        confinement.control_group = Some(group.clone());
        for mount in groups.mounts() {
            confinement.policy.set(mount, Access::ReadOnly);
        }

        let ran = process::capture(&command, &LIMITS, &Stop::new(), 1 << 20)
            .await
            .unwrap();

        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert!(complaint.contains("fork"), "{mechanism}: {complaint}");
        for mount in groups.mounts() {
            command.args[1] = format!("echo 0 > {}/cgroup.procs", mount.display()).into();
            let ran = process::capture(&command, &LIMITS, &Stop::new(), 1 << 20)
                .await
                .unwrap();
            assert!(!ran.exit.is_success(), "{mechanism} left its group");
        }
        // It succeeds only when nobody is left.
        group.end().await.unwrap();
    }
}

#[tokio::test]
async fn a_job_whose_group_has_no_memory_left_fails_with_a_text_that_says_so() {
    let groups = match Hierarchy::find() {
        Ok(groups) => groups,
        Err(reason) => return skipped("control-groups", reason),
    };
    let bench = Bench::new().await;
    for &mechanism in &bench.mechanisms {
        let limit = 64 << 20;
        let limits = GroupLimits {
            memory: Some(limit),
            tasks: 64,
        };
        let name = format!("test-memory-{}-{mechanism}", std::process::id());
        let group = std::sync::Arc::new(groups.create(&name, &limits).unwrap());
        // Much more than the limit at once, before anybody looks.
        let script = "head -c 400000000 /dev/zero | setsid tail -c 400000000 > /dev/null || exit 1";
        let mut command = process::Command {
            memory: Memory::watched(Some(limit)),
            ..bench.command(mechanism, Background::Ends, script)
        };
        command.confinement.as_mut().unwrap().control_group = Some(group.clone());

        let exit = run(&command, &LIMITS, &Stop::new(), |_, _| {})
            .await
            .unwrap();

        let text = exit.to_string();
        assert!(
            text.contains("the limit for a job is 64 MiB"),
            "{mechanism}: {text}"
        );
        group.end().await.unwrap();
    }
}
