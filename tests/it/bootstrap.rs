//! The script that starts an agent, in the shells that machines have, against servers and machines where something is
//! wrong.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, LazyLock, Mutex},
};

use axum::{Router, body::Body, extract::State, http::Response, routing::get};
use futures::StreamExt as _;
use outpost::{
    mirror::Digest,
    net::listener::{Limits, Listener},
    stop::Stop,
    terraform::bootstrap::scripts,
};
use tempfile::TempDir;

use crate::{daemon::authority, support::skip::skipped};

/// A program that is what an agent is to the script. Built once.
static AGENT: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("agent.c");
    let text = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "--version")) { puts("Coder v2.99.0"); return 0; }
    printf("%s %s %s\n", words[1], getenv("CODER_AGENT_AUTH"), getenv("CODER_AGENT_URL"));
    return 7;
}
"#;
    fs::write(&source, text).unwrap();
    let program = dir.path().join("agent");
    let built = Command::new("cc")
        .arg("-o")
        .args([&program, &source])
        .status();
    built
        .is_ok_and(|status| status.success())
        .then(|| fs::read(program).unwrap())
});

/// What a server does with a request, the first entry with the first one; the last entry stays.
#[derive(Clone)]
enum Answer {
    Good,
    Page,
    Status(u16),
    Truncated,
    Other,
}

#[derive(Clone)]
struct Server(Arc<Mutex<Vec<Answer>>>);

async fn answer(State(Server(answers)): State<Server>) -> Response<Body> {
    let answer = {
        let mut answers = answers.lock().unwrap();
        match answers.len() {
            1 => answers[0].clone(),
            _ => answers.remove(0),
        }
    };
    let agent = AGENT.clone().unwrap();
    let response = Response::builder();
    let page = "<html><head><title>Sign in</title></head><body>to the guest network</body></html>";
    match answer {
        Answer::Good => response.body(Body::from(agent)),
        Answer::Page => response
            .header("content-type", "text/html")
            .body(Body::from(page)),
        Answer::Status(status) => response.status(status).body(Body::from("no upstream")),
        Answer::Other => {
            let mut other = agent;
            let last = other.len() - 1;
            other[last] ^= 1;
            response.body(Body::from(other))
        }
        Answer::Truncated => {
            let half = agent[..agent.len() / 2].to_vec();
            let pieces = [Ok(half), Err(std::io::Error::other("broken"))];
            let length = agent.len();
            // The pause lets the first piece go out alone.
            let pieces = futures::stream::iter(pieces).then(async |piece| {
                tokio::task::yield_now().await;
                piece
            });
            let body = Body::from_stream(pieces);
            response.header("content-length", length).body(body)
        }
    }
    .unwrap()
}

/// A machine with some tools, whose agent comes from a server.
struct Machine {
    dir: TempDir,
    url: String,
    env: Vec<(String, String)>,
    authority: Option<PathBuf>,
}

/// What scripts use besides the tools that they can do without.
const BASICS: &[&str] = &[
    "sh",
    "cat",
    "chmod",
    "cut",
    "date",
    "head",
    "id",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "od",
    "printf",
    "rm",
    "rmdir",
    "sed",
    "sha256sum",
    "sleep",
    "tail",
    "tr",
];

impl Machine {
    async fn new(answers: &[Answer]) -> Option<Self> {
        Self::of(answers, false).await
    }

    async fn of(answers: &[Answer], has_tls: bool) -> Option<Self> {
        if AGENT.is_none() {
            skipped("bootstrap scripts", "no C compiler to make an agent");
            return None;
        }
        outpost::net::install_crypto_provider();
        let dir = TempDir::new().unwrap();
        let (pem, tls) = authority(dir.path());
        let tls = has_tls.then_some(tls);
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), tls.as_ref(), Limits::standard());
        let listener = listener.await.unwrap();
        let url = listener.url().to_string();
        let server = Server(Arc::new(Mutex::new(answers.to_vec())));
        let routes = Router::new().fallback(get(answer)).with_state(server);
        tokio::spawn(listener.serve(routes, Stop::new()));
        let authority = dir.path().join("authority.pem");
        fs::write(&authority, pem).unwrap();
        for place in ["bin", "tmp", "home"] {
            fs::create_dir(dir.path().join(place)).unwrap();
        }
        let machine = Self {
            dir,
            url,
            env: Vec::new(),
            authority: has_tls.then_some(authority),
        };
        BASICS.iter().for_each(|tool| machine.has(tool));
        Some(machine)
    }

    /// Puts a tool of this machine on the path of that one, if there is one.
    fn has(&self, tool: &str) {
        if let Ok(mut place) = which::which(tool) {
            if tool == "python3" {
                // Some put a script around it, which wants more than a bare machine has.
                let code = "import os, sys; print(os.path.realpath(sys.executable))";
                let output = Command::new(place).args(["-c", code]).output().unwrap();
                place = String::from_utf8(output.stdout).unwrap().trim().into();
            }
            symlink(place, self.path("bin").join(tool)).unwrap();
        }
    }

    /// A tool that always fails.
    fn has_broken(&self, tool: &str) {
        self.has_script(tool, "echo \"it is broken\" >&2\nexit 3");
    }

    /// A `tr` that takes `[:print:]` for a list of letters, as that of a small BusyBox does; this one fails at once.
    fn has_tr_without_classes(&self) {
        let tr = which::which("tr").unwrap();
        let body = format!(
            "case \"$*\" in *'[:'*) exit 3 ;; esac\nexec {} \"$@\"",
            tr.display()
        );
        fs::remove_file(self.path("bin").join("tr")).unwrap();
        self.has_script("tr", &body);
    }

    fn has_script(&self, tool: &str, body: &str) {
        let path = self.path("bin").join(tool);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self) -> String {
        let script = &scripts(None).unwrap()["linux_amd64"];
        script
            .replace("${ACCESS_URL}", &self.url)
            .replace("${AUTH_TYPE}", "token")
    }

    /// Runs it as templates do: `SHELL -c SCRIPT`. What stands before that are a program and its words.
    async fn run(&self, before: &[&str]) -> Ended {
        let (first, words) = before.split_first().unwrap();
        let mut command = Command::new(first);
        command
            .args(words)
            .args(["-c", &self.script()])
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("BOOTSTRAP_LINGER_SECONDS", "0")
            .env("BOOTSTRAP_PAUSE_SECONDS", "0")
            .env("BOOTSTRAP_ATTEMPTS", "2")
            .envs(self.env.iter().cloned())
            .current_dir(self.dir.path());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        Ended(output.await.unwrap())
    }
}

