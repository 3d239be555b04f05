//! What a template is kept from: our secrets, what we remember, other jobs, and the providers that all jobs run.
//!
//! Where the kernel lets nobody make namespaces, or has no Landlock, the tests of that mechanism say so and pass.

mod processes;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost::{
    process::{
        self, Captured, Limits,
        isolation::{Access, Background, Confinement, Held, Mechanism, Policy, Shown, probe},
    },
    provision::Memory,
    stop::Stop,
};
use tempfile::TempDir;

use crate::{
    remote::{Server, Service},
    sealed::mirror_of,
    support::skip::skipped,
};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_outpost");
const LONG: Duration = Duration::from_secs(60);

const LIMITS: Limits = Limits {
    request: process::Request::Interrupt,
    exit_timeout: LONG,
    pipe_grace: LONG,
    line_bytes: 1024,
    precious_bytes: 1024,
    must_keep_whole: |_| false,
};

/// A directory with what jobs have, and the mechanisms that work in it.
struct Bench {
    dir: TempDir,
    mechanisms: Vec<Mechanism>,
    /// What each of them holds beside files.
    held: Vec<(Mechanism, Held)>,
}

impl Bench {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut held = Vec::new();
        for mechanism in Mechanism::ALL {
            match probe(Path::new(LAUNCHER), mechanism, Background::Ends, dir.path())
                .await
                .result
            {
                Ok(found) => held.push((mechanism, found)),
                Err(reason) => skipped(&mechanism.to_string(), reason),
            }
        }
        for name in [
            "sessions/own",
            "sessions/other",
            "store/locks",
            "home/secrets",
            "home/cache/plugins",
        ] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in [
            "journal",
            "psk",
            "sessions/other/main.tf",
            "store/provider",
            "store/locks/lock",
            "home/secrets/key",
            "home/cache/plugins/provider",
        ] {
            fs::write(dir.path().join(name), "something secret").unwrap();
        }
        Self {
            dir,
            mechanisms: held.iter().map(|(mechanism, _)| *mechanism).collect(),
            held,
        }
    }

    /// Mechanisms under which a job finds the machine as it is.
    fn open(&self) -> Vec<Mechanism> {
        let all = self.mechanisms.iter().copied();
        all.filter(|it| Mechanism::OPEN.contains(it)).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn run(&self, mechanism: Mechanism, script: &str) -> Captured {
        self.run_with(mechanism, Background::Ends, script).await
    }

    async fn run_with(
        &self,
        mechanism: Mechanism,
        background: Background,
        script: &str,
    ) -> Captured {
        let command = self.command(mechanism, background, script);
        let captured = process::capture(&command, &LIMITS, &Stop::new(), 1 << 20).await;
        captured.unwrap()
    }

    fn command(
        &self,
        mechanism: Mechanism,
        background: Background,
        script: &str,
    ) -> process::Command {
        let mut policy = Policy::default();
        for (name, access) in [
            ("journal", Access::Hidden),
            ("psk", Access::Hidden),
            ("sessions", Access::Hidden),
            ("sessions/own", Access::Open),
            ("store", Access::ReadOnly),
            ("store/locks", Access::Hidden),
            ("home/secrets/key", Access::Hidden),
            ("home/cache/plugins", Access::ReadOnly),
        ] {
            policy.set(self.path(name), access);
        }
        process::Command {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
            dir: self.path("sessions/own"),
            confinement: Some(Confinement {
                mechanism,
                launcher: LAUNCHER.into(),
                policy,
                shown: Shown::default(),
                background,
                control_group: None,
            }),
            outlives_us: false,
            shim: None,
            memory: Memory::default(),
        }
    }

    /// Scripts that must fail, and for which nothing may be changed or printed.
    async fn refuses(&self, scripts: &[&str]) {
        for &mechanism in &self.mechanisms {
            for script in scripts {
                let ran = self.run(mechanism, script).await;

                let said = String::from_utf8_lossy(&ran.stdout).into_owned();
                assert!(
                    !ran.exit.is_success(),
                    "{mechanism}: `{script}` went well: {said}"
                );
                assert!(
                    !said.contains("secret"),
                    "{mechanism}: `{script}` said {said}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_hidden_cannot_be_read_by_any_way_to_it() {
    let bench = Bench::new().await;

    bench
        .refuses(&[
            "cat ../../journal",
            "cat ../../psk",
            "cat ../other/main.tf",
            "ls ..",
            &format!("cat {}", bench.path("psk").display()),
            &format!("cat /proc/self/root{}", bench.path("psk").display()),
            "chmod 600 ../../psk && cat ../../psk",
            "ln ../../psk here && cat here",
            "ln -s ../other/main.tf here; cat here",
            "umount .. && cat ../other/main.tf",
            "umount -l ../../psk && cat ../../psk",
            "unshare -Urm sh -c 'umount -l ../../psk; grep . ../../psk'",
            "unshare -Urm sh -c 'umount -l ..; cat ../other/main.tf'",
            "unshare -Urm sh -c 'mount --rbind ../.. /mnt && umount -l /mnt/psk && cat /mnt/psk'",
            "mv .. ../../elsewhere && cat ../../elsewhere/other/main.tf",
            "exec 9< ../../store/locks/lock",
            "ls ../../store/locks && cat ../../store/locks/*",
        ])
        .await;
    assert_eq!(fs::read(bench.path("psk")).unwrap(), b"something secret");
}

#[tokio::test]
async fn what_is_hidden_or_read_only_stays_where_the_next_job_looks_for_it() {
    let bench = Bench::new().await;

    bench
        .refuses(&[
            "mv ../../home/secrets ../../home/elsewhere",
            "mv ../../home ../../elsewhere",
            "mv ../../home/secrets/key ../../home/secrets/elsewhere",
            "mv ../../home/cache ../../home/elsewhere",
            "mv ../../home/cache/plugins ../../home/cache/elsewhere",
            "rm -r ../../home/secrets",
            "unshare -Urm mv ../../home/secrets ../../home/elsewhere",
        ])
        .await;
    for name in ["home/secrets/key", "home/cache/plugins/provider"] {
        assert_eq!(fs::read(bench.path(name)).unwrap(), b"something secret");
    }
}

#[tokio::test]
async fn what_is_read_only_cannot_be_changed_in_any_way() {
    let bench = Bench::new().await;

    bench
        .refuses(&[
            "echo x > ../../store/new",
            "echo x > ../../store/provider",
            "truncate -s 0 ../../store/provider",
            "rm ../../store/provider",
            "mv ../../store/provider .",
            "mount -o remount,bind,rw ../../store && rm ../../store/provider",
            "unshare -Urm sh -c 'mount -o remount,bind,rw ../../store && rm ../../store/provider'",
        ])
        .await;
    assert_eq!(
        fs::read(bench.path("store/provider")).unwrap(),
        b"something secret"
    );
    assert_eq!(fs::read_dir(bench.path("store")).unwrap().count(), 2);
}

#[tokio::test]
async fn other_processes_environments_cannot_be_read() {
    let bench = Bench::new().await;
    let mut other = std::process::Command::new("sleep");
    let service = Service::start(other.arg("600").env("OTHER", "something secret"));
    let other = service.id();
    let ours = std::process::id();

    bench
        .refuses(&[
            &format!("cat /proc/{ours}/environ"),
            &format!("cat /proc/{other}/environ"),
            &format!("cat /proc/{other}/root{}", bench.path("psk").display()),
            &format!("readlink /proc/{other}/fd/0"),
            &format!("nsenter --target {other} --mount --user cat /proc/{other}/environ"),
        ])
        .await;
}

#[tokio::test]
async fn all_else_is_as_it_was() {
    let bench = Bench::new().await;
    let outside = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = outside.path().join("file");
    for mechanism in bench.open() {
        let script = format!(
            "set -e; cat ../../store/provider; echo own > file; mkdir dir; cat file; \
             echo more >> {0}; cat {0}; id -u; cat /proc/self/environ > /dev/null; (sleep 600 >&- 2>&-) & echo $!",
            file.display()
        );
        let ran = bench
            .run_with(mechanism, Background::LivesOn, &script)
            .await;

        let said = String::from_utf8_lossy(&ran.stdout);
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.exit.is_success(), "{mechanism}: {complaint}");
        let lines: Vec<&str> = said.lines().collect();
        let user = nix::unistd::geteuid().to_string();
        assert_eq!(
            lines[..lines.len() - 1],
            ["something secretown", "more", &user],
            "{mechanism}"
        );
        // What a template starts in the background lives on, and anybody who could end it before still can.
        let background = nix::unistd::Pid::from_raw(lines[lines.len() - 1].parse().unwrap());
        nix::sys::signal::kill(background, nix::sys::signal::Signal::SIGKILL).unwrap();
        fs::remove_file(&file).unwrap();
        fs::remove_dir_all(bench.path("sessions/own")).unwrap();
        fs::create_dir(bench.path("sessions/own")).unwrap();
    }
}

#[tokio::test]
async fn a_child_that_cannot_be_held_is_not_started() {
    let bench = Bench::new().await;
    let Some(&mechanism) = bench.mechanisms.first() else {
        return skipped("isolation", "there is no mechanism");
    };
    fs::remove_dir(bench.path("sessions/own")).unwrap();
    fs::write(bench.path("sessions/own"), "no directory").unwrap();

    let command = process::Command {
        program: "/no/such/engine".into(),
        args: Vec::new(),
        env: Vec::new(),
        dir: bench.path("store"),
        confinement: Some(Confinement {
            mechanism,
            launcher: LAUNCHER.into(),
            policy: Policy::default(),
            shown: Shown::default(),
            background: Background::Ends,
            control_group: None,
        }),
        outlives_us: false,
        shim: None,
        memory: Memory::default(),
    };
    let ran = process::capture(&command, &LIMITS, &Stop::new(), 1 << 20)
        .await
        .unwrap();

    assert_eq!(ran.exit.to_string(), "exit status 125");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(
        said.starts_with("cannot isolate the engine: start /no/such/engine: "),
        "{said}"
    );
}

/// Each line tries something; the daemon's own pid and the paths are filled in.
const HOSTILE: &str = r#"
try() { if (eval "$1") > /dev/null 2>&1; then echo "LEAKED: $1"; else echo "refused: $1"; fi; }
try 'cat PSK'
try 'cat /proc/PID/environ'
try 'cat /proc/PID/rootPSK'
try 'cat STATE/lost/journal'
try 'ls STATE/lost'
try 'cat STATE/sessions/SessionOther/main.tf'
try 'cat ../SessionOther/main.tf'
try 'ls ..'
try 'echo x > CACHE/x'
try 'find CACHE -name "terraform-provider-coder*" | head -1 | xargs -I@ sh -c "echo x > @"'
try 'rm -r CACHE/builtin-provider/*'
try 'echo x > MIRROR/x'
try 'f=$(find MIRROR/trees -type f | head -1); chmod u+w $f; echo x > $f'
try 'rm -r MIRROR/blobs'
try 'unshare -Urm sh -c "umount -l PSK; grep . PSK"'
try 'echo x > HOME/.gitconfig'
try 'echo x > own; mv own HOME/.terraformrc'
try 'echo x >> HOME/.ssh/authorized_keys'
try 'mkdir -p HOME/.terraform.d/plugins/x'
try 'false'
if [ -n "$GIT_CONFIG_GLOBAL" ] && command -v git > /dev/null; then
  git config --global own.setting x && [ "$(git config shared.setting)" = y ] || echo 'LEAKED: no settings of git'
fi
echo 'done trying'
"#;

/// A provider that tries the same when the engine starts it first, for its data source, and then does its work.
const HOSTILE_PROVIDER: &str = r#"#!/bin/sh
[ -e REPORT ] || sh ./hostile.sh > REPORT 2>&1
exec LAUNCHER terraform-provider-coder "$0"
"#;

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
    evil  = { source = "acme/coder" }
  }
}
data "coder_workspace" "me" {}
data "coder_workspace" "evil" { provider = evil }
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
  provisioner "local-exec" {
    command = "sh ./hostile.sh"
  }
}
"#;

