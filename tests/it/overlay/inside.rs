//! What scripts of a workspace call: `coder stat`, `exp sync`, `external-auth`, `dotfiles`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
};

use outpost::{job::Script, proto::coder::agent::v2::Manifest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{
    fake::Fake,
    lab::{Lab, Running, agent, appears, ended, outpost, succeed, text},
};
use crate::support::{skip::skipped, wait::until};

/// A command as a script of the workspace calls it.
fn script(home: &Path, words: &[&str]) -> Command {
    let mut command = outpost();
    command.env("HOME", home).args(words).kill_on_drop(true);
    command
}

fn of(output: &Output) -> (Option<i32>, String, String) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, err)
}

fn start_script(name: &str, script: &str) -> Script {
    Script {
        display_name: name.to_owned(),
        script: script.to_owned(),
        run_on_start: true,
        ..Script::default()
    }
}

/// As the registry's coder-utils has them: all begin at once, and the last one is said first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_scripts_run_in_the_order_that_they_agree_on() {
    let step = |name: &str, wants: &str| {
        let want = match wants {
            "" => String::new(),
            wants => format!("outpost exp sync want {name} {wants}"),
        };
        let text = format!(
            "#!/bin/sh\nset -e\ntrap 'outpost exp sync complete {name}' EXIT\n{want}\n\
             outpost exp sync start {name}\necho {name} >> ~/order\n"
        );
        start_script(name, &text)
    };
    let mut dev = agent("dev");
    dev.scripts = vec![
        step("start", "install post"),
        step("post", "install"),
        step("install", "pre"),
        step("pre", ""),
    ];
    let (lab, running) = Lab::with_agent(dev, &[]).await;

    lab.until(|seen| seen.lifecycle_state == "ready").await;

    let order = appears(&running.home.join("order")).await;
    assert_eq!(order, "pre\ninstall\npost\nstart\n");
    let listed = lab.there("outpost exp sync list").await;
    assert_eq!(
        listed,
        "UNIT     STATUS     READY  \ninstall  completed  true   \npost     completed  true   \n\
         pre      completed  true   \nstart    completed  true   \n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_agent_of_a_machine_has_units_of_its_own() {
    let mut lab = Lab::start().await;
    let shared = lab.path("agent.sock");
    let (first, second) = (agent("a"), agent("b"));
    lab.workspace("dev", vec![first.clone(), second.clone()])
        .await;
    let settings = [("CODER_AGENT_SOCKET_PATH", shared.to_str().unwrap())];
    let (one, other) = (lab.run(&first, &settings), lab.run(&second, &settings));
    for name in ["a", "b"] {
        let is_ready = async || lab.seen("dev", name).await.lifecycle_state == "ready";
        until(format!("agent {name} is ready"), is_ready).await;
    }
    let at = async |agent: &str, words: &str| {
        let mut command = lab.open("ssh").await;
        command.args([&format!("dev.{agent}.outpost"), words]);
        succeed(command).await
    };

    let started = at("a", "outpost exp sync start only-a").await;

    assert_eq!(started, "Unit \"only-a\" started with no dependencies\n");
    assert_eq!(
        at("b", "outpost exp sync list").await,
        "No units registered\n"
    );
    let paths = (
        at("a", "echo $CODER_AGENT_SOCKET_PATH").await,
        at("b", "echo $CODER_AGENT_SOCKET_PATH").await,
    );
    assert_ne!(paths.0, paths.1);
    drop((one, other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_are_shown_as_the_reference_shows_them() {
    let (lab, running) = Lab::with_agent(agent("dev"), &[]).await;
    lab.until(|seen| seen.lifecycle_state == "ready").await;

    let said = lab
        .there(
            "set -e; outpost exp sync ping; outpost exp sync list -o json\n\
             outpost exp sync want test-unit dep-2 dep-1\n\
             outpost exp sync start dep-1; outpost exp sync complete dep-1\n\
             outpost exp sync status test-unit; outpost exp sync status dep-1 --output json\n\
             outpost exp sync status test-unit -c satisfied,'depends on' | tail -2",
        )
        .await;
    assert_eq!(
        said,
        "Success\nnull\n\
         Unit \"test-unit\" declared dependencies: [dep-2, dep-1]\n\
         Unit \"dep-1\" started with no dependencies\nSuccess\n\
         Unit: test-unit\nStatus: pending\nReady: false\n\nDependencies:\n\
         DEPENDS ON  REQUIRED STATUS  CURRENT STATUS  SATISFIED  \n\
         dep-1       completed        completed       true       \n\
         dep-2       completed        not registered  false      \n\
         {\n  \"unit_name\": \"dep-1\",\n  \"status\": \"completed\",\n  \"is_ready\": true,\n  \"dependencies\": null\n}\n\
         true       dep-1       \nfalse      dep-2       \n"
    );
    let late = lab
        .ssh(&[
            "dev.outpost",
            "outpost exp sync start test-unit --timeout 1500ms",
        ])
        .await;
    let (code, out, err) = of(&late);
    assert_eq!(code, Some(1), "{err}");
    assert_eq!(
        out,
        "Unit \"test-unit\" is waiting for dependencies to be satisfied: [dep-2]\n"
    );
    assert!(
        err.contains("timeout waiting for dependencies of unit 'test-unit'"),
        "{err}"
    );
    drop(running);
}

/// Units by one program at one agent: what it prints, and the errors.
async fn transcript(program: &Path, socket: &Path) -> String {
    let mut all = String::new();
    for line in [
        "ping",
        "list",
        "list --output json",
        "want t d2 d1",
        "want u d1",
        "start d1",
        "start d1",
        "complete d1",
        "complete nobody",
        "want d2 t",
        "status t",
        "status u -o json",
        "status nobody",
        "start u",
        "start t --timeout 1500ms",
        "list",
    ] {
        let mut command = Command::new(program);
        command
            .args(["exp", "sync", "--socket-path"])
            .arg(socket)
            .args(line.split(' '))
            .env_clear()
            .env("HOME", socket.parent().unwrap());
        let (code, out, err) = of(&ended(command).await);
        let errors = err.find("error: ").map_or("", |at| &err[at..]);
        all += &format!("$ {line}\n{out}{errors}{code:?}\n");
    }
    // Coder's program ends lines for people as a terminal does.
    all.replace('\r', "")
}

/// Opt-in: `OUTPOST_INTEROP_CODER=/path/to/coder`, a full program of June 2026 or later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coder_s_program_and_ours_say_the_same_at_either_one_s_agent() {
    let Some(coder) = std::env::var_os("OUTPOST_INTEROP_CODER").map(PathBuf::from) else {
        return skipped(
            "`exp sync` of Coder's program",
            "OUTPOST_INTEROP_CODER is not set",
        );
    };
    let mut listing = Command::new(&coder);
    listing.args(["exp", "sync", "list", "--help"]);
    if !listing.output().await.unwrap().status.success() {
        return skipped("`exp sync` of Coder's program", "it is older and says less");
    }
    let ours = Path::new(env!("CARGO_BIN_EXE_outpost"));
    let mut said = Vec::new();
    for agent in [ours, &coder] {
        for program in [ours, &coder] {
            let place = TempDir::new().unwrap();
            let socket = place.path().join("agent.sock");
            // Without a server an agent only tries again; its socket is there from the start.
            let mut command = Command::new(agent);
            command
                .arg("agent")
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", place.path())
                .env("TMPDIR", place.path())
                .env("CODER_AGENT_URL", "http://127.0.0.1:1")
                .env("CODER_AGENT_TOKEN", uuid::Uuid::new_v4().to_string())
                .env("CODER_AGENT_LOG_DIR", place.path())
                // Agents before March 2026 have to be asked for it.
                .env("CODER_AGENT_SOCKET_SERVER_ENABLED", "true")
                .env("CODER_AGENT_SOCKET_PATH", &socket);
            let running = Running::start(command, place.path().to_owned());
            until("the agent has a socket", async || socket.exists()).await;
            said.push(transcript(program, &socket).await);
            running.kill().await;
        }
    }

    for (place, other) in said.iter().enumerate().skip(1) {
        assert_eq!(&said[0], other, "pair {place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_call_the_program_coder_whatever_its_file_is_called() {
    let (lab, running) = Lab::with_agent(agent("dev"), &[]).await;
    lab.until(|seen| seen.lifecycle_state == "ready").await;

    let said = lab
        .there("coder exp sync ping; coder stat mem --host")
        .await;

    assert!(
        said.starts_with("Success\n") && said.contains(" GiB ("),
        "{said}"
    );
    drop(running);
}

#[tokio::test]
async fn without_an_agent_the_command_says_where_it_looked() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("none.sock");
    let mut command = script(home.path(), &["exp", "sync", "ping"]);
    command.env("CODER_AGENT_SOCKET_PATH", &path);

    let (code, out, err) = of(&ended(command).await);

    assert_eq!((code, out.as_str()), (Some(1), ""));
    let expected = format!("connect to agent socket {}", path.display());
    assert!(err.contains(&expected) && err.contains("hint: "), "{err}");
}

#[tokio::test]
async fn figures_of_the_workspace_come_as_text_and_as_json() {
    let home = TempDir::new().unwrap();
    let run = async |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        succeed(script(home.path(), &words)).await
    };
    for (line, unit) in [
        ("stat cpu", " cores"),
        ("stat cpu --host", " cores ("),
        ("stat mem", " GiB"),
        ("stat mem --host --prefix Mi", " MiB ("),
        ("stat disk", " GiB ("),
        ("stat disk /tmp --prefix Ti", " TiB ("),
        ("stat disk --path /tmp -o text", " GiB ("),
    ] {
        let said = run(line).await;
        assert!(
            said.contains(unit) && said.ends_with('\n'),
            "{line}: {said}"
        );
    }
    let json: Value = serde_json::from_str(&run("stat mem --host -o json").await).unwrap();
    assert_eq!(json["unit"], "B");
    assert!(json["used"].is_u64() && json["total"].is_u64(), "{json}");
    let all: Value = serde_json::from_str(&run("stat --output json").await).unwrap();
    assert_eq!(all[0]["host_cpu"]["unit"], "cores", "{all}");
    assert!(all[0].get("container_memory").is_some(), "{all}");
    let table = run("stat").await;
    assert!(table.starts_with("HOST CPU"), "{table}");

    let missing = ended(script(home.path(), &["stat", "disk", "--path", "/no/such"])).await;
    let (code, _, err) = of(&missing);
    assert_eq!(
        (code, err.as_str()),
        (Some(1), "error: not found: \"/no/such\"\n")
    );
    let wrong = ended(script(home.path(), &["stat", "mem", "--prefix", "Xi"])).await;
    assert_eq!(wrong.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_service_is_printed_or_the_page_to_log_in() {
    let fake = Fake::start(Manifest::default()).await;
    let home = TempDir::new().unwrap();
    let ask = async |extra: &[&str]| {
        let words = [&["external-auth", "access-token", "github"], extra].concat();
        let mut command = script(home.path(), &words);
        command
            .env("CODER_AGENT_URL", &fake.url)
            .env("CODER_AGENT_TOKEN", uuid::Uuid::new_v4().to_string());
        of(&ended(command).await)
    };

    let (code, out, err) = ask(&[]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(
        err.contains("no external auth provider \"github\""),
        "{err}"
    );

    let page = "https://coder.example.com/external-auth/github";
    fake.answer("external-auth", 200, json!({ "url": page }));
    assert_eq!(ask(&[]).await, (Some(1), page.to_owned(), String::new()));

    let login = json!({
        "access_token": "gho_x",
        "token_extra": { "authed_user": { "id": "U7" } },
        "url": "",
    });
    fake.answer("external-auth", 200, login);
    assert_eq!(ask(&[]).await, (Some(0), "gho_x".to_owned(), String::new()));
    let extra = ask(&["--extra", "authed_user.id"]).await;
    assert_eq!(extra, (Some(0), "U7".to_owned(), String::new()));

    fake.answer("external-auth", 200, json!({ "access_token": "gho_x" }));
    let (code, out, err) = ask(&["--extra", "a"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("no extra properties found for token"), "{err}");

    let without = ended(script(
        home.path(),
        &["external-auth", "access-token", "github"],
    ))
    .await;
    assert_eq!(without.status.code(), Some(1), "{}", text(&without.stderr));
}

/// A repository of settings, and a home for them.
struct Settings {
    directory: TempDir,
}

impl Settings {
    async fn new(files: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        let settings = Self { directory };
        fs::create_dir(settings.home()).unwrap();
        settings.git(&["init", "-q", "-b", "main", "repo"]).await;
        settings.commit(files).await;
        settings
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    fn repository(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    async fn git(&self, words: &[&str]) {
        let mut command = Command::new("git");
        command
            .current_dir(self.directory.path())
            .env("HOME", self.home())
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
            .args(words);
        succeed(command).await;
    }

    async fn commit(&self, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = self.repository().join(name);
            fs::write(&path, content).unwrap();
            let mode = if content.starts_with("#!") {
                0o755
            } else {
                0o644
            };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        self.git(&["-C", "repo", "add", "-A"]).await;
        self.git(&["-C", "repo", "commit", "-q", "-m", "files"])
            .await;
    }

    async fn apply(&self, options: &[&str]) -> (Option<i32>, String, String) {
        let repository = self.repository().display().to_string();
        let words = [&["dotfiles", &repository], options].concat();
        let mut command = script(&self.home(), &words);
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        of(&ended(command).await)
    }

    fn linked(&self, name: &str) -> String {
        fs::read_to_string(self.home().join(name)).unwrap_or_default()
    }
}

#[tokio::test]
async fn files_of_a_person_are_linked_and_what_was_there_is_kept() {
    let settings = Settings::new(&[(".zshrc", "mine"), (".gitignore", "x"), ("README", "x")]).await;
    fs::write(settings.home().join(".zshrc"), "old").unwrap();

    let (code, out, err) = settings.apply(&["-y"]).await;

    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(settings.linked(".zshrc"), "mine");
    assert_eq!(settings.linked(".zshrc.bak"), "old");
    assert!(
        !settings.home().join(".gitignore").exists() && !settings.home().join("README").exists()
    );
    assert!(out.ends_with("Dotfiles installation complete.\n"), "{out}");
    let clone = settings.home().join(".config/coderv2/dotfiles");
    assert!(clone.join(".git").is_dir());

    // Again, from another branch: the clone is pulled, and links are made anew.
    settings
        .git(&["-C", "repo", "checkout", "-q", "-b", "work"])
        .await;
    settings.commit(&[(".zshrc", "at work")]).await;
    let (code, out, err) = settings.apply(&["--yes", "--branch", "work"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("Found dotfiles repository at "), "{out}");
    assert_eq!(settings.linked(".zshrc"), "at work");
    assert_eq!(settings.linked(".zshrc.bak"), "old");
}

#[tokio::test]
async fn an_install_script_takes_the_place_of_links() {
    let script = "#!/bin/sh\necho hello > ~/installed\n";
    let settings = Settings::new(&[(".zshrc", "mine"), ("install.sh", script)]).await;

    let (code, out, err) = settings.apply(&["-y", "--repo-dir", "mine"]).await;

    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(settings.linked("installed"), "hello\n");
    assert!(!settings.home().join(".zshrc").exists());
    assert!(settings.home().join(".config/coderv2/mine").is_dir());

    settings.commit(&[("install.sh", "no script")]).await;
    let (code, _, err) = settings.apply(&["-y", "--repo-dir", "mine"]).await;
    assert_eq!(code, Some(1));
    assert!(
        err.contains("\"install.sh\" does not have execute permissions"),
        "{err}"
    );
}

#[tokio::test]
async fn nothing_of_a_person_is_touched_without_a_yes() {
    let settings = Settings::new(&[(".zshrc", "mine")]).await;

    let (code, out, err) = settings.apply(&[]).await;

    assert_eq!(code, Some(1), "{out}");
    assert!(err.contains("`--yes` skips the prompts"), "{err}");
    assert!(!settings.home().join(".config/coderv2/dotfiles").exists());

    let mut command = script(&settings.home(), &["dotfiles", "-y", "/no/such/repository"]);
    command.env("CODER_SYMLINK_DIR", settings.directory.path());
    let (code, _, err) = of(&ended(command).await);
    assert_eq!(code, Some(1));
    assert!(err.contains("`git clone` failed"), "{err}");
}

#[tokio::test]
async fn what_this_program_lacks_says_so() {
    let home = TempDir::new().unwrap();
    for (words, expected) in [
        (
            &["boundary", "--help"][..],
            "does not include the agent firewall",
        ),
        (
            &["agent-firewall", "--", "curl"],
            "does not include the agent firewall",
        ),
        (&["exp", "mcp", "server"], "has no MCP server"),
    ] {
        let (code, out, err) = of(&ended(script(home.path(), words)).await);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{words:?}");
        assert!(err.contains(expected), "{err}");
    }
}
