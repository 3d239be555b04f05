//! `provisioner start --once`, in a container of its own for each job.
//!
//! A fresh container cannot be had everywhere. A root, a user, mounts and processes of its own, with a limit of memory
//! where the machine has control groups, stand in for it: nothing of the machine but directories of the system is there.
//! Files of a neighbour lie under the same paths outside. Within, the daemon isolates its job by Landlock, because
//! container runtimes mostly deny namespaces.

use std::{process::Output, sync::atomic::AtomicU32};

use outpost::process::{
    self, Limits,
    control_group::Limits as GroupLimits,
    isolation::{Access, Confinement, Policy},
};
use tokio::{task::block_in_place, time::timeout};

use super::*;
use crate::remote::Server;

/// The pre-shared key, which scripts know by the same word as all secrets.
const PSK: &str = "something-secret-that-daemons-share";
/// A container that has not ended after so long hangs.
const LONG: Duration = Duration::from_secs(180);

/// Tells control groups of containers from each other.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Runs in the container: nobody was here before, and there is what a daemon needs.
const START: &str = r##"
set -e
[ -z "$(ls -A "$LAB")" ]
umask 077
cd "$LAB"
mkdir -p home/secrets home/.aws home/.config/outpost home/.cache/outpost
echo "$KEY" > home/secrets/key
echo "$KEY" > home/.aws/credentials
echo "# $KEY" > home/.config/outpost/outpost.toml
echo $$ > daemon
exec "$LAUNCHER" provisioner start --once --server outpost --url "$URL" --name "$NAME" --coder-provider builtin \
  --isolation landlock --psk-file home/secrets/key --state-dir state --cache-dir home/.cache/outpost
"##;

/// A server, and containers for its daemons.
pub(super) struct Lab {
    pub(super) machine: Machine,
    server: Server,
    /// Of a neighbour outside, and of the daemon in each container.
    dir: TempDir,
    /// In which each container begins; it is the only one of the machine's directories that it has.
    own: TempDir,
    groups: Option<Hierarchy>,
}

impl Lab {
    /// `None` where there is no stand-in for a container, or no Landlock.
    pub(super) async fn new(groups: Option<Hierarchy>) -> Option<Self> {
        let (dir, own) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        furnish(dir.path());
        let mut held = Held::default();
        for mechanism in [Mechanism::FreshRoot, Mechanism::Landlock] {
            let probed = probe(Path::new(LAUNCHER), mechanism, Background::Ends, own.path());
            match probed.await.result {
                Ok(found) => held = found,
                Err(reason) => {
                    skipped(
                        &mechanism.to_string(),
                        format!("`--once` in a container: {reason}"),
                    );
                    return None;
                }
            }
        }
        let server = block_in_place(|| Server::at("127.0.0.1:0", &["--psk", PSK]));
        let machine = Machine {
            column: Column::Once,
            held,
            has_groups: groups.is_some(),
        };
        Some(Self {
            machine,
            server,
            dir,
            own,
            groups,
        })
    }

    /// Runs all templates, each in a container of its own, and returns which of them got what they wanted.
    pub(super) async fn runs_all(&self, first: u32) -> Vec<bool> {
        let template = TempDir::new().unwrap();
        fs::write(template.path().join("main.tf"), TEMPLATE).unwrap();
        fs::write(template.path().join("attack.sh"), self.script(first)).unwrap();
        let dir = template.path().to_str().unwrap();
        let mut push = self.server.command(&["template", "push", "attack", dir]);
        let mut push = push.stdout(Stdio::null()).spawn().unwrap();
        assert!(self.container("import").await, "the import");
        assert!(block_in_place(|| push.wait()).unwrap().success());

        let mut got = Vec::new();
        for (row, recipe) in RECIPES.iter().enumerate() {
            let before = recipe.version(self.dir.path());
            let workspace = format!("r{row}");
            let created = block_in_place(|| {
                let name = ["workspace", "create", &workspace, "--template", "attack"];
                self.server.ask(&[&name[..], &["--no-wait"]].concat())
            });
            assert_done(&created);
            let is_undisturbed = self.container(&workspace).await;
            let said = block_in_place(|| self.log(&workspace));
            assert!(
                said.contains("BEGAN") || !is_undisturbed,
                "{}: {said}",
                recipe.name
            );
            let number = first + u32::try_from(row).unwrap();
            got.push(recipe.got(self.dir.path(), &before, &said, number) || !is_undisturbed);
        }
        got
    }

