//! Templates that exchange the files of their session for what the daemon must not read, or cannot remove.
//!
//! In one daemon a victim's apply waits while all attackers exchange theirs. What a mechanism of isolation lacks here is
//! said and skipped.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use outpost::{
    control::model::Workspace,
    daemon::journal::{Found, Journals},
    files::removal::Scratch,
    job::{JobId, VariableValue},
    process::isolation::{Background, Mechanism, probe},
    provision::PlanRequest,
    rules::state::Outline,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{engine, kill_matrix::Lab, support::skip::skipped};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_outpost");

/// Longer than anything takes here, so that what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(600);
/// `/livez` answers within it, whatever happens.
const ANSWER_TIME: Duration = Duration::from_secs(10);

const SECRET: &str = "the secret of the victim";
/// The job of the victim, which waits in the middle of its apply.
const VICTIM: &str = "victim";

/// What a template does to its session, and what comes of it.
struct Recipe {
    name: &'static str,
    /// A script in the session's directory, once a first resource is in the state.
    script: &'static str,
    /// What the job's error says in one of these words; nothing for a job that succeeds.
    errors: &'static [&'static str],
}

const REPLACED: &str = "the state file terraform.tfstate cannot be used";

/// What becomes of a file without bytes if the engine's end is faster than the attacker.
const REMOVED: &str = "terraform wrote no state file";

static RECIPES: [Recipe; 10] = [
    Recipe {
        name: "link",
        script: r#"rm terraform.tfstate; ln -s "$(cat $CELL/victim)/terraform.tfstate" terraform.tfstate"#,
        errors: &[REPLACED],
    },
    Recipe {
        name: "hard-link",
        // Where the victim's file cannot be seen the script fails.
        script: r#"ln -f "$(cat $CELL/victim)/terraform.tfstate" terraform.tfstate"#,
        errors: &[REPLACED, "terraform apply: exit status 1"],
    },
    Recipe {
        name: "pipe",
        // Terraform removes what has no bytes when it ends, so it is made again.
        script: "rm terraform.tfstate; mkfifo terraform.tfstate; setsid perl -MPOSIX -e 'select undef, undef, undef, 0.001 while -e q(terraform.tfstate); mkfifo q(terraform.tfstate), 0600' > /dev/null 2>&1 < /dev/null &",
        errors: &[REPLACED, REMOVED],
    },
    Recipe {
        name: "zero",
        script: "rm terraform.tfstate; ln -s /dev/zero terraform.tfstate; setsid perl -e 'select undef, undef, undef, 0.001 while -e q(terraform.tfstate); symlink q(/dev/zero), q(terraform.tfstate)' > /dev/null 2>&1 < /dev/null &",
        errors: &[REPLACED, REMOVED],
    },
    Recipe {
        name: "directory",
        script: "rm terraform.tfstate; mkdir -p terraform.tfstate/deep",
        errors: &[REPLACED],
    },
    Recipe {
        name: "sparse",
        script: "rm terraform.tfstate; truncate -s 100G terraform.tfstate",
        errors: &[REPLACED],
    },
    Recipe {
        name: "private",
        script: r#"for name in apply.end variables.tfvars; do rm -f "$PWD.private/$name"; mkfifo "$PWD.private/$name"; done"#,
        errors: &[],
    },
    Recipe {
        name: "nested",
        script: "perl -e 'for (1..$ENV{DEPTH}) { mkdir q(d); chdir q(d) }'",
        errors: &[],
    },
    Recipe {
        name: "no-rights",
        script: "mkdir -p a/b/c; touch a/b/file; chmod 0 a/b/c a/b a",
        errors: &[],
    },
    Recipe {
        name: "renames",
        // It goes on when the job has ended, until the test lets go of it.
        script: "setsid perl -e 'mkdir q(x); until (-e qq($ENV{CELL}/end)) { mkdir qq(x/$_) for 1..50; rename q(x), q(y); rename q(y), q(x); rmdir q(x/7); mkdir q(x) }' > /dev/null 2>&1 < /dev/null &",
        errors: &[],
    },
];

