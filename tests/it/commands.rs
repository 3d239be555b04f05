//! Commands of people at a server: who they are, what they may do, and what they see while the server goes away.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cli::outpost,
    remote::{Server, Service, TEMPLATE},
    support::terminal::Terminal,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Somebody with a home of their own.
struct Person(TempDir);

impl Person {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = outpost();
        command.env("HOME", self.0.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}:\n{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The reason why a command fails.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        said(&output)
    }

    /// Logs in with the token typed, as it were.
    fn log_in(&self, server: &Server, token: &str) -> Output {
        let mut child = self
            .command(&["login", &server.url, "--name", "lab"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let typed = child.stdin.take().unwrap();
        writeln!({ typed }, "{token}").unwrap();
        child.wait_with_output().unwrap()
    }

    fn saved(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(".config/outpost/contexts").join(name)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn first_token(server: &Server) -> String {
    let token = fs::read_to_string(server.path("data/admin.token")).unwrap();
    token.trim().to_owned()
}

fn administrator(server: &Server) -> Person {
    let person = Person::new();
    let output = person.log_in(server, &first_token(server));
    assert!(output.status.success(), "{}", said(&output));
    person
}

#[test]
fn a_login_is_saved_for_its_owner_and_its_token_goes_to_its_server_only() {
    let server = Server::start();
    let person = Person::new();
    let token = first_token(&server);

    let wrong = person.log_in(&server, "hunter2hunter2");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        said(&wrong).contains("does not accept the token"),
        "{}",
        said(&wrong)
    );
    assert!(!person.saved("lab.json").exists());
    let output = person.log_in(&server, &token);
    assert!(output.status.success(), "{}", said(&output));
    let shown = [output.stdout.clone(), output.stderr.clone()].concat();
    assert!(!String::from_utf8_lossy(&shown).contains(&token));
    for file in ["lab.json", "lab.token"] {
        let mode = fs::metadata(person.saved(file)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
    }
    assert!(
        !fs::read_to_string(person.saved("lab.json"))
            .unwrap()
            .contains(&token)
    );

    let oneself = person.json(&["whoami"]);
    assert_eq!(
        (&oneself["user"], &oneself["context"]),
        (&"admin".into(), &"lab".into())
    );
    assert_eq!(person.json(&["context", "list"])[0]["current"], true);
    let elsewhere = person.refused(&["template", "list", "--url", "http://127.0.0.1:9"]);
    assert!(
        elsewhere.contains("not logged in to http://127.0.0.1:9"),
        "{elsewhere}"
    );
    let both = person.refused(&["whoami", "--url", &server.url, "--context", "lab"]);
    assert!(both.contains("cannot be used with"), "{both}");

    assert!(person.run(&["logout"]).status.success());
    assert!(!person.saved("lab.token").exists());
    assert_eq!(person.run(&["whoami"]).status.code(), Some(2));
}

#[test]
fn users_and_their_tokens_come_and_go() {
    let server = Server::start();
    let admin = administrator(&server);
    let (amy, file) = (Person::new(), server.path("amy.token"));
    let file = file.to_str().unwrap();

    admin.json(&[
        "user",
        "create",
        "amy",
        "--full-name",
        "Amy A",
        "--budget",
        "7",
    ]);
    admin.json(&[
        "token", "create", "--user", "amy", "--name", "laptop", "--file", file,
    ]);
    let mode = fs::metadata(file).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let again = admin.refused(&["token", "create", "--user", "amy", "--file", file]);
    assert!(again.contains("exists already"), "{again}");
    let logged_in = amy.run(&["login", &server.url, "--token-file", file]);
    assert!(logged_in.status.success(), "{}", said(&logged_in));

    let seen = amy.json(&["user", "list"]);
    assert_eq!(seen.as_array().unwrap().len(), 1);
    assert_eq!(amy.json(&["user", "show"])["budget"], 7);
    for refused in [
        &["user", "create", "bob"][..],
        &["user", "edit", "amy", "--role", "admin"],
        &["user", "delete", "admin", "--yes"],
        &["organization", "create", "other"],
        &["token", "list", "--user", "admin"],
        &["provisioner", "delete", "one", "--yes"],
        &["provisioner", "key", "list"],
        &["audit"],
    ] {
        let why = amy.refused(refused);
        assert!(why.contains("needs an administrator"), "{refused:?}: {why}");
    }

    admin.json(&["organization", "create", "other"]);
    assert_eq!(
        admin
            .json(&["organization", "list"])
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let deleted = admin.run(&["organization", "delete", "other", "--yes"]);
    assert!(deleted.status.success(), "{}", said(&deleted));
    let default = admin.refused(&["organization", "delete", "default", "--yes"]);
    assert!(default.contains("cannot be deleted"), "{default}");

    let suspended = admin.json(&["user", "suspend", "amy"]);
    assert_eq!(suspended[0]["status"], "suspended");
    let refused = amy.refused(&["whoami"]);
    assert!(refused.contains("user is suspended"), "{refused}");
    assert!(!refused.contains("outpost login"), "{refused}");
    admin.json(&["user", "activate", "amy"]);
    assert_eq!(amy.json(&["whoami"])["user"], "amy");
    let edited = admin.json(&["user", "edit", "amy", "--role", "admin", "--budget", "none"]);
    assert_eq!(
        (&edited[0]["role"], &edited[0]["budget"]),
        (&"admin".into(), &Value::Null)
    );
    let mut here = admin.command(&["token", "create", "--name", "here", "--file", "here.token"]);
    let made = here.current_dir(server.path("data")).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    assert!(server.path("data/here.token").exists());
    let key = server.path("site.key");
    let key = key.to_str().unwrap();
    let create = [
        "provisioner",
        "key",
        "create",
        "site",
        "--tag",
        "a=b",
        "--file",
        key,
    ];
    assert_eq!(admin.json(&create)[0].get("value"), None);
    let mode = fs::metadata(key).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert!(admin.refused(&create).contains("exists already"));
    let unasked = admin.refused(&["user", "delete", "amy"]);
    assert!(
        unasked.contains("no terminal to ask for confirmation") && unasked.contains("--yes"),
        "{unasked}"
    );
    assert!(
        admin
            .run(&["user", "delete", "amy", "--yes"])
            .status
            .success()
    );
    assert!(
        amy.refused(&["whoami"])
            .contains("does not accept the token")
    );

    let newest = admin.json(&["audit", "--limit", "1"]);
    assert_eq!(newest.as_array().unwrap().len(), 1);
    assert_eq!(
        (
            &newest[0]["actor"],
            &newest[0]["action"],
            &newest[0]["target"]
        ),
        (&"admin".into(), &"user.delete".into(), &"amy".into())
    );
    let older = admin.json(&["audit", "--before", &newest[0]["id"].to_string()]);
    assert_eq!(older[0]["action"], "key.create");
}

#[tokio::test]
async fn a_list_that_is_watched_is_drawn_in_its_own_place_on_a_terminal() {
    let server = Server::start();
    let admin = administrator(&server);
    let program = pty_process::Command::new(env!("CARGO_BIN_EXE_outpost"))
        .env("HOME", admin.0.path())
        .args(["workspace", "list", "--watch"]);
    let mut terminal = Terminal::open(program);

    let shown = terminal.until("Workspace").await;

    assert!(shown.starts_with("\x1b[H\x1b[J"), "{shown:?}");
    terminal.say("\x03").await;
    let (_, status) = terminal.end().await;
    assert!(status.success(), "{status}");
}

#[test]
fn a_rotated_token_goes_on_where_it_is_kept_and_nowhere_else() {
    let server = Server::start();
    let admin = administrator(&server);
    let old = first_token(&server);

    let rotated = admin.run(&["token", "rotate"]);

    assert!(rotated.status.success(), "{}", said(&rotated));
    let new = first_token(&server);
    assert_ne!(new, old);
    let shown = [rotated.stdout.clone(), rotated.stderr.clone()].concat();
    assert!(!String::from_utf8_lossy(&shown).contains(&new));
    assert_eq!(admin.json(&["whoami"])["user"], "admin");
    let mut stale = outpost();
    stale
        .args(["whoami", "--url", &server.url])
        .env("OUTPOST_TOKEN", old);
    assert!(said(&stale.output().unwrap()).contains("does not accept the token"));

    admin.json(&["token", "create", "--name", "ci", "--lifetime", "1h"]);
    let listed = admin.json(&["token", "list"]);
    let ci = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "ci")
        .unwrap();
    let short = &ci["id"].as_str().unwrap()[..8];
    let renewed = admin.json(&["token", "rotate", short]);
    assert_eq!(renewed["name"], "ci");
    assert!(
        admin
            .run(&["token", "delete", "ci", "--yes"])
            .status
            .success()
    );
    let gone = admin.refused(&["token", "delete", short, "--yes"]);
    assert!(gone.contains("there is no token"), "{gone}");
}

fn template(server: &Server, name: &str, text: &str) -> String {
    let directory = server.path(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("main.tf"), text).unwrap();
    directory.to_str().unwrap().to_owned()
}

#[test]
fn a_workspace_is_planned_renamed_updated_and_its_state_carried_out_and_back() {
    let server = Server::start();
    let admin = administrator(&server);
    let mut daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &[]));
    daemon.wait_for("registered at the control plane");
    let directory = template(&server, "small", TEMPLATE);
    admin.json(&["template", "push", "small", &directory]);

    let planned = admin.json(&["template", "dry-run", "small"]);
    assert_eq!(planned.as_array().unwrap().len(), 2);
    assert_eq!(admin.json(&["list"]), serde_json::json!([]));
    let queued = admin.json(&["create", "mine", "-t", "small", "--no-wait"]);
    assert!(
        ["pending", "starting", "running"]
            .contains(&queued["workspace"]["status"].as_str().unwrap())
    );
    let job = admin.json(&["job", "list", "--limit", "1"])[0]["id"].clone();
    let ended = admin.json(&["job", "show", "--wait", &job.as_str().unwrap()[..8]]);
    assert_eq!(
        (&ended["job"]["id"], &ended["job"]["status"]),
        (&job, &"succeeded".into())
    );

    let up_to_date = admin.run(&["update", "mine"]);
    assert!(said(&up_to_date).contains("already uses the active version of its template"));
    admin.json(&["template", "push", "small", &directory]);
    assert_eq!(
        admin.json(&["update", "mine"])["workspace"]["version"],
        "v2"
    );
    let builds = admin.json(&["workspace", "builds", "mine"]);
    let transitions: Vec<_> = builds
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["transition"])
        .collect();
    assert_eq!(transitions, ["start", "stop", "start"]);

    let unasked = admin.refused(&["rename", "mine", "yours"]);
    assert!(
        unasked.contains("replaces resources whose names contain it"),
        "{unasked}"
    );
    admin.json(&["rename", "mine", "yours", "--yes"]);
    admin.json(&["template", "rename", "small", "tiny"]);
    assert_eq!(
        admin.json(&["show", "yours"])["workspace"]["template"],
        "tiny"
    );

    let kept = server.path("kept.tfstate");
    let kept = kept.to_str().unwrap();
    assert!(
        admin
            .run(&["state", "pull", "yours", kept])
            .status
            .success()
    );
    assert_eq!(
        fs::metadata(kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        admin
            .refused(&["state", "pull", "yours", kept])
            .contains("exists already")
    );
    let text = fs::read_to_string(kept).unwrap();
    let mut state: Value = serde_json::from_str(&text).unwrap();
    let same = admin.refused(&["state", "push", "yours", kept, "--yes"]);
    assert!(same.contains("has this state already"), "{same}");
    state["serial"] = (state["serial"].as_i64().unwrap() + 1).into();
    fs::write(kept, state.to_string()).unwrap();
    let pushed = admin.run(&["state", "push", "yours", kept, "--yes"]);
    assert!(
        said(&pushed).contains("state after build 3"),
        "{}",
        said(&pushed)
    );

    let online = admin.refused(&["provisioner", "delete", "one", "--yes"]);
    assert!(online.contains("not offline"), "{online}");
    let used = admin.refused(&["template", "delete", "tiny", "--yes"]);
    assert!(used.contains("is made from this template"), "{used}");
    assert_eq!(admin.run(&["delete", "yours"]).status.code(), Some(2));
    admin.json(&["delete", "yours", "--yes"]);
    assert!(
        admin
            .run(&["template", "delete", "tiny", "--yes"])
            .status
            .success()
    );
}

/// What a process says on stderr, line by line.
struct Telling {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Telling {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in said.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("`{text}` was never said"));
            if line.contains(text) {
                return line;
            }
        }
    }
}