    /// All scripts in one; a workspace's name says which.
    fn script(&self, first: u32) -> String {
        let daemon = format!("$(cat {}/daemon)", self.dir.path().display());
        let number = format!("$(({first} + ${{1#r}}))");
        let mut script = prologue(self.dir.path(), &daemon, &number);
        script.push_str("echo BEGAN\ncase ${1#r} in\n");
        for (row, recipe) in RECIPES.iter().enumerate() {
            script.push_str(&format!("{row})\n{}\n;;\n", recipe.script));
        }
        script.push_str("esac\ntrue\n");
        script
    }

    /// Runs a daemon for one job in a new container. Returns whether it ended as it should.
    async fn container(&self, name: &str) -> bool {
        let mut policy = Policy::default();
        policy.set(self.own.path(), Access::Open);
        let engine = binary::find(&std::env::var_os("PATH").unwrap()).unwrap();
        let group = self.groups.as_ref().map(|groups| {
            let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let name = format!("container-{}-{count}", std::process::id());
            let limits = GroupLimits::of_job(Some(MEMORY));
            std::sync::Arc::new(groups.create(&name, &limits).unwrap())
        });
        let home = self.dir.path().join("home");
        let env = [
            ("PATH", std::env::var_os("PATH").unwrap()),
            ("HOME", home.into()),
            ("LAB", self.dir.path().into()),
            ("LAUNCHER", LAUNCHER.into()),
            ("URL", self.server.url.clone().into()),
            ("NAME", format!("stands-for-the-daemon-{name}").into()),
            ("KEY", PSK.into()),
        ];
        let command = process::Command {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), START.into()],
            env: env.map(|(name, value)| (name.into(), value)).into(),
            dir: self.own.path().to_owned(),
            confinement: Some(Confinement {
                mechanism: Mechanism::FreshRoot,
                launcher: LAUNCHER.into(),
                policy,
                shown: Shown {
                    paths: vec![engine, LAUNCHER.into()],
                    empty: vec![self.dir.path().to_owned()],
                },
                background: Background::Ends,
                control_group: group,
            }),
            outlives_us: false,
            shim: None,
            memory: Memory::default(),
        };
        let limits = Limits {
            request: outpost::process::Request::Interrupt,
            exit_timeout: LONG,
            pipe_grace: Duration::from_secs(5),
            line_bytes: 1024,
            precious_bytes: 1024,
            must_keep_whole: |_| false,
        };
        let stop = Stop::new();
        let ran = timeout(LONG, process::capture(&command, &limits, &stop, 1 << 20));
        match ran.await {
            Ok(ran) => {
                let ran = ran.unwrap();
                if !ran.exit.is_success() {
                    println!("{name}: {}", String::from_utf8_lossy(&ran.stderr));
                }
                ran.exit.is_success()
            }
            Err(_) => false,
        }
    }

    /// The log of a workspace's job.
    fn log(&self, workspace: &str) -> String {
        let worker = format!("stands-for-the-daemon-{workspace}");
        let jobs = self.server.json(&["job", "list"]);
        let jobs = jobs.as_array().unwrap();
        let job = jobs.iter().find(|job| job["worker"] == *worker);
        let job = job.unwrap_or_else(|| panic!("no job of {worker}: {jobs:?}"));
        let log = self
            .server
            .ask(&["job", "logs", job["id"].as_str().unwrap()]);
        String::from_utf8_lossy(&log.stdout).into_owned()
    }
}

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
resource "terraform_data" "attack" {
  provisioner "local-exec" {
    command = "sh ./attack.sh ${data.coder_workspace.me.name}"
  }
}
"#;

fn assert_done(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
