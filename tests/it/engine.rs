//! Sessions with a real engine. No template here needs a provider from elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use outpost::{
    job::{ExternalAuth, LogLevel, Metadata, ParameterValue, Transition, VariableValue},
    provision::{
        ApplyRequest, GraphSource, InitRequest, LogSink, PlanRequest, Provisioner as _, Session,
        StepFailure,
    },
    stop::Stop,
    terraform::{Engine, EngineConfig, Environment, binary},
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::support::{
    engine::{engine_config, host_environment, session_config},
    skip::skipped,
    wait::until,
};

/// Everything that was logged, and a way to wait for a line.
pub struct Log {
    lines: Mutex<Vec<(LogLevel, String)>>,
    changed: watch::Sender<usize>,
}

impl Log {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    pub fn has(&self, text: &str) -> bool {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .any(|(_, line)| line.contains(text))
    }

    pub async fn wait_for(&self, text: &str) {
        self.changed
            .subscribe()
            .wait_for(|_| self.has(text))
            .await
            .unwrap();
    }

    pub fn all(&self) -> String {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .map(|(level, line)| format!("{level:?} {line}\n"))
            .collect()
    }
}

impl LogSink for Log {
    fn log(&self, level: LogLevel, output: String) {
        self.lines.lock().unwrap().push((level, output));
        self.changed.send_modify(|count| *count += 1);
    }
}

/// An engine in a directory of its own.
pub struct Lab {
    pub dir: TempDir,
    pub log: Arc<Log>,
    pub stop: Stop,
    engine: Engine,
}

impl Lab {
    /// An engine that misbehaves at one step.
    pub fn misbehaving(how: &str, step: &str) -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bin/fake-engine");
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let mut environment = host_environment();
        environment.set("FAKE", how);
        environment.set("FAKE_AT", step);
        environment.set("FAKE_PID_FILE", &pid_file);
        Self::built(dir, binary, environment, Duration::from_millis(300))
    }

    /// An engine that does nothing and does it well, in an environment of `host` and what it is told by.
    pub fn obedient(host: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("env")).unwrap();
        let host = host.iter().map(|(name, value)| (name.into(), value.into()));
        let mut environment = Environment::of_host(host, &["OUTPOST_SECRET".into()]);
        environment.set("PATH", std::env::var_os("PATH").unwrap());
        environment.set("FAKE_LOG", dir.path().join("log"));
        environment.set("FAKE_ENV_DIR", dir.path().join("env"));
        let binary = dir.path().join("fake-engine");
        put_engine(&binary);
        Self::built(dir, binary, environment, Duration::from_secs(60))
    }

    /// The command lines of an obedient engine.
    pub fn called(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    /// The names of the variables that an obedient engine got for one command.
    pub fn variables_of(&self, command: &str) -> Vec<String> {
        let names = fs::read_to_string(self.dir.path().join("env").join(command)).unwrap();
        names.lines().map(str::to_owned).collect()
    }

    pub fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    pub fn within(dir: TempDir) -> Self {
        let binary = binary::find(&std::env::var_os("PATH").unwrap()).unwrap();
        let environment = host_environment();
        Self::built(dir, binary, environment, Duration::from_secs(60))
    }

    fn built(
        dir: TempDir,
        binary: PathBuf,
        environment: Environment,
        exit_timeout: Duration,
    ) -> Self {
        let config = EngineConfig {
            exit_timeout,
            ..engine_config(binary, dir.path().join("work"), environment)
        };
        Self {
            dir,
            log: Log::new(),
            stop: Stop::new(),
            engine: Engine::new(config),
        }
    }

    pub async fn open(&self) -> Box<dyn Session> {
        self.engine.open(session_config()).await.unwrap()
    }

    pub async fn init(
        &self,
        session: &mut dyn Session,
        files: &[(&str, &str)],
    ) -> Result<(), StepFailure> {
        let request = InitRequest {
            template_archive: tar(files),
            ..InitRequest::default()
        };
        session
            .init(request, self.log.clone(), &self.stop)
            .await
            .map(drop)
    }

    /// A session after init.
    pub async fn ready(&self, main: &str) -> Box<dyn Session> {
        let mut session = self.open().await;
        self.init(session.as_mut(), &[("main.tf", main)])
            .await
            .unwrap();
        session
    }

    /// The one session directory that there is.
    pub fn session_dir(&self) -> PathBuf {
        let mut dirs = fs::read_dir(self.dir.path().join("work"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        dirs.find(|dir| !dir.to_str().unwrap().ends_with(".private"))
            .unwrap()
    }

    pub fn lines(&self) -> Vec<(LogLevel, String)> {
        self.log.lines.lock().unwrap().clone()
    }

    pub fn is_clean(&self) -> bool {
        fs::read_dir(self.dir.path().join("work"))
            .unwrap()
            .next()
            .is_none()
    }
}

/// Puts a fake engine at a place, in one step. Another process writes it: a child of ours that is just being started
/// would have it open otherwise, and the system runs no file that somebody may write.
fn put_engine(path: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bin/fake-engine");
    let fresh = path.with_extension("new");
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg(source).arg(&fresh).status().unwrap().success());
    fs::rename(fresh, path).unwrap();
}

pub fn tar(files: &[(&str, &str)]) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    archive.into_inner().unwrap().into()
}