#[test]
fn whoever_waits_is_told_why_and_outlasts_a_restart_of_the_server() {
    let mut server = Server::start();
    let admin = administrator(&server);
    let directory = template(&server, "small", TEMPLATE);
    let mut pushing =
        Telling::start(&mut admin.command(&["template", "push", "small", &directory]));

    let why = pushing.wait_for("Waiting for a provisioner daemon");
    assert!(
        why.contains("position 1 of 1: no daemon is registered"),
        "{why}"
    );
    server.restart();
    pushing.wait_for("Lost the connection to the server.");
    pushing.wait_for("Connected again.");
    let mut daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &[]));
    daemon.wait_for("registered at the control plane");

    assert!(pushing.child.wait().unwrap().success());
    assert_eq!(admin.json(&["template", "list"])[0]["active_version"], "v1");
}

#[test]
fn sigterm_ends_a_wait_and_not_the_build_which_ssh_waits_for() {
    let server = Server::start();
    let admin = administrator(&server);
    let directory = template(&server, "small", TEMPLATE);
    let mut daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &[]));
    daemon.wait_for("registered at the control plane");
    let pushed = admin.run(&["template", "push", "small", &directory]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    daemon.stop();

    let mut creating = Telling::start(&mut admin.command(&["create", "yours", "-t", "small"]));
    creating.wait_for("Waiting for a provisioner daemon");
    let pid = Pid::from_raw(creating.child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    creating.wait_for("goes on at the server");
    assert_eq!(creating.child.wait().unwrap().code(), Some(130));

    let mut reaching = Telling::start(&mut admin.command(&["ssh", "yours"]));
    reaching.wait_for("Waiting: the workspace yours is pending.");
    let mut daemon = Service::start(&mut server.daemon("two", &server.path("psk"), &[]));
    daemon.wait_for("registered at the control plane");
    reaching.wait_for("Waiting for the agent main to come up."); // Nobody starts it.
    assert_eq!(admin.json(&["list"])[0]["status"], "running");
    reaching.child.kill().unwrap();
    reaching.child.wait().unwrap();
}

#[test]
fn a_value_for_a_variable_that_a_template_lacks_is_refused_before_anything_is_sent() {
    let server = Server::start();
    let admin = administrator(&server);
    let text = format!("{TEMPLATE}\nvariable \"region\" {{\n  default = \"eu\"\n}}\n");
    let directory = template(&server, "small", &text);

    let push = [
        "template",
        "push",
        "small",
        &directory,
        "--variable",
        "regoin=us",
    ];
    let output = admin.run(&push);

    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("has no variable `regoin`, only: region"),
        "{}",
        said(&output)
    );
    assert_eq!(admin.json(&["job", "list"]), serde_json::json!([]));
}