#[tokio::test]
async fn a_hostile_template_is_refused_everything_that_is_not_its_own() {
    let server = Server::start();
    let template = server.path("template");
    fs::create_dir(&template).unwrap();
    fs::write(template.join("main.tf"), TEMPLATE).unwrap();
    for mechanism in Bench::new().await.open() {
        let name = mechanism.to_string();
        let state = server.path(&format!("state-{name}"));
        for (dir, file) in [("lost", "journal"), ("sessions/SessionOther", "main.tf")] {
            fs::create_dir_all(state.join(dir)).unwrap();
            fs::write(state.join(dir).join(file), "something secret").unwrap();
        }
        let psk = server.path("psk");
        let (reports, mirror) = (
            TempDir::new().unwrap(),
            server.path(&format!("mirror-{name}")),
        );
        let report = reports.path().join("report");
        let provider = HOSTILE_PROVIDER
            .replace("REPORT", report.to_str().unwrap())
            .replace("LAUNCHER", LAUNCHER);
        mirror_of(&mirror, &provider).await;
        let mirror = mirror.to_str().unwrap();
        let home = server.path(&format!("home-{name}"));
        fs::create_dir_all(home.join(".config/outpost")).unwrap();
        fs::write(home.join(".config/outpost/outpost.toml"), "").unwrap();
        fs::create_dir_all(home.join(".config/git")).unwrap();
        fs::write(home.join(".config/git/config"), "[shared]\nsetting = y\n").unwrap();
        let mut daemon = server.daemon(&name, &psk, &["--isolation", &name, "--mirror", mirror]);
        daemon.env("HOME", &home);
        let mut daemon = Service::start(daemon.env("SECRET", "something secret"));
        daemon.wait_for("registered at the control plane");
        let script = HOSTILE
            .replace("PSK", psk.to_str().unwrap())
            .replace("PID", &daemon.id().to_string())
            .replace("STATE", state.to_str().unwrap())
            .replace("CACHE", server.path("cache").to_str().unwrap())
            .replace("HOME", home.to_str().unwrap())
            .replace("MIRROR", mirror);
        fs::write(template.join("hostile.sh"), script).unwrap();

        server.json(&["template", "push", &name, template.to_str().unwrap()]);
        server.json(&["workspace", "create", &name, "--template", &name]);

        let jobs = server.json(&["job", "list"]);
        let of_build =
            |it: &&serde_json::Value| it["kind"] == "workspace_build" && it["worker"] == *name;
        let job = jobs.as_array().unwrap().iter().find(of_build).unwrap();
        let log = server.ask(&["job", "logs", job["id"].as_str().unwrap()]);
        let log = String::from_utf8_lossy(&log.stdout).into_owned();
        let of_provider = fs::read_to_string(report).unwrap();
        for (who, said) in [("local-exec", log), ("provider", of_provider)] {
            assert!(said.contains("done trying"), "{mechanism}, {who}:\n{said}");
            assert!(!said.contains("LEAKED"), "{mechanism}, {who}:\n{said}");
            assert_eq!(
                said.matches("refused: ").count(),
                HOSTILE.matches("\ntry '").count(),
                "{mechanism}, {who}:\n{said}"
            );
        }
        daemon.stop();
        let left = fs::read_dir(&home).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(
            left,
            [".config"],
            "{mechanism}: the daemon's own goes with it"
        );
        let config = fs::read_dir(home.join(".config")).unwrap();
        assert_eq!(config.count(), 2, "{mechanism}");
    }
    server.process.stop();
}