fn request(transition: Transition, state: Bytes) -> PlanRequest {
    PlanRequest {
        metadata: Metadata {
            transition,
            ..Metadata::default()
        },
        state,
        ..PlanRequest::default()
    }
}

const TWO: &str = r#"
resource "terraform_data" "one" { input = 1 }
module "m" { source = "./m" }
"#;
const TWO_M: &str = r#"resource "terraform_data" "two" { input = path.module }"#;

#[tokio::test]
async fn a_build_goes_from_nothing_to_resources_and_back() {
    let lab = Lab::new();
    let mut session = lab.open().await;
    let files = [
        ("main.tf", TWO),
        ("m/main.tf", TWO_M),
        ("README.md", "# Hello"),
    ];
    lab.init(session.as_mut(), &files).await.unwrap();
    assert_eq!(
        session.parse(lab.log.clone()).await.unwrap().readme,
        "# Hello"
    );

    let plan = session
        .plan(
            request(Transition::Start, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();
    assert!(
        plan.timings
            .iter()
            .any(|timing| timing.resource == "coder_stage_plan")
    );
    let applied = session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;
    assert!(applied.failure.is_none(), "{}", lab.log.all());
    let state = applied.state.unwrap();
    let graph = session
        .graph(GraphSource::State, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    let addresses: Vec<_> = graph
        .resources
        .iter()
        .map(|resource| resource.address.as_str())
        .collect();
    assert_eq!(
        addresses,
        ["module.m.terraform_data.two", "terraform_data.one"]
    );
    assert!(session.engine_time() > Duration::ZERO);
    session.close().await;
    assert!(lab.is_clean());

    let mut session = lab.open().await;
    lab.init(session.as_mut(), &files).await.unwrap();
    session
        .plan(
            request(Transition::Destroy, state),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();
    let destroyed = session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;
    assert!(destroyed.failure.is_none());
    let graph = session
        .graph(GraphSource::State, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    assert!(graph.resources.is_empty());
    session.close().await;
}

#[tokio::test]
async fn nothing_is_run_to_destroy_what_never_was() {
    let lab = Lab::new();
    let mut session = lab.ready(TWO_M).await;

    let plan = session
        .plan(
            request(Transition::Destroy, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();
    let applied = session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;
    let graph = session
        .graph(GraphSource::State, lab.log.clone(), &lab.stop)
        .await
        .unwrap();

    assert!(plan.plan.is_empty() && applied.state.is_none() && applied.failure.is_none());
    assert!(graph.resources.is_empty() && lab.log.has("nothing to do"));
    session.close().await;
}

#[tokio::test]
async fn broken_syntax_fails_init_and_is_shown() {
    for (main, said) in [
        ("a", "Argument or block definition required"),
        (";asdf;", "The \";\" character is not valid."),
    ] {
        let lab = Lab::new();
        let mut session = lab.open().await;

        let failure = lab
            .init(session.as_mut(), &[("main.tf", main)])
            .await
            .unwrap_err();

        assert_eq!(failure.error, "initialize terraform: exit status 1");
        assert!(
            failure.diagnostic.is_some() && lab.log.has(said),
            "{}",
            lab.log.all()
        );
        session.close().await;
    }
}

#[tokio::test]
async fn a_missing_variable_fails_the_plan_and_is_named() {
    let lab = Lab::new();
    let mut session = lab.ready(r#"variable "region" {}"#).await;

    let plan = session
        .plan(
            request(Transition::Start, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await;

    let failure = plan.unwrap_err();
    assert_eq!(failure.error, "terraform plan: exit status 1");
    assert_eq!(
        failure.diagnostic.unwrap(),
        "No value for required variable (on main.tf line 1)"
    );
    session.close().await;
}

#[tokio::test]
async fn variables_reach_the_template_by_their_type_and_never_a_command_line() {
    let lab = Lab::new();
    let main = r#"
variable "text" { type = string }
variable "free" {}
variable "list" { type = list(string) }
variable "once" { 
  type      = string
  ephemeral = true
}
resource "terraform_data" "all" { input = [var.text, var.free, join("+", var.list)] }
"#;
    let mut session = lab.ready(main).await;
    let value = |name: &str, value: &str| VariableValue {
        name: name.to_owned(),
        value: value.to_owned().into(),
        sensitive: false,
    };
    let variables = vec![
        value("text", "${not} \"evaluated\""),
        value("free", "[1]"),
        value("list", "[\"a\", \"b\"]"),
        value("once", "token"),
    ];
    let request = PlanRequest {
        variables,
        ..request(Transition::Start, Bytes::new())
    };

    session
        .plan(request, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    let applied = session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;

    assert!(applied.failure.is_none(), "{}", lab.log.all());
    let state: serde_json::Value = serde_json::from_slice(&applied.state.unwrap()).unwrap();
    let input = &state["resources"][0]["instances"][0]["attributes"]["input"]["value"];
    assert_eq!(
        *input,
        serde_json::json!(["${not} \"evaluated\"", "[1]", "a+b"])
    );
    session.close().await;
}

#[tokio::test]
async fn a_cancelled_apply_keeps_what_was_made() {
    let lab = Lab::new();
    let main = r#"
resource "terraform_data" "first" {}
resource "terraform_data" "slow" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" { command = "echo started; exec sleep 600" }
}
"#;
    let mut session = lab.ready(main).await;
    session
        .plan(
            request(Transition::Start, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();

    let applying = session.apply(ApplyRequest::default(), lab.log.clone(), &lab.stop);
    let cancel = async {
        lab.log.wait_for("(local-exec): started").await;
        lab.stop.cancel();
    };
    let (applied, ()) = tokio::join!(applying, cancel);

    assert_eq!(
        applied.failure.unwrap().error,
        "terraform apply: exit status 1"
    );
    let state = String::from_utf8(applied.state.unwrap().to_vec()).unwrap();
    assert!(
        state.contains("\"first\"") && state.contains("tainted"),
        "{state}"
    );
    session.close().await;
}

#[tokio::test]
async fn a_template_sees_what_it_should_of_the_host_and_none_of_our_secrets() {
    let lab = Lab::new();
    let main = r#"
resource "terraform_data" "x" {
  provisioner "local-exec" { command = "env | sort; ls -a" }
}
"#;
    let mut session = lab.ready(main).await;
    let metadata = Metadata {
        workspace_name: "dev".to_owned(),
        ..Metadata::default()
    };
    let request = PlanRequest {
        metadata: metadata.clone(),
        ..PlanRequest::default()
    };
    session
        .plan(request, lab.log.clone(), &lab.stop)
        .await
        .unwrap();

    session
        .apply(ApplyRequest { metadata }, lab.log.clone(), &lab.stop)
        .await;

    assert!(lab.log.has("CODER_WORKSPACE_NAME=dev") && lab.log.has("CHECKPOINT_DISABLE=1"));
    assert!(!lab.log.has(".private") && !lab.log.has("CODER_PROVISIONER_DAEMON_PSK"));
    session.close().await;
}

#[tokio::test]
async fn an_archive_that_leaves_its_directory_is_refused() {
    let lab = Lab::new();
    let mut session = lab.open().await;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..15].copy_from_slice(b"../../../passwd");
    header.set_size(1);
    header.set_cksum();
    archive.append(&header, &b"x"[..]).unwrap();
    let request = InitRequest {
        template_archive: archive.into_inner().unwrap().into(),
        ..InitRequest::default()
    };

    let failure = session
        .init(request, lab.log.clone(), &lab.stop)
        .await
        .unwrap_err();

    assert!(
        failure
            .error
            .contains("refusing to extract to non-local path"),
        "{}",
        failure.error
    );
    session.close().await;
    assert!(lab.is_clean());
}

#[tokio::test]
async fn a_process_that_a_template_starts_in_the_background_lives_on() {
    let lab = Lab::new();
    let pid_file = lab.dir.path().join("pid");
    let main = format!(
        r#"
resource "terraform_data" "x" {{
  provisioner "local-exec" {{ command = "sleep 600 >/dev/null 2>&1 </dev/null & echo $! > {}" }}
}}
"#,
        pid_file.display()
    );
    let mut session = lab.ready(&main).await;
    session
        .plan(
            request(Transition::Start, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();

    let applied = session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;
    session.close().await;

    assert!(applied.failure.is_none(), "{}", lab.log.all());
    let pid: i32 = fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// The first words of command lines.
fn commands(called: &[String]) -> Vec<&str> {
    called
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect()
}

#[tokio::test]
async fn a_build_runs_seven_processes_and_none_has_a_secret_on_its_command_line() {
    let lab = Lab::obedient(&[]);
    let mut session = lab.ready("variable \"password\" {}").await;
    let password = VariableValue {
        name: "password".to_owned(),
        value: "hunter2".to_owned().into(),
        sensitive: true,
    };
    let request = PlanRequest {
        variables: vec![password],
        ..request(Transition::Start, Bytes::new())
    };

    session
        .plan(request, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    session
        .graph(GraphSource::Plan, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;
    session
        .graph(GraphSource::State, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    session.close().await;

    let called = lab.called();
    let mut processes = commands(&called);
    processes[3..5].sort_unstable(); // They run at the same time.
    let expected = ["version", "init", "plan", "graph", "show", "apply", "show"];
    assert_eq!(processes, expected);
    assert!(
        !called.iter().any(|line| line.contains("hunter2")),
        "{called:#?}"
    );
    assert!(called[2].contains(" -var-file="));
    assert!(called[3..5].contains(&"graph -type=plan".to_owned()));
}

#[tokio::test]
async fn an_import_plans_twice_in_one_session() {
    let lab = Lab::obedient(&[]);
    let mut session = lab.ready("").await;

    for transition in [Transition::Start, Transition::Stop] {
        session
            .plan(
                request(transition, Bytes::new()),
                lab.log.clone(),
                &lab.stop,
            )
            .await
            .unwrap();
        session
            .graph(GraphSource::Plan, lab.log.clone(), &lab.stop)
            .await
            .unwrap();
    }
    session.close().await;

    let called = lab.called();
    let mut processes = commands(&called);
    processes[3..5].sort_unstable(); // They run at the same time.
    let expected = ["version", "init", "plan", "graph", "show", "plan", "show"];
    assert_eq!(processes, expected);
}

#[tokio::test]
async fn an_engine_says_its_version_once_until_it_is_replaced() {
    let lab = Lab::obedient(&[]);
    lab.open().await.close().await;
    lab.open().await.close().await;
    assert_eq!(lab.called(), ["version -json"]);

    put_engine(&lab.dir.path().join("fake-engine"));
    lab.open().await.close().await;

    assert_eq!(lab.called(), ["version -json"; 2]);
}

/// What the host has, and what all of the engine's processes see of it.
const HOST: [(&str, &str); 12] = [
    ("AWS_ACCESS_KEY_ID", "x"),
    ("CODER_PROVISIONER_DAEMON_PSK", "x"),
    ("CODER_SESSION_TOKEN", "x"),
    ("CODER_WORKSPACE_NAME", "of the host"),
    ("HOME", "/proc/nonexistent"),
    ("OUTPOST_SECRET", "x"),
    ("TF_CLI_ARGS", "-x"),
    ("TF_CLI_ARGS_plan", "-x"),
    ("TF_DATA_DIR", "x"),
    ("TF_PLUGIN_CACHE_DIR", "x"),
    ("TF_VAR_region", "x"),
    ("TF_WORKSPACE", "x"),
];
/// There is no lock file in the template.
const MAY_BREAK_LOCK: &str = "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE";
const PASSED: [&str; 8] = [
    "AWS_ACCESS_KEY_ID",
    "CHECKPOINT_DISABLE",
    "FAKE_ENV_DIR",
    "FAKE_LOG",
    "HOME",
    "PATH",
    "TF_PLUGIN_CACHE_DIR",
    "TF_VAR_region",
];

/// What plan and apply get on top, for the request of the test.
const FOR_PROVIDERS: [&str; 26] = [
    "AWS_SDK_UA_APP_ID",
    "CODER_AGENT_URL",
    "CODER_EXTERNAL_AUTH_ACCESS_TOKEN_github",
    "CODER_GIT_AUTH_ACCESS_TOKEN_github",
    // SHA-256 of "region", and of "size".
    "CODER_PARAMETER_c697d2981bf416569a16cfbcdec1542b5398f3cc77d2b905819aa99c46ecf6f6",
    "CODER_PARAMETER_PREVIOUS_ccdcbe846f3da4eb044fbdf64bf6b57902388ab72fb0c852ba72280f8d478b40",
    "CODER_TASK_ID",
    "CODER_TASK_PROMPT",
    "CODER_WORKSPACE_BUILD_ID",
    "CODER_WORKSPACE_ID",
    "CODER_WORKSPACE_NAME",
    "CODER_WORKSPACE_OWNER",
    "CODER_WORKSPACE_OWNER_EMAIL",
    "CODER_WORKSPACE_OWNER_GROUPS",
    "CODER_WORKSPACE_OWNER_ID",
    "CODER_WORKSPACE_OWNER_LOGIN_TYPE",
    "CODER_WORKSPACE_OWNER_NAME",
    "CODER_WORKSPACE_OWNER_OIDC_ACCESS_TOKEN",
    "CODER_WORKSPACE_OWNER_RBAC_ROLES",
    "CODER_WORKSPACE_OWNER_SESSION_TOKEN",
    "CODER_WORKSPACE_OWNER_SSH_PRIVATE_KEY",
    "CODER_WORKSPACE_OWNER_SSH_PUBLIC_KEY",
    "CODER_WORKSPACE_TEMPLATE_ID",
    "CODER_WORKSPACE_TEMPLATE_NAME",
    "CODER_WORKSPACE_TEMPLATE_VERSION",
    "CODER_WORKSPACE_TRANSITION",
];

#[tokio::test]
async fn each_process_gets_exactly_the_variables_that_it_needs() {
    let lab = Lab::obedient(&HOST);
    let parameter = |name: &str| ParameterValue {
        name: name.to_owned(),
        value: "x".to_owned(),
    };
    let auth = ExternalAuth {
        id: "github".to_owned(),
        access_token: "x".to_owned().into(),
    };
    let request = PlanRequest {
        parameters: vec![parameter("region")],
        previous_parameters: vec![parameter("size")],
        external_auth: vec![auth],
        ..request(Transition::Start, Bytes::new())
    };
    let mut session = lab.ready("").await;
    session
        .plan(request, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;
    session
        .graph(GraphSource::State, lab.log.clone(), &lab.stop)
        .await
        .unwrap();
    session.close().await;

    assert_eq!(lab.variables_of("version"), PASSED);
    let mut expected = [&PASSED[..], &[MAY_BREAK_LOCK]].concat();
    expected.sort_unstable();
    for command in ["init", "show", "graph"] {
        assert_eq!(lab.variables_of(command), expected, "{command}");
    }
    expected.extend(FOR_PROVIDERS);
    expected.sort_unstable();
    for command in ["plan", "apply"] {
        assert_eq!(lab.variables_of(command), expected, "{command}");
    }
}

#[tokio::test]
async fn a_session_that_nobody_closed_leaves_nothing_behind() {
    let lab = Lab::obedient(&[]);

    drop(lab.ready("variable \"password\" {}").await);

    // Nobody waits for the removal.
    until("nothing is left", async || lab.is_clean()).await;
}

/// The processes whose group is `group`.
fn group_members(group: i32) -> usize {
    let is_member = |entry: &fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let mut fields = fields.split(' ');
        fields.next() != Some("Z")
            && fields
                .nth(1)
                .is_some_and(|field| field == group.to_string())
    };
    fs::read_dir("/proc")
        .unwrap()
        .map(Result::unwrap)
        .filter(is_member)
        .count()
}

#[tokio::test]
async fn an_engine_that_ignores_the_interrupt_is_killed_with_its_group() {
    for step in ["init", "plan", "apply"] {
        let lab = Lab::misbehaving("deaf", step);
        let mut session = lab.open().await;
        let dir = lab.session_dir();
        let run = async {
            lab.init(session.as_mut(), &[("main.tf", "")]).await?;
            session
                .plan(
                    request(Transition::Start, Bytes::new()),
                    lab.log.clone(),
                    &lab.stop,
                )
                .await?;
            let applied = session
                .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
                .await;
            applied.failure.map_or(Ok(()), Err)
        };
        let cancel = async {
            lab.log.wait_for("started").await;
            let group = fs::read_dir("/proc")
                .unwrap()
                .map(Result::unwrap)
                .find_map(|entry| {
                    let at = fs::read_link(entry.path().join("cwd")).ok()?;
                    let id = entry.file_name().to_str()?.parse::<i32>().ok()?;
                    (at == dir).then(|| {
                        nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(id)))
                            .unwrap()
                            .as_raw()
                    })
                });
            lab.stop.cancel();
            group.unwrap()
        };

        let (result, group) = tokio::join!(run, cancel);

        assert!(
            result.unwrap_err().error.contains("signal: killed"),
            "{step}"
        );
        // A signal is delivered, not waited for: what was killed may take a moment to be gone.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while group_members(group) > 0 {
            assert!(
                std::time::Instant::now() < deadline,
                "{step} left processes behind"
            );
            tokio::task::yield_now().await;
        }
        session.close().await;
        assert!(lab.is_clean());
    }
}

#[tokio::test]
async fn a_child_that_holds_the_pipes_delays_a_step_by_seconds_only() {
    let lab = Lab::misbehaving("clingy", "init");
    let mut session = lab.open().await;
    let started = std::time::Instant::now();

    lab.init(session.as_mut(), &[("main.tf", "")])
        .await
        .unwrap();

    assert!(started.elapsed() < Duration::from_secs(30));
    let pid: i32 = fs::read_to_string(lab.dir.path().join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert!(lab.log.has("done"));
    session.close().await;
}

#[tokio::test]
async fn a_line_without_end_comes_in_pieces_and_what_follows_is_kept() {
    let lab = Lab::misbehaving("endless", "plan");
    let mut session = lab.ready("").await;

    session
        .plan(
            request(Transition::Start, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();

    let lines = lab.lines();
    let lengths = || lines.iter().map(|(_, line)| line.len());
    assert!(lengths().all(|length| length <= 1 << 20));
    assert!(lengths().sum::<usize>() >= 64 << 20);
    assert!(lab.log.has("after the line"));
    session.close().await;
}

#[tokio::test]
async fn output_that_is_no_text_is_made_readable() {
    let lab = Lab::misbehaving("garbled", "init");
    let mut session = lab.open().await;

    let failure = lab
        .init(session.as_mut(), &[("main.tf", "")])
        .await
        .unwrap_err();

    assert_eq!(failure.error, "initialize terraform: exit status 1");
    assert!(
        lab.log.has("a\u{fffd}b\u{fffd}c") && lab.log.has("last"),
        "{}",
        lab.log.all()
    );
    session.close().await;
}

#[tokio::test]
async fn a_state_that_was_only_printed_is_kept_and_never_logged() {
    let lab = Lab::misbehaving("distress", "apply");
    let mut session = lab.ready("").await;
    session
        .plan(
            request(Transition::Start, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();

    let applied = session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;

    let state: serde_json::Value = serde_json::from_slice(&applied.state.unwrap()).unwrap();
    assert_eq!(state["padding"].as_str().unwrap().len(), 3_000_000);
    assert!(!lab.log.has("xxxx") && lab.log.has("Emergency state dump"));
    assert!(
        lab.log.has("the state that it printed instead is used"),
        "{}",
        lab.log.all()
    );
    session.close().await;
}

#[tokio::test]
async fn a_state_that_was_saved_elsewhere_is_kept_unless_it_is_the_templates() {
    for (mode, kept) in [
        ("rescue", Some(&br#"{"version":4,"serial":7}"#[..])),
        ("well", None),
    ] {
        let lab = Lab::misbehaving(mode, "apply");
        let mut session = lab.open().await;
        let stale = r#"{"version":4,"serial":99}"#;
        let files = [("main.tf", ""), ("errored.tfstate", stale)];
        lab.init(session.as_mut(), &files).await.unwrap();
        let request = request(Transition::Start, Bytes::new());
        session
            .plan(request, lab.log.clone(), &lab.stop)
            .await
            .unwrap();

        let applied = session
            .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
            .await;

        assert_eq!(applied.state.as_deref(), kept, "{}", lab.log.all());
        assert_eq!(applied.failure.is_some(), kept.is_some());
        assert_eq!(lab.log.has("errored.tfstate is used"), kept.is_some());
        session.close().await;
    }
}

/// Runs itself again in a mount namespace with a small disk, where the kernel allows.
#[test]
fn an_apply_on_a_full_disk_keeps_the_state() {
    const DISK: &str = "OUTPOST_TEST_SMALL_DISK";
    if let Some(disk) = std::env::var_os(DISK) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(apply_on_full_disk(Path::new(&disk)));
    }
    let disk = tempfile::tempdir().unwrap();
    let script =
        r#"mount -t tmpfs -o size=1m tmpfs "$1" && touch "$1/.mounted" && exec "$2" --exact "$3""#;
    let name = "engine::an_apply_on_a_full_disk_keeps_the_state";
    let mut child = std::process::Command::new("unshare");
    child.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    child
        .arg(disk.path())
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(DISK, disk.path());
    let output = child.output();
    let said = output
        .as_ref()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if !said.contains("running 1 test") {
        return skipped("namespaces", format!("{output:?}"));
    }
    assert!(output.unwrap().status.success(), "{said}");
}

async fn apply_on_full_disk(disk: &Path) {
    let lab = Lab::within(TempDir::new_in(disk).unwrap());
    let main = r#"
resource "terraform_data" "first" {
  input = "precious"
  provisioner "local-exec" { command = "dd if=/dev/zero of=fill bs=4096 2>/dev/null || true" }
}
"#;
    let mut session = lab.ready(main).await;
    session
        .plan(
            request(Transition::Start, Bytes::new()),
            lab.log.clone(),
            &lab.stop,
        )
        .await
        .unwrap();

    let applied = session
        .apply(ApplyRequest::default(), lab.log.clone(), &lab.stop)
        .await;

    assert!(applied.failure.is_some(), "{}", lab.log.all());
    let state = applied
        .state
        .unwrap_or_else(|| panic!("no state\n{}", lab.log.all()));
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(
        state["resources"][0]["instances"][0]["attributes"]["input"]["value"],
        "precious"
    );
    assert!(
        lab.log.has("the state that it printed instead is used"),
        "{}",
        lab.log.all()
    );
    session.close().await;
}