impl Recipe {
    /// Three resources, one after the other: the second waits until it may do harm, the third after it has.
    fn template(&self) -> String {
        let (name, script) = (self.name, self.script.replace('"', "\\\""));
        format!(
            r#"
resource "terraform_data" "first" {{ input = "{name}" }}
resource "terraform_data" "second" {{
  depends_on = [terraform_data.first]
  provisioner "local-exec" {{
    command = "touch $CELL/reached.{name}; until [ -e $CELL/open ]; do sleep 0.05; done; {script}"
  }}
}}
resource "terraform_data" "third" {{
  depends_on = [terraform_data.second]
  provisioner "local-exec" {{
    command = "touch $CELL/done.{name}; until [ -e $CELL/open.end ]; do sleep 0.05; done"
  }}
}}
"#
        )
    }
}

fn victim() -> String {
    format!(
        r#"
resource "terraform_data" "secret" {{ input = "{SECRET}" }}
resource "terraform_data" "waits" {{
  depends_on = [terraform_data.secret]
  provisioner "local-exec" {{
    command = "pwd > $CELL/victim; touch $CELL/reached.{VICTIM}; until [ -e $CELL/open.{VICTIM} ]; do sleep 0.05; done"
  }}
}}
"#
    )
}

/// A daemon and the builds that it takes.
struct Scene {
    lab: Lab,
    /// What templates may write.
    cell: TempDir,
    state: Scratch,
    isolation: String,
    builds: BTreeMap<&'static str, (Workspace, JobId)>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.let_go("end"); // What templates left in the background.
    }
}

impl Scene {
    async fn new(isolation: &str, recipes: &[&'static Recipe]) -> Self {
        let lab = Lab::start().await;
        let mut builds = BTreeMap::new();
        let templates = recipes
            .iter()
            .map(|recipe| (recipe.name, recipe.template()));
        for (name, template) in templates.chain([(VICTIM, victim())]) {
            lab.import(name, "hostile", &template).await;
        }
        for name in recipes.iter().map(|recipe| recipe.name).chain([VICTIM]) {
            builds.insert(name, lab.create(name).await);
        }
        Self {
            lab,
            cell: tempfile::tempdir().unwrap(),
            state: quick_dir(),
            isolation: isolation.to_owned(),
            builds,
        }
    }

    fn daemon(&self) -> Child {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let lab = self.lab.dir();
        let slots = self.builds.len().to_string();
        let mut command = Command::new(LAUNCHER);
        command
            .args(["provisioner", "start", "--url", &self.lab.url()])
            .args(["--name", "hostile", "--tag", "cell=hostile"])
            .args(["--server", "outpost", "--isolation", &self.isolation])
            .args(["--concurrency", &slots, "--health-address", "127.0.0.1:0"])
            .args(["--coder-provider", "builtin", "--psk-file"])
            .arg(lab.join("psk"))
            .arg("--cache-dir")
            .arg(lab.join("cache"))
            .arg("--state-dir")
            .arg(self.state.path())
            .env("CELL", self.cell.path())
            .env("DEPTH", self.depth())
            .env_remove("CREDENTIALS_DIRECTORY");
        command
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Directories that a template nests. Landlock walks up through all of them for each new one: 60,000 take it minutes.
    fn depth(&self) -> &'static str {
        match self.isolation.as_str() {
            "landlock" => "20000",
            _ => "60000",
        }
    }

    fn log_file(&self) -> PathBuf {
        self.lab.dir().join("daemon.log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let so = async {
            while !is_so() {
                sleep(Duration::from_millis(50)).await; // Files tell nobody.
            }
        };
        if timeout(PATIENCE, so).await.is_err() {
            panic!("{}: {what} never happened:\n{}", self.isolation, self.log());
        }
    }

    fn has(&self, name: &str) -> bool {
        self.cell.path().join(name).exists()
    }

    fn let_go(&self, name: &str) {
        fs::write(self.cell.path().join(name), "").unwrap();
    }

    /// The health address of the daemon that began last, of `count`.
    async fn health(&self, count: usize) -> String {
        let found = || -> Vec<String> {
            let log = self.log();
            let lines = log
                .lines()
                .filter(|line| line.contains("starting health endpoint"));
            let address = |line: &str| {
                let (_, behind) = line.split_once("address=")?;
                Some(behind.split(' ').next()?.to_owned())
            };
            lines.filter_map(address).collect()
        };
        self.until("a health endpoint", || found().len() == count)
            .await;
        found().pop().unwrap()
    }

    /// Whether the journal has the first resource of each attacker.
    fn all_are_written_down(&self, recipes: &[&Recipe]) -> bool {
        let Ok(journals) = Journals::open(self.state.path(), None) else {
            return false;
        };
        let entries = journals.entries().unwrap_or_default();
        let has_first = |found: &Found| {
            let state = found.entry.as_ref().map(|entry| entry.state.clone());
            let outline = Outline::read(&state.unwrap_or_default()).unwrap_or_default();
            outline.addresses.contains("terraform_data.first")
        };
        entries.iter().filter(|found| has_first(found)).count() == recipes.len()
    }

    async fn ended(&self, name: &str) -> String {
        let ended = timeout(PATIENCE, self.lab.ended(self.builds[name].1)).await;
        ended.unwrap_or_else(|_| panic!("job {name} never ended:\n{}", self.log()))
    }

    /// Everything that the server has of an attacker's build: state and error.
    async fn check(&self, recipe: &Recipe, error: &str) {
        let (isolation, name) = (&self.isolation, recipe.name);
        let state = self.lab.state(&self.builds[name].0).await;
        let text = String::from_utf8_lossy(&state);
        assert!(!text.contains(SECRET), "{isolation}: {name} got {text}");
        let known = Outline::read(&state).unwrap_or_default().addresses;
        assert!(
            known.contains("terraform_data.first"),
            "{isolation}: {name} lost its own state: {text}\n{}",
            self.log()
        );
        let is_expected = match recipe.errors {
            [] => error.is_empty(),
            errors => errors.iter().any(|expected| error.contains(expected)),
        };
        assert!(
            is_expected,
            "{isolation}: {name} ended with {error:?}\n{}",
            self.log()
        );
        println!("{isolation:<11} {name:<10} {error}");
    }
}

/// A directory in memory where there is such a place: disks take a millisecond for each directory that is removed.
fn quick_dir() -> Scratch {
    let dir = tempfile::tempdir_in("/dev/shm");
    Scratch::waited_for(dir.unwrap_or_else(|_| tempfile::tempdir().unwrap()))
}

/// The status and the body of an answer that comes in time.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER_TIME)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn is_alive(address: &str) -> bool {
    get(address, "/livez").0.contains("200")
}

