//! Small templates, each of which tries one thing: to read, to write, to signal, to stay, to fill or to stall. A real
//! engine runs them under each mechanism of isolation, and a table says what each of them got.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::{
    job::JobId,
    process::{
        control_group::Hierarchy,
        isolation::{Background, Held, Mechanism, Shown, probe},
    },
    provision::{ApplyRequest, InitRequest, Memory, PlanRequest, Provisioner as _, SessionConfig},
    stop::Stop,
    terraform::{Engine, EngineConfig, Environment, Isolation, Modes, Registry, binary},
};
use tempfile::TempDir;

use crate::{
    engine::{Log, tar},
    support::skip::skipped,
};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_outpost");

/// What a script says that got what it wanted.
const GOT: &str = "ATTACK-GOT";
/// What nobody but its owner may read.
const SECRET: &str = "something secret";
/// Bytes of memory that a job may have; the bomb takes half as much again.
const MEMORY: u64 = 500 << 20;

/// What one template tries.
struct Recipe {
    name: &'static str,
    /// A script with the names of [`Lab::paths`].
    script: &'static str,
    /// How it shows that it got what it wanted.
    sign: Sign,
    /// Where it must not.
    refused: fn(&Machine) -> bool,
}

enum Sign {
    /// It says so.
    Said,
    /// A file of the lab is there, or is not what it was.
    Changed(&'static str),
    /// The process that stands for the daemon does not do any more what it is for.
    Disturbed,
    /// A process of its own is left.
    Left,
}

/// What is known of a mechanism on this machine.
struct Machine {
    mechanism: Mechanism,
    held: Held,
    has_groups: bool,
}

fn always(_: &Machine) -> bool {
    true
}

fn in_a_fresh_root(machine: &Machine) -> bool {
    machine.mechanism == Mechanism::FreshRoot
}

fn in_namespaces(machine: &Machine) -> bool {
    machine.mechanism != Mechanism::Landlock
}

const fn said(name: &'static str, script: &'static str) -> Recipe {
    Recipe {
        name,
        script,
        sign: Sign::Said,
        refused: always,
    }
}

const fn changed(name: &'static str, path: &'static str, script: &'static str) -> Recipe {
    Recipe {
        name,
        script,
        sign: Sign::Changed(path),
        refused: always,
    }
}

const RECIPES: [Recipe; 34] = [
    said(
        "read: the key by its path",
        "seen cat $LAB/home/secrets/key",
    ),
    said(
        "read: the key where its directory was moved",
        "mv $LAB/home/secrets $LAB/home/x; seen cat $LAB/home/x/key",
    ),
    said(
        "read: the key of an earlier job's move, anywhere",
        "seen grep -rhs something $LAB/home/x $LAB/home/secrets $LAB/x",
    ),
    said(
        "read: the key by a hard link",
        "ln $LAB/home/secrets/key k; seen cat k",
    ),
    said(
        "read: the key by /proc/self/root",
        "seen cat /proc/self/root$LAB/home/secrets/key",
    ),
    said(
        "read: the key as root of a namespace",
        "seen unshare -Urm sh -c \"umount -l $LAB/home/secrets/key; cat $LAB/home/secrets/key\"",
    ),
    said(
        "read: the daemon's environment",
        "seen cat /proc/$DAEMON/environ",
    ),
    said(
        "read: the key by the daemon's root",
        "seen cat /proc/$DAEMON/root$LAB/home/secrets/key /proc/$DAEMON/cwd/home/secrets/key",
    ),
    said(
        "read: the key in the daemon's namespaces",
        "seen nsenter --target $DAEMON --mount --user cat $LAB/home/secrets/key",
    ),
    said("read: the journal's key", "seen cat $LAB/state/journal/key"),
    said(
        "read: names of other sessions",
        "seen ls $LAB/state/sessions",
    ),
    said(
        "read: another session's state",
        "seen cat $LAB/state/sessions/SessionOther/terraform.tfstate",
    ),
    said(
        "read: settings of the daemon",
        "seen cat $LAB/home/.config/outpost/outpost.toml",
    ),
    said(
        "read: the key of a mirror's proxy",
        "seen cat $LAB/mirror/proxy/key",
    ),
    Recipe {
        refused: in_a_fresh_root,
        ..said(
            "read: cloud credentials in the home",
            "seen cat $LAB/home/.aws/credentials",
        )
    },
    Recipe {
        refused: |machine| machine.held.process_list,
        ..said(
            "read: command lines of other processes",
            "tr '\\0' ' ' < /proc/$DAEMON/cmdline | grep -q stands-for-the-daemon && echo $WORD",
        )
    },
    changed(
        "write: a provider in the plugin cache",
        "home/.cache/outpost/plugins/provider",
        "chmod u+w $CACHE/plugins/provider; echo evil > $CACHE/plugins/provider",
    ),
    changed(
        "write: a plugin cache in the place of one that was moved",
        "home/.cache/outpost/plugins/provider",
        "mv $LAB/home/.cache $LAB/home/old; mkdir -p $CACHE/plugins; echo evil > $CACHE/plugins/provider",
    ),
    changed(
        "write: a package of a mirror",
        "mirror/blobs/package",
        "chmod u+w $LAB/mirror/blobs; echo evil > $LAB/mirror/blobs/package; rm -rf $LAB/mirror/blobs",
    ),
    changed(
        "write: settings of the next daemon",
        "home/.config/outpost/outpost.toml",
        "echo evil > $LAB/home/.config/outpost/outpost.toml",
    ),
    changed(
        "write: what the daemon remembers of memory",
        "state/memory.json",
        "echo evil > $LAB/state/memory.json",
    ),
    Recipe {
        refused: in_a_fresh_root,
        ..changed(
            "write: a file that the next job's tools read",
            "home/.gitconfig",
            "echo evil > $LAB/home/.gitconfig",
        )
    },
    changed(
        "write: who may read the key, after the job",
        "home/secrets/key",
        "chmod 644 $LAB/home/secrets/key",
    ),
    said(
        "write: into another control group",
        // Where there is no such group, a file of that name would say nothing.
        "for kind in memory pids .; do \
           procs=/sys/fs/cgroup/$kind/cgroup.procs; \
           test -e $procs && (echo 0 > $procs) 2>&- && echo $WORD; \
         done",
    ),
    Recipe {
        sign: Sign::Disturbed,
        refused: |machine| machine.held.signals,
        ..said("signal: stop the daemon", "kill -STOP $DAEMON")
    },
    Recipe {
        sign: Sign::Disturbed,
        refused: |machine| machine.held.signals,
        ..said(
            "signal: kill the daemon",
            "kill -KILL $DAEMON; kill -KILL -- -$DAEMON",
        )
    },
    Recipe {
        refused: in_namespaces,
        ..said(
            "signal: lower the daemon's limits",
            "prlimit --pid $DAEMON --core=0:0 && echo $WORD",
        )
    },
    Recipe {
        sign: Sign::Left,
        ..said(
            "stay: in a session of its own",
            "setsid sleep $NUMBER > /dev/null 2>&1 &",
        )
    },
    Recipe {
        sign: Sign::Left,
        ..said(
            "stay: twice removed and deaf",
            "(trap '' HUP TERM INT; (setsid nohup sleep $NUMBER > /dev/null 2>&1 &) &); sleep 0.2",
        )
    },
    Recipe {
        sign: Sign::Left,
        ..said(
            "stay: as root of a namespace",
            "unshare -Urpf sleep $NUMBER > /dev/null 2>&1 & sleep 0.2",
        )
    },
    said(
        "fill: more memory than a job may have",
        "setsid sh -c 'head -c 800000000 /dev/zero | tail -c 800000000 | wc -c > filled; sleep 3'; \
         [ \"$(cat filled)\" = 800000000 ] && echo $WORD",
    ),
    Recipe {
        refused: |machine| machine.held.task_count || machine.has_groups,
        ..said(
            "fill: more processes than a job may have",
            "most=$(awk '/Max processes/ { print $3 }' /proc/self/limits); \
             [ \"$most\" = unlimited ] || [ \"$most\" -gt 4096 ] || exit 0; \
             grep -q outpost-job /proc/self/cgroup || echo $WORD",
        )
    },
    said(
        "stall: hold the lock of downloads",
        // What hides the lock can be locked, and holds nobody up.
        "lock=$CACHE/engines/engine.lock; flock --nonblock $lock grep -q 'the lock' $lock && echo $WORD",
    ),
    said(
        "stall: hold the lock of a mirror's generation",
        "flock --nonblock $LAB/mirror/generations/000001.json true && echo $WORD",
    ),
];

/// A machine with a daemon's files, and a process that stands for it.
struct Lab {
    dir: TempDir,
    machine: Machine,
    engine: Engine,
}

/// A process of the same user, outside of all jobs.
struct Daemon(Child);

impl Daemon {
    fn start() -> Self {
        let mut daemon = Command::new("sh");
        daemon.args(["-c", "read line; echo alive", "stands-for-the-daemon"]);
        daemon.env("KEY", SECRET);
        daemon.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(daemon.spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it, and tells whether nobody stopped or killed it before.
    fn ends_undisturbed(mut self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let is_stopped = stat.contains(") T ");
        kill(
            Pid::from_raw(self.id().try_into().unwrap()),
            Signal::SIGCONT,
        )
        .unwrap();
        drop(self.0.stdin.take());
        let mut said = String::new();
        let mut stdout = self.0.stdout.take().unwrap();
        stdout.read_to_string(&mut said).unwrap();
        self.0.wait().unwrap();
        said == "alive\n" && !is_stopped
    }
}

impl Lab {
    /// `None` where the mechanism does not work.
    async fn new(mechanism: Mechanism, groups: Option<Hierarchy>) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, text) in [
            ("home/secrets/key", SECRET),
            ("home/.aws/credentials", SECRET),
            ("home/.config/outpost/outpost.toml", SECRET),
            ("home/.cache/outpost/plugins/provider", "a provider"),
            ("home/.cache/outpost/engines/engine.lock", "the lock"),
            ("state/journal/key", SECRET),
            ("state/memory.json", "{}"),
            ("state/sessions/SessionOther/terraform.tfstate", SECRET),
            ("mirror/proxy/key", SECRET),
            ("mirror/generations/000001.json", "{}"),
            ("mirror/blobs/package", "a package"),
        ] {
            let path = path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let sessions = path("state/sessions");
        let launcher = Path::new(LAUNCHER);
        let probed = probe(launcher, mechanism, Background::Ends, &sessions);
        let held = match probed.await.result {
            Ok(held) => held,
            Err(reason) => {
                skipped(&mechanism.to_string(), reason);
                return None;
            }
        };
        let mut environment = Environment::of_host(std::env::vars_os(), &[]);
        environment.set("HOME", path("home"));
        let engine = binary::find(&std::env::var_os("PATH").unwrap()).unwrap();
        let (cache, mirror) = (path("home/.cache/outpost"), path("mirror"));
        let isolation = Isolation {
            mechanism,
            launcher: LAUNCHER.into(),
            hidden: vec![
                path("home/secrets/key"),
                path("home/.config/outpost"),
                path("state"),
                cache.join("engines/engine.lock"),
                mirror.join("proxy"),
                mirror.join("generations"),
            ],
            modes: Modes::of(&[path("home/secrets/key")]),
            stores: vec![cache.clone(), mirror],
            plugin_caches: vec![cache.join("plugins")],
            shown: Shown {
                paths: vec![engine.clone(), LAUNCHER.into()],
                empty: vec![path("home")],
            },
            background: Background::Ends,
            control_groups: groups.clone(),
        };
        let engine = Engine::new(EngineConfig {
            binary: engine,
            work_dir: path("state/sessions"),
            environment,
            exit_timeout: Duration::from_secs(10),
            plugin_cache_dir: None,
            agent_scripts: BTreeMap::new(),
            isolation: Some(isolation),
            shim: Some(LAUNCHER.into()),
            providers: Arc::new(Registry),
        });
        let machine = Machine {
            mechanism,
            held,
            has_groups: groups.is_some(),
        };
        Some(Self {
            dir,
            machine,
            engine,
        })
    }

    /// Runs one template. Returns whether it got what it wanted.
    async fn runs(&self, recipe: &Recipe, number: u32) -> bool {
        let daemon = Daemon::start();
        let before = self.version(recipe);
        let said = self.build(&self.script(recipe, &daemon, number)).await;
        let got = match recipe.sign {
            Sign::Said => said.contains(GOT),
            Sign::Changed(_) => self.version(recipe) != before,
            Sign::Disturbed => false,
            Sign::Left => is_left(number),
        };
        let is_undisturbed = daemon.ends_undisturbed();
        got || !is_undisturbed
    }

    fn script(&self, recipe: &Recipe, daemon: &Daemon, number: u32) -> String {
        let lab = self.dir.path().display();
        format!(
            "LAB={lab} CACHE={lab}/home/.cache/outpost DAEMON={} NUMBER={number} WORD=ATTACK-$(echo GOT)\n\
             seen() {{ \"$@\" 2>&- | grep -q -e something -e Other && echo $WORD; }}\n{}\ntrue\n",
            daemon.id(),
            recipe.script
        )
    }

    /// The content and the mode of the file that a template wants to change.
    fn version(&self, recipe: &Recipe) -> Option<(Vec<u8>, u32)> {
        let Sign::Changed(path) = recipe.sign else {
            return None;
        };
        let path = self.dir.path().join(path);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).ok()?.permissions());
        Some((fs::read(path).unwrap_or_default(), mode))
    }

