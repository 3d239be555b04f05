//! Small templates, each of which tries one thing: to read, to write, to signal, to stay, to fill or to stall. A real
//! engine runs them under each mechanism of isolation, and `provisioner start --once` in a container of its own for each
//! job. A table says what each of them got; SECURITY.md has the same one.

mod once;

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::{
    process::{
        control_group::Hierarchy,
        isolation::{Background, Held, Mechanism, Shown, probe},
    },
    provision::{ApplyRequest, InitRequest, Memory, PlanRequest, Provisioner as _, SessionConfig},
    stop::Stop,
    terraform::{Engine, EngineConfig, Isolation, Modes, binary, home::Home},
};
use tempfile::TempDir;

use crate::{
    engine::{Log, tar},
    support::{
        engine::{engine_config, host_environment, session_config},
        skip::skipped,
    },
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
    /// As it stands in SECURITY.md.
    name: &'static str,
    /// A script with the names of [`Lab::paths`].
    script: &'static str,
    /// How it shows that it got what it wanted.
    sign: Sign,
    /// Where it must not.
    refused: fn(&Machine) -> bool,
}

impl Recipe {
    /// The content and the mode of the file below `lab` that it wants to change.
    fn version(&self, lab: &Path) -> Option<(Vec<u8>, u32)> {
        let Sign::Changed(path) = self.sign else {
            return None;
        };
        let path = lab.join(path);
        let mode = fs::metadata(&path).ok()?.permissions().mode();
        Some((fs::read(path).unwrap_or_default(), mode))
    }

    /// Whether it got what it wanted, by what is left of it and by what the log of its job says.
    fn got(&self, lab: &Path, before: &Option<(Vec<u8>, u32)>, said: &str, number: u32) -> bool {
        match self.sign {
            Sign::Said => said.contains(GOT),
            Sign::Changed(_) => self.version(lab) != *before,
            Sign::Disturbed => false,
            Sign::Left => is_left(number),
        }
    }
}

/// Files of a machine with a daemon, of which a template is to get none.
fn furnish(lab: &Path) {
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
        let path = lab.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// What stands before a recipe's script; the values may be words for the shell.
fn prologue(lab: &Path, daemon: &str, number: &str) -> String {
    let lab = lab.display();
    format!(
        "LAB={lab} CACHE={lab}/home/.cache/outpost DAEMON={daemon} NUMBER={number} WORD=ATTACK-$(echo GOT)\n\
         seen() {{ \"$@\" 2>&- | grep -q -e something -e Other && echo $WORD; }}\n"
    )
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

/// A column of the table: how a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    /// In a daemon that isolates its jobs.
    Daemon(Mechanism),
    /// As the only job of a daemon, in a container of its own, under Landlock.
    Once,
}

impl Column {
    const ALL: [Self; 4] = [
        Self::Daemon(Mechanism::Namespaces),
        Self::Daemon(Mechanism::Landlock),
        Self::Daemon(Mechanism::FreshRoot),
        Self::Once,
    ];

    /// The column's head in SECURITY.md.
    fn head(self) -> &'static str {
        match self {
            Self::Daemon(Mechanism::Namespaces) => "namespaces",
            Self::Daemon(Mechanism::Landlock) => "Landlock",
            Self::Daemon(Mechanism::FreshRoot) => "`fresh-root`",
            Self::Once => "`--once`",
        }
    }
}

/// What is known of a column on this machine.
#[derive(Clone, Copy)]
struct Machine {
    column: Column,
    held: Held,
    has_groups: bool,
}

impl Machine {
    /// A machine on which everything holds that can hold, as SECURITY.md has it.
    fn whole(column: Column) -> Self {
        let has_namespaces = matches!(
            column,
            Column::Daemon(Mechanism::Namespaces | Mechanism::FreshRoot)
        );
        Self {
            column,
            held: Held {
                signals: true,
                abstract_sockets: true,
                background: true,
                // Root is held by control groups alone.
                task_count: false,
                process_list: has_namespaces,
            },
            has_groups: true,
        }
    }

    fn is_whole(&self) -> bool {
        let (held, whole) = (self.held, Self::whole(self.column).held);
        let flags = |held: Held| (held.signals, held.background, held.process_list);
        flags(held) == flags(whole) && self.has_groups
    }
}