/// Kilobytes of a process that are in memory at the most, so far.
fn peak_kilobytes(daemon: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id().unwrap())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Each has more engines than a small machine runs well.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn modes() -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut modes = vec!["none".to_owned()];
    for mechanism in Mechanism::OPEN {
        let launcher = Path::new(LAUNCHER);
        let probed = probe(launcher, mechanism, Background::Ends, dir.path());
        match probed.await.result {
            Ok(_) => modes.push(mechanism.to_string()),
            Err(reason) => skipped(&mechanism.to_string(), reason),
        }
    }
    modes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_template_puts_in_the_place_of_its_files_it_gets_nothing_and_stops_nobody() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for isolation in modes().await {
        let recipes: Vec<&Recipe> = RECIPES.iter().collect();
        let scene = Scene::new(&isolation, &recipes).await;
        let mut daemon = scene.daemon();
        let health = scene.health(1).await;
        let reached = |recipe: &&Recipe| scene.has(&format!("reached.{}", recipe.name));
        scene
            .until("the moment", || recipes.iter().all(reached))
            .await;
        scene
            .until("the victim", || scene.has("reached.victim"))
            .await;
        scene
            .until("a journal with all", || {
                scene.all_are_written_down(&recipes)
            })
            .await;

        scene.let_go("open");
        scene.let_go("open.end");

        for recipe in &recipes {
            let error = scene.ended(recipe.name).await;
            assert!(is_alive(&health), "{isolation}: {}", recipe.name);
            scene.check(recipe, &error).await;
        }
        assert!(daemon.try_wait().unwrap().is_none(), "{}", scene.log());
        let peak = peak_kilobytes(&daemon);
        println!("{isolation}: the daemon had {peak} KiB at its peak");
        assert!(peak < 600_000, "{peak} KiB");
        scene.let_go("open.victim");
        assert_eq!(scene.ended(VICTIM).await, "");
        let state = scene.lab.state(&scene.builds[VICTIM].0).await;
        assert!(String::from_utf8_lossy(&state).contains(SECRET));
        scene.let_go("end");
        let is_gone = || left(scene.state.path()).is_empty();
        scene.until("the end of all directories", is_gone).await;
        daemon.kill().await.unwrap();
    }
}

/// What stands in the place of a file.
#[derive(Clone, Copy, Debug)]
enum Instead {
    Link,
    Pipe,
}