    /// Builds a workspace of a template with this script, and returns what the job's log says.
    async fn build(&self, script: &str) -> String {
        let template = "resource \"terraform_data\" \"attack\" {\n  \
                        provisioner \"local-exec\" { command = \"sh ./attack.sh\" }\n}\n";
        let config = SessionConfig {
            job_id: JobId(uuid::Uuid::new_v4()),
            log_level: None,
            template_id: String::new(),
            template_version_id: String::new(),
            memory: Memory::watched(Some(MEMORY)),
        };
        let mut session = self.engine.open(config).await.unwrap();
        let (log, stop) = (Log::new(), Stop::new());
        let request = InitRequest {
            template_archive: tar(&[("main.tf", template), ("attack.sh", script)]),
            ..InitRequest::default()
        };
        session.init(request, log.clone(), &stop).await.unwrap();
        let plan = session.plan(PlanRequest::default(), log.clone(), &stop);
        plan.await.unwrap();
        // It may fail: one that takes too much is ended.
        session
            .apply(ApplyRequest::default(), log.clone(), &stop)
            .await;
        session.close().await;
        log.all()
    }
}

/// Whether a `sleep` with this number is left; it is ended then.
fn is_left(number: u32) -> bool {
    let wanted = format!("sleep\0{number}\0");
    let mut found = false;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command == wanted.as_bytes() {
            let id = entry.file_name().to_str().unwrap().parse().unwrap();
            found |= kill(Pid::from_raw(id), Signal::SIGKILL).is_ok();
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_template_gets_what_isolation_promises_to_keep() {
    let groups = Hierarchy::find();
    if let Err(reason) = &groups {
        skipped("control-groups", reason);
    }
    let labs = Mechanism::ALL.map(|mechanism| Lab::new(mechanism, groups.clone().ok()));
    let labs = futures::future::join_all(labs).await;
    let labs: Vec<Lab> = labs.into_iter().flatten().collect();
    // Others may run the same test: a `sleep` of ours is known by its time.
    let first = 1_000_000 + std::process::id() * 100;
    let columns = labs.iter().enumerate().map(async |(column, lab)| {
        let mut got = Vec::new();
        for (row, recipe) in (0..).zip(&RECIPES) {
            let number = first + u32::try_from(column).unwrap() * 1_000_000_000 + row;
            got.push(lab.runs(recipe, number).await);
        }
        got
    });
    let columns = futures::future::join_all(columns).await;

    println!("| template | {} |", heads(&labs));
    let mut wrong = Vec::new();
    for (row, recipe) in RECIPES.iter().enumerate() {
        let cells = labs.iter().zip(&columns).map(|(lab, got)| {
            let must_refuse = (recipe.refused)(&lab.machine);
            match (got[row], must_refuse) {
                (true, true) => {
                    wrong.push(format!("{}: {}", lab.machine.mechanism, recipe.name));
                    "GOT IT"
                }
                (true, false) => "gets it",
                (false, _) => "refused",
            }
        });
        let cells: Vec<_> = cells.collect();
        println!("| {} | {} |", recipe.name, cells.join(" | "));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn heads(labs: &[Lab]) -> String {
    let names: Vec<_> = labs
        .iter()
        .map(|lab| lab.machine.mechanism.to_string())
        .collect();
    names.join(" | ")
}

/// What is said under isolation is worth something only if the same scripts do harm without it.
#[test]
fn the_scripts_do_what_they_say_where_nothing_holds_them() {
    let dir = TempDir::new().unwrap();
    let key: PathBuf = dir.path().join("home/secrets/key");
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::write(&key, SECRET).unwrap();
    fs::create_dir_all(dir.path().join("state/sessions/SessionOther")).unwrap();
    let daemon = Daemon::start();
    for name in [
        "read: the key by its path",
        "read: names of other sessions",
        "read: the daemon's environment",
        "read: the key where its directory was moved",
    ] {
        let recipe = RECIPES.iter().find(|recipe| recipe.name == name).unwrap();
        let script = format!(
            "LAB={} DAEMON={} WORD=ATTACK-$(echo GOT)\n\
             seen() {{ \"$@\" 2>&- | grep -q -e something -e Other && echo $WORD; }}\n{}\n",
            dir.path().display(),
            daemon.id(),
            recipe.script
        );
        let said = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(GOT), "{name}: {said}");
    }
    assert!(daemon.ends_undisturbed());
}