fn always(_: &Machine) -> bool {
    true
}

fn in_a_fresh_root(machine: &Machine) -> bool {
    machine.column == Column::Daemon(Mechanism::FreshRoot)
}

fn in_namespaces(machine: &Machine) -> bool {
    in_a_fresh_root(machine) || machine.column == Column::Daemon(Mechanism::Namespaces)
}

/// A daemon counts the memory of its jobs, and a container's is limited from outside.
fn where_memory_is_limited(machine: &Machine) -> bool {
    machine.column != Column::Once || machine.has_groups
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

const RECIPES: [Recipe; 35] = [
    said("read the key by its path", "seen cat $LAB/home/secrets/key"),
    said(
        "read the key where its directory was moved",
        "mv $LAB/home/secrets $LAB/home/x; seen cat $LAB/home/x/key",
    ),
    said(
        "read the key of an earlier job's move, anywhere",
        "seen grep -rhs something $LAB/home/x $LAB/home/secrets $LAB/x",
    ),
    said(
        "read the key by a hard link",
        "ln $LAB/home/secrets/key k; seen cat k",
    ),
    said(
        "read the key by /proc/self/root",
        "seen cat /proc/self/root$LAB/home/secrets/key",
    ),
    said(
        "read the key as root of a namespace",
        "seen unshare -Urm sh -c \"umount -l $LAB/home/secrets/key; cat $LAB/home/secrets/key\"",
    ),
    said(
        "read the daemon's environment",
        "seen cat /proc/$DAEMON/environ",
    ),
    said(
        "read the key by the daemon's root",
        "seen cat /proc/$DAEMON/root$LAB/home/secrets/key /proc/$DAEMON/cwd/home/secrets/key",
    ),
    said(
        "read the key in the daemon's namespaces",
        "seen nsenter --target $DAEMON --mount --user cat $LAB/home/secrets/key",
    ),
    said("read the journal's key", "seen cat $LAB/state/journal/key"),
    said(
        "read names of other sessions",
        "seen ls $LAB/state/sessions",
    ),
    said(
        "read another session's state",
        "seen cat $LAB/state/sessions/SessionOther/terraform.tfstate",
    ),
    said(
        "read settings of the daemon",
        "seen cat $LAB/home/.config/outpost/outpost.toml",
    ),
    said(
        "read the key of a mirror's proxy",
        "seen cat $LAB/mirror/proxy/key",
    ),
    Recipe {
        refused: in_a_fresh_root,
        ..said(
            "read cloud credentials in the home",
            "seen cat $LAB/home/.aws/credentials",
        )
    },
    Recipe {
        refused: |machine| machine.held.process_list,
        ..said(
            "read command lines of other processes",
            "tr '\\0' ' ' < /proc/$DAEMON/cmdline | grep -q stands-for-the-daemon && echo $WORD",
        )
    },
    changed(
        "write a provider in the plugin cache",
        "home/.cache/outpost/plugins/provider",
        "chmod u+w $CACHE/plugins/provider; echo evil > $CACHE/plugins/provider",
    ),
    changed(
        "write a plugin cache in the place of one that was moved",
        "home/.cache/outpost/plugins/provider",
        "mv $LAB/home/.cache $LAB/home/old; mkdir -p $CACHE/plugins; echo evil > $CACHE/plugins/provider",
    ),
    changed(
        "write a package of a mirror",
        "mirror/blobs/package",
        "chmod u+w $LAB/mirror/blobs; echo evil > $LAB/mirror/blobs/package; rm -rf $LAB/mirror/blobs",
    ),
    changed(
        "write settings of the next daemon",
        "home/.config/outpost/outpost.toml",
        "echo evil > $LAB/home/.config/outpost/outpost.toml",
    ),
    changed(
        "write what the daemon remembers of memory",
        "state/memory.json",
        "echo evil > $LAB/state/memory.json",
    ),
    changed(
        "write a file that the next job's tools read",
        "home/.gitconfig",
        "echo evil > $LAB/home/.gitconfig; echo evil > new; mv new $LAB/home/.gitconfig",
    ),
    changed(
        "write a plugin that the next job's engine finds",
        "home/.terraform.d/plugins",
        "mkdir -p $LAB/home/.terraform.d/plugins; mv $LAB/home/.terraform.d $LAB/home/old; \
         mkdir -p $LAB/home/.terraform.d/plugins",
    ),
    changed(
        "write who may read the key, after the job",
        "home/secrets/key",
        "chmod 644 $LAB/home/secrets/key",
    ),
    said(
        "write into another control group",
        // Where there is no such group, a file of that name would say nothing.
        "for kind in memory pids .; do \
           procs=/sys/fs/cgroup/$kind/cgroup.procs; \
           test -e $procs && (echo 0 > $procs) 2>&- && echo $WORD; \
         done",
    ),
    Recipe {
        sign: Sign::Disturbed,
        refused: |machine| machine.held.signals,
        ..said("stop the daemon", "kill -STOP $DAEMON")
    },
    Recipe {
        sign: Sign::Disturbed,
        refused: |machine| machine.held.signals,
        ..said(
            "kill the daemon",
            "kill -KILL $DAEMON; kill -KILL -- -$DAEMON",
        )
    },
    Recipe {
        refused: in_namespaces,
        ..said(
            "lower the daemon's limits",
            "prlimit --pid $DAEMON --core=0:0 && echo $WORD",
        )
    },
    Recipe {
        sign: Sign::Left,
        ..said(
            "stay in a session of its own",
            "setsid sleep $NUMBER > /dev/null 2>&1 &",
        )
    },
    Recipe {
        sign: Sign::Left,
        ..said(
            "stay twice removed and deaf",
            "(trap '' HUP TERM INT; (setsid nohup sleep $NUMBER > /dev/null 2>&1 &) &); sleep 0.2",
        )
    },
    Recipe {
        sign: Sign::Left,
        ..said(
            "stay as root of a namespace",
            "unshare -Urpf sleep $NUMBER > /dev/null 2>&1 & sleep 0.2",
        )
    },
    Recipe {
        refused: where_memory_is_limited,
        ..said(
            "take more memory than a job may have",
            "setsid sh -c 'head -c 800000000 /dev/zero | tail -c 800000000 | wc -c > filled; sleep 3'; \
             [ \"$(cat filled)\" = 800000000 ] && echo $WORD",
        )
    },
    Recipe {
        refused: |machine| machine.held.task_count || machine.has_groups,
        ..said(
            "take more processes than a job may have",
            "most=$(awk '/Max processes/ { print $3 }' /proc/self/limits); \
             [ \"$most\" = unlimited ] || [ \"$most\" -gt 4096 ] || exit 0; \
             grep -q outpost-job /proc/self/cgroup || echo $WORD",
        )
    },
    said(
        "hold the lock of downloads",
        // What hides the lock can be locked, and holds nobody up.
        "lock=$CACHE/engines/engine.lock; flock --nonblock $lock grep -q 'the lock' $lock && echo $WORD",
    ),
    said(
        "hold the lock of a mirror's generation",
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
        furnish(dir.path());
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
        let mut environment = host_environment();
        environment.set("HOME", path("home"));
        let engine = binary::find(&std::env::var_os("PATH").unwrap()).unwrap();
        let (cache, mirror) = (path("home/.cache/outpost"), path("mirror"));
        let home = Home::new(&path("home"), None).unwrap();
        if mechanism == Mechanism::Namespaces {
            let made = home.make_missing(path("home/.config/outpost/made"), &sessions);
            made.unwrap().leave();
        }
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
            stores: [cache.clone(), mirror]
                .into_iter()
                .chain(home.guarded())
                .collect(),
            shown: Shown {
                paths: vec![engine.clone(), LAUNCHER.into()],
                empty: vec![path("home")],
            },
            background: Background::Ends,
            control_groups: groups.clone(),
        };
        let engine = Engine::new(EngineConfig {
            exit_timeout: Duration::from_secs(10),
            operators_plugin_caches: vec![cache.join("plugins")],
            isolation: Some(isolation),
            shim: Some(LAUNCHER.into()),
            ..engine_config(engine, path("state/sessions"), environment)
        });
        let machine = Machine {
            column: Column::Daemon(mechanism),
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
        let before = recipe.version(self.dir.path());
        let names = prologue(
            self.dir.path(),
            &daemon.id().to_string(),
            &number.to_string(),
        );
        let script = format!("{names}{}\ntrue\n", recipe.script);
        let said = self.build(&script).await;
        let got = recipe.got(self.dir.path(), &before, &said, number);
        let is_undisturbed = daemon.ends_undisturbed();
        got || !is_undisturbed
    }

    /// Builds a workspace of a template with this script, and returns what the job's log says.
    async fn build(&self, script: &str) -> String {
        let template = "resource \"terraform_data\" \"attack\" {\n  \
                        provisioner \"local-exec\" { command = \"sh ./attack.sh\" }\n}\n";
        let config = SessionConfig {
            memory: Memory::watched(Some(MEMORY)),
            ..session_config()
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
    let groups = groups.ok();
    let labs = Mechanism::ALL.map(|mechanism| Lab::new(mechanism, groups.clone()));
    let (labs, once) = tokio::join!(
        futures::future::join_all(labs),
        once::Lab::new(groups.clone())
    );
    let labs: Vec<Lab> = labs.into_iter().flatten().collect();
    // Others may run the same test: a `sleep` of ours is known by its time.
    let first = 1_000_000 + std::process::id() * 100;
    let number = |column: usize, row: usize| {
        first + u32::try_from(column).unwrap() * 1_000_000_000 + u32::try_from(row).unwrap()
    };
    let columns = labs.iter().enumerate().map(async |(column, lab)| {
        let mut got = Vec::new();
        for (row, recipe) in RECIPES.iter().enumerate() {
            got.push(lab.runs(recipe, number(column, row)).await);
        }
        (lab.machine, got)
    });
    let last = async {
        let lab = once.as_ref()?;
        Some((lab.machine, lab.runs_all(number(labs.len(), 0)).await))
    };
    let (columns, last) = tokio::join!(futures::future::join_all(columns), last);
    let columns: Vec<(Machine, Vec<bool>)> = columns.into_iter().chain(last).collect();

    let got = |machine: &Machine, row: usize| {
        let column = columns
            .iter()
            .find(|(theirs, _)| theirs.column == machine.column);
        column.unwrap().1[row]
    };
    let machines: Vec<Machine> = columns.iter().map(|(machine, _)| *machine).collect();
    println!("{}", table(&machines, got));
    let mut wrong = Vec::new();
    for (row, recipe) in RECIPES.iter().enumerate() {
        for machine in &machines {
            let (is_got, is_refused) = (got(machine, row), (recipe.refused)(machine));
            // Where everything holds, the table of SECURITY.md is true in both directions.
            if is_got && is_refused || machine.is_whole() && is_got == is_refused {
                wrong.push(format!(
                    "{}, {}: {is_got}",
                    machine.column.head(),
                    recipe.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The table as it stands in SECURITY.md.
fn table(machines: &[Machine], got: impl Fn(&Machine, usize) -> bool) -> String {
    let heads = machines.iter().map(|machine| machine.column.head());
    let heads: Vec<_> = std::iter::once("a template tries to")
        .chain(heads)
        .collect();
    let mut lines = vec![
        format!("| {} |", heads.join(" | ")),
        format!("|{}", "---|".repeat(heads.len())),
    ];
    for (row, recipe) in RECIPES.iter().enumerate() {
        let cell = |machine| match got(machine, row) {
            true => "gets it",
            false => "refused",
        };
        let cells: Vec<_> = machines.iter().map(cell).collect();
        lines.push(format!("| {} | {} |", recipe.name, cells.join(" | ")));
    }
    lines.join("\n")
}

#[test]
fn the_table_of_the_documentation_is_the_one_that_is_tested() {
    let text = include_str!("../../../SECURITY.md");
    let machines = Column::ALL.map(Machine::whole);

    let expected = table(&machines, |machine, row| !(RECIPES[row].refused)(machine));

    let documented = text
        .split("\n\n")
        .find(|it| it.starts_with("| a template tries to |"));
    assert_eq!(documented, Some(expected.as_str()));
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
        "read the key by its path",
        "read names of other sessions",
        "read the daemon's environment",
        "read the key where its directory was moved",
    ] {
        let recipe = RECIPES.iter().find(|recipe| recipe.name == name).unwrap();
        let script = format!(
            "{}{}\n",
            prologue(dir.path(), &daemon.id().to_string(), "0"),
            recipe.script
        );
        let said = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(GOT), "{name}: {said}");
    }
    assert!(daemon.ends_undisturbed());
}