impl Instead {
    fn put(self, secret: &Path, place: &Path) {
        fs::remove_file(place).ok();
        match self {
            Self::Link => std::os::unix::fs::symlink(secret, place).unwrap(),
            Self::Pipe => nix::unistd::mkfifo(place, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_template_says_of_itself_is_read_from_its_own_files() {
    for instead in [Instead::Link, Instead::Pipe] {
        for name in ["README.md", "main.tf", ".terraform.lock.hcl"] {
            let lab = engine::Lab::new();
            let secret = lab.dir.path().join("secret");
            fs::write(&secret, SECRET).unwrap();
            let mut session = lab.ready(r#"resource "terraform_data" "a" {}"#).await;
            instead.put(&secret, &lab.session_dir().join(name));

            let parsed = timeout(PATIENCE, session.parse(lab.log.clone()))
                .await
                .unwrap();

            let said = format!("{parsed:?}\n{}", lab.log.all());
            assert!(!said.contains(SECRET), "{instead:?} {name}: {said}");
            let is_of_parse = name != ".terraform.lock.hcl";
            assert_eq!(parsed.is_err(), is_of_parse, "{instead:?} {name}: {said}");
            session.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_daemon_writes_for_a_job_lands_in_its_own_files() {
    for instead in [Instead::Link, Instead::Pipe] {
        let lab = engine::Lab::new();
        let secret = lab.dir.path().join("secret");
        fs::write(&secret, SECRET).unwrap();
        let mut session = lab.ready("variable \"v\" { type = string }").await;
        let dir = lab.session_dir();
        instead.put(&secret, &dir.join("terraform.tfstate"));
        let private = format!("{}.private/variables.tfvars", dir.display());
        instead.put(&secret, Path::new(&private));
        let request = PlanRequest {
            state: r#"{"version":4,"terraform_version":"1.0.0","serial":1,"lineage":"l","outputs":{},"resources":[]}"#.into(),
            variables: vec![VariableValue {
                name: "v".to_owned(),
                value: "x".to_owned().into(),
                sensitive: false,
            }],
            ..PlanRequest::default()
        };

        let planned = session.plan(request, lab.log.clone(), &lab.stop);
        let planned = timeout(PATIENCE, planned).await.unwrap();

        assert!(
            planned.is_ok(),
            "{instead:?}: {planned:?}\n{}",
            lab.log.all()
        );
        assert_eq!(fs::read_to_string(&secret).unwrap(), SECRET);
        session.close().await;
    }
}

/// Directories of sessions, but for those that were put aside for a person.
fn left(state_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(state_dir.join("sessions")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with("Session") && !name.ends_with(".aside"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_takes_over_reads_no_more_than_the_one_that_died() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let is_replaced = |recipe: &&Recipe| {
        recipe.errors.first() == Some(&REPLACED) && recipe.name != "hard-link"
            || recipe.name == "nested"
    };
    for isolation in modes().await {
        let recipes: Vec<&Recipe> = RECIPES.iter().filter(is_replaced).collect();
        let scene = Scene::new(&isolation, &recipes).await;
        let mut daemon = scene.daemon();
        scene.health(1).await;
        scene
            .until("a journal with all", || {
                scene.all_are_written_down(&recipes)
            })
            .await;
        scene
            .until("the victim", || scene.has("reached.victim"))
            .await;
        scene.let_go("open");
        let done = |recipe: &&Recipe| scene.has(&format!("done.{}", recipe.name));
        scene.until("the harm", || recipes.iter().all(done)).await;

        daemon.kill().await.unwrap();
        let mut next = scene.daemon();
        let health = scene.health(2).await;

        for recipe in &recipes {
            let error = scene.ended(recipe.name).await;
            assert!(is_alive(&health), "{isolation}: {}", recipe.name);
            assert!(error.contains("daemon died during the build"), "{error}");
            let expected: &'static [&'static str] = match recipe.errors {
                // An engine that was interrupted may have removed what has no bytes.
                [] | [_, REMOVED] => &["daemon died"],
                errors => errors,
            };
            let died = Recipe {
                errors: expected,
                ..**recipe
            };
            scene.check(&died, &error).await;
        }
        let error = scene.ended(VICTIM).await;
        let state = scene.lab.state(&scene.builds[VICTIM].0).await;
        assert!(String::from_utf8_lossy(&state).contains(SECRET), "{error}");
        assert!(next.try_wait().unwrap().is_none(), "{}", scene.log());
        let is_gone = || left(scene.state.path()).is_empty();
        scene.until("the end of all directories", is_gone).await;
        next.kill().await.unwrap();
    }
}