#[tokio::test]
async fn a_root_of_its_own_has_only_what_a_job_needs() {
    let bench = Bench::new().await;
    let mechanism = Mechanism::FreshRoot;
    if !bench.mechanisms.contains(&mechanism) {
        return skipped(&mechanism.to_string(), "it does not work here");
    }
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("credentials"), "something secret").unwrap();
    let shown = TempDir::new().unwrap();
    fs::write(shown.path().join("socket"), "shown").unwrap();
    let script = format!(
        "cat {shown}/socket && echo; echo x 2>&- > {shown}/x && echo 'wrote what is shown'; \
         cat {home}/credentials {home}/kept 2>&-; echo x > {home}/kept && cat {home}/kept; \
         echo own > file && cat file; ls /tmp; ls -d /home/* ~root/* /run/* /var/lib/* /sys/* 2>&-; \
         [ -c /dev/null ] && echo x > /dev/null; ls /dev | wc -l; echo x 2>&- > /usr/x || echo 'system is read-only'",
        shown = shown.path().display(),
        home = home.path().display(),
    );
    for _job in 0..2 {
        let mut command = bench.command(mechanism, Background::Ends, &script);
        command.confinement.as_mut().unwrap().shown = Shown {
            paths: vec![shown.path().to_owned()],
            empty: vec![home.path().to_owned()],
        };

        let ran = process::capture(&command, &LIMITS, &Stop::new(), 1 << 20).await;

        let ran = ran.unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&ran.stderr);
        let dirs = [bench.dir.path(), home.path(), shown.path()];
        let ours = |line: &&str| !dirs.iter().any(|dir| dir.ends_with(line));
        let lines: Vec<&str> = said.lines().filter(ours).collect();
        // Of `/dev` there are six devices, four links and the shared memory.
        assert_eq!(
            lines,
            ["shown", "x", "own", "11", "system is read-only"],
            "{complaint}"
        );
        let kept = fs::read_to_string(bench.path("sessions/own/file")).unwrap();
        assert_eq!(kept, "own\n");
    }
}