struct Ended(Output);

impl Ended {
    #[track_caller]
    fn became_the_agent(&self, url: &str) {
        let out = String::from_utf8_lossy(&self.0.stdout);
        assert_eq!(out.trim(), format!("agent token {url}"), "{}", self.said());
        assert_eq!(self.0.status.code(), Some(7), "{}", self.said());
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// The line for machines.
    #[track_caller]
    fn error(&self) -> serde_json::Value {
        let said = self.said();
        let line = said
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("agent-bootstrap-error: "));
        serde_json::from_str(line.unwrap_or_else(|| panic!("no error in {said}"))).unwrap()
    }
}

fn shells() -> Vec<Vec<String>> {
    let found = ["dash", "bash", "busybox"].into_iter().filter_map(|name| {
        let Ok(place) = which::which(name) else {
            skipped("the bootstrap script", format!("no {name} to run it"));
            return None;
        };
        let place = place.display().to_string();
        Some(match name {
            "busybox" => vec![place, "ash".to_owned()],
            _ => vec![place],
        })
    });
    found.collect()
}

fn is_here(tool: &str) -> bool {
    which::which(tool).is_ok()
}

/// The tools that are here; the other ones are listed as skipped.
fn fetchers(tools: &[&'static str]) -> Vec<&'static str> {
    let is_here = |tool: &&&str| {
        let is_here = is_here(tool);
        if !is_here {
            skipped("the bootstrap script", format!("no {tool} to fetch with"));
        }
        is_here
    };
    tools.iter().filter(is_here).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_is_fetched_checked_and_started_in_every_shell_with_every_tool() {
    for shell in shells() {
        for tool in fetchers(&["curl", "wget", "busybox", "python3"]) {
            let Some(mut machine) = Machine::new(&[Answer::Good]).await else {
                return;
            };
            machine.has(tool);
            machine.set(
                "BINARY_SHA256",
                &Digest::of(AGENT.as_ref().unwrap()).to_string(),
            );
            let shell: Vec<_> = shell.iter().map(String::as_str).collect();

            machine.run(&shell).await.became_the_agent(&machine.url);

            let left = fs::read_dir(machine.path("home")).unwrap().count();
            assert_eq!(left, 0, "{shell:?} with {tool}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_fails_gives_way_to_the_next_one_and_none_is_said() {
    let Some(machine) = Machine::new(&[Answer::Good]).await else {
        return;
    };
    machine.has_broken("curl");
    machine.has_broken("wget");
    machine.has("python3");
    let ended = machine.run(&["/bin/sh"]).await;
    if is_here("python3") {
        ended.became_the_agent(&machine.url);
    }
    assert!(
        ended
            .said()
            .contains("curl failed with status 3: it is broken"),
        "{}",
        ended.said()
    );

    let Some(bare) = Machine::new(&[Answer::Good]).await else {
        return;
    };
    let ended = bare.run(&["/bin/sh"]).await;
    assert_eq!(ended.0.status.code(), Some(127));
    assert_eq!(ended.error()["stage"], "tools");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_agent_is_not_run_and_is_shown() {
    if !is_here("curl") {
        return skipped("wrong answers to the bootstrap script", "no curl");
    }
    let right = AGENT.as_ref().map(|agent| Digest::of(agent).to_string());
    let right = right.unwrap_or_default();
    for (answer, sum, shown) in [
        (
            Answer::Page,
            "",
            "login page or an error of a proxy: Sign in to the guest network",
        ),
        (Answer::Status(502), "", "502"),
        (Answer::Truncated, "", "curl failed with status"),
        (Answer::Other, right.as_str(), "the checksum is"),
    ] {
        let Some(mut machine) = Machine::new(&[answer]).await else {
            return;
        };
        machine.has("curl");
        machine.has_tr_without_classes();
        machine.set("BINARY_SHA256", sum);

        let ended = machine.run(&["/bin/sh"]).await;

        let error = ended.error();
        assert_eq!(
            (&error["stage"], &error["status"]),
            (&"download".into(), &1.into()),
            "{}",
            ended.said()
        );
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(shown),
            "{error}"
        );
        assert!(
            ended.said().contains("Trying again in 0 seconds (1 of 2)"),
            "{}",
            ended.said()
        );
        assert!(ended.0.stdout.is_empty());
        let left: Vec<_> = walk(&machine.path("tmp"))
            .chain(walk(&machine.path("home")))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn walk(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let mut files = Vec::new();
    let mut queue = vec![dir.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => queue.push(path),
                false => files.push(path),
            }
        }
    }
    files.into_iter()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_is_asked_again() {
    for tool in fetchers(&["curl", "wget", "python3"]) {
        let Some(machine) = Machine::new(&[
            Answer::Status(502),
            Answer::Status(502),
            Answer::Status(502),
            Answer::Good,
        ])
        .await
        else {
            return;
        };
        machine.has(tool);
        let mut machine = machine;
        machine.set("BOOTSTRAP_ATTEMPTS", "5");

        machine
            .run(&["/bin/sh"])
            .await
            .became_the_agent(&machine.url);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_of_the_site_is_trusted_if_it_is_named_and_not_else() {
    for tool in fetchers(&["curl", "wget", "python3"]) {
        let Some(mut machine) = Machine::of(&[Answer::Good], true).await else {
            return;
        };
        machine.has(tool);

        let refused = machine.run(&["/bin/sh"]).await;
        assert_eq!(
            refused.error()["stage"],
            "download",
            "{tool}: {}",
            refused.said()
        );
        let authority = machine.authority.clone().unwrap();
        machine.set("SSL_CERT_FILE", &authority.display().to_string());
        machine
            .run(&["/bin/sh"])
            .await
            .became_the_agent(&machine.url);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_programs_cannot_be_written_or_run_the_next_directory_is_taken() {
    let tool = ["curl", "wget", "python3"]
        .into_iter()
        .find(|tool| is_here(tool));
    let (Some(tool), true) = (tool, is_here("unshare")) else {
        return skipped(
            "machines with odd directories",
            "no unshare, or none of curl, wget and python3",
        );
    };
    for (options, is_full) in [("noexec", false), ("ro", false), ("size=8k", true)] {
        let Some(machine) = Machine::new(&[Answer::Good]).await else {
            return;
        };
        machine.has(tool);
        let mut machine = machine;
        machine.set("BINARY_DIR", "/proc/nowhere/at/all");
        let tmp = machine.path("tmp").display().to_string();
        // As root of a namespace of its own.
        let mounted = format!("/bin/mount -t tmpfs -o {options} none {tmp} && exec /bin/sh \"$@\"");
        let unshare = which::which("unshare").unwrap().display().to_string();
        let before = [
            unshare.as_str(),
            "--map-root-user",
            "--mount",
            "/bin/sh",
            "-c",
            &mounted,
            "sh",
        ];
        let allowed = Command::new(&unshare)
            .args([
                "--map-root-user",
                "--mount",
                "/bin/sh",
                "-c",
                &format!("/bin/mount -t tmpfs none {tmp}"),
            ])
            .status();
        if !allowed.is_ok_and(|status| status.success()) {
            return skipped("namespaces", "no directories without programs");
        }

        let ended = machine.run(&before).await;

        ended.became_the_agent(&machine.url);
        assert!(
            machine.path("home/.cache/coder-agent/coder").is_file(),
            "{options}: {}",
            ended.said()
        );
        assert_eq!(
            ended.said().contains("is full"),
            is_full,
            "{options}: {}",
            ended.said()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_another_user_may_write_to_gets_no_agent() {
    let tool = ["curl", "wget", "python3"]
        .into_iter()
        .find(|tool| is_here(tool));
    let (Some(tool), Some(mut machine)) = (tool, Machine::new(&[Answer::Good]).await) else {
        return skipped(
            "fetching an agent",
            "there is none of curl, wget and python3, or no C compiler",
        );
    };
    machine.has(tool);
    let planted = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    fs::set_permissions(planted.path(), fs::Permissions::from_mode(0o777)).unwrap();
    machine.set("BINARY_DIR", &planted.path().display().to_string());

    let ended = machine.run(&["/bin/sh"]).await;

    ended.became_the_agent(&machine.url);
    assert_eq!(fs::read_dir(&planted).unwrap().count(), 0);
}

#[test]
fn the_script_has_nothing_that_shellcheck_warns_of() {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/terraform/src/bootstrap/unix.sh"
    );
    match Command::new("shellcheck")
        .args(["-s", "sh", script])
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(error) => skipped("shellcheck of the bootstrap script", error),
    }
}