#[test]
fn a_server_listens_at_every_address_where_none_is_named() {
    let server = Server::at(":0", &[]);
    let admin = administrator(&server);

    assert_eq!(admin.json(&["whoami"])["user"], "admin");
}

#[test]
fn commands_that_reach_agents_send_the_headers_that_a_proxy_asks_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(&stream).lines().map(Result::unwrap);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        (&stream).write_all(refusal.as_bytes()).unwrap();
        head.join("\n").to_lowercase()
    });

    let refused = Person::new().refused(&[
        "ping",
        "dev",
        "--url",
        &url,
        "--token",
        "none",
        "--header",
        "X-Front=open",
        "--header-command",
        "echo X-More=yes",
    ]);

    let asked = asked.join().unwrap();
    assert!(
        asked.contains("x-front: open") && asked.contains("x-more: yes"),
        "{asked}"
    );
    assert!(refused.contains("403"), "{refused}");
}

#[test]
fn names_are_completed_from_the_server_and_without_one_nothing_is_said() {
    let server = Server::start();
    let admin = administrator(&server);
    admin.json(&["user", "create", "amy"]);
    let complete = |person: &Person, words: &[&str]| {
        let mut command = person.command(&["--", "outpost"]);
        command.args(words).env("OUTPOST_COMPLETE", "fish");
        let output = command.output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            said(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    };

    let users = complete(&admin, &["user", "delete", "a"]);
    let names: Vec<&str> = users
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(names, ["admin", "amy"]);
    assert!(complete(&admin, &["con"]).contains("config-ssh"));
    assert!(complete(&admin, &["sho"]).contains("show"));
    for words in [&["workspace", "start", "--no"][..], &["start", "--no"]] {
        assert!(complete(&admin, words).contains("--no-wait"), "{words:?}");
    }
    assert!(complete(&admin, &["whoami", "--context", ""]).contains("lab"));
    assert_eq!(complete(&Person::new(), &["user", "delete", "a"]), "");
}
