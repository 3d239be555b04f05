//! Modules in every form in which templates name them: from their origins, through a mirror, to an engine that knows
//! nothing but what `outpost mirror config` says.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use outpost::{
    mirror::{Store, serve::Loopback},
    registry::Platform,
    stop::Stop,
};
use tempfile::TempDir;

use super::{
    origin::{Origin, Publisher},
    round_trip::{done, quiet, run},
};

/// Nobody listens there: whatever wants out fails, and says so.
const NO_WAY_OUT: &str = "http://127.0.0.1:9";
const REGISTRY: &str = "registry.example";

/// A place with templates, a mirror, and its server.
pub struct Site {
    home: TempDir,
    serving: Option<(Child, String)>,
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some((mut serving, _)) = self.serving.take() {
            serving.kill().unwrap();
            serving.wait().unwrap();
        }
    }
}

impl Site {
    pub fn new(config: &str) -> Self {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("mirror.toml"), config).unwrap();
        let serving = None;
        Self { home, serving }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn template(&self, text: &str) -> PathBuf {
        let dir = self.path("template");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("main.tf"), text).unwrap();
        dir
    }

    /// `outpost mirror …` for this mirror; git goes to the origin for what it takes for `git.example`.
    pub fn mirror(&self, arguments: &[&str], origin: Option<&str>) -> Output {
        let mut command = quiet(self.home.path());
        command
            .arg("mirror")
            .args(arguments)
            .env("OUTPOST_MIRROR_DIR", self.path("mirror"));
        if let Some(origin) = origin {
            let forms = ["https://git.example/", "ssh://git@git.example/"];
            command.env("GIT_CONFIG_COUNT", forms.len().to_string());
            for (number, form) in forms.iter().enumerate() {
                let key = format!("url.{origin}/git/.insteadOf");
                command
                    .env(format!("GIT_CONFIG_KEY_{number}"), key)
                    .env(format!("GIT_CONFIG_VALUE_{number}"), form);
            }
        }
        command.output().unwrap()
    }

    fn generation(&self) -> serde_json::Value {
        let text = fs::read(self.path("mirror/current")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    pub fn serve(&mut self, arguments: &[&str]) -> String {
        self.serve_on(&std::env::var("PATH").unwrap(), arguments)
    }

    /// The same with another `PATH`.
    fn serve_on(&mut self, path: &str, arguments: &[&str]) -> String {
        let mut serving = quiet(self.home.path())
            .env("PATH", path)
            .args(["mirror", "serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env("OUTPOST_MIRROR_DIR", self.path("mirror"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(serving.stderr.take().unwrap()).lines();
        let url = said.find_map(|line| {
            let line = line.unwrap();
            let (_, url) = line.split_once("Serving the mirror at ")?;
            Some(url.trim().to_owned())
        });
        // A full pipe would hold the server up.
        std::thread::spawn(move || said.for_each(drop));
        let url = url.unwrap();
        self.serving = Some((serving, url.clone()));
        url
    }

    /// An engine with what `outpost mirror config` prints, and nothing else.
    fn engine(&self, arguments: &[&str]) -> Output {
        let (_, url) = self.serving.as_ref().unwrap();
        let rc = self.path("terraform.rc").display().to_string();
        let printed = |form: &str| {
            // Without a host: the mirror says which it has.
            let words = ["mirror", "config", url, "--for", form, "--rc-file", &rc];
            let output = run(self.home.path(), &words);
            done(&output);
            String::from_utf8(output.stdout).unwrap()
        };
        fs::write(&rc, printed("rc")).unwrap();
        let mut command = Command::new("terraform");
        command
            .args(arguments)
            .current_dir(self.path("template"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.home.path())
            .env("HTTPS_PROXY", NO_WAY_OUT)
            .env("GIT_TERMINAL_PROMPT", "0");
        let printed = printed("env");
        for line in printed.lines() {
            let set = line.strip_prefix("export ").unwrap();
            let (name, value) = set.split_once('=').unwrap();
            command.env(name, value.trim_matches('\''));
        }
        command.output().unwrap()
    }

    /// Installs the template's modules and returns its outputs.
    fn outputs(&self) -> serde_json::Value {
        done(&self.engine(&["init", "-no-color", "-input=false"]));
        done(&self.engine(&["apply", "-no-color", "-auto-approve"]));
        let shown = self.engine(&["output", "-json"]);
        assert!(shown.status.success(), "{shown:?}");
        serde_json::from_slice(&shown.stdout).unwrap()
    }
}

pub fn call(name: &str, source: &str) -> String {
    format!(
        "module \"{name}\" {{ source = \"{source}\" }}\noutput \"{name}\" {{ value = module.{name}.from }}\n"
    )
}

fn values(outputs: &serde_json::Value) -> Vec<(String, String)> {
    let outputs = outputs.as_object().unwrap().iter();
    outputs
        .map(|(name, it)| (name.clone(), it["value"].as_str().unwrap().to_owned()))
        .collect()
}

const USES_WHAT_IS_BESIDE: &str = "module \"shared\" { source = \"../../shared\" }\noutput \"from\" { value = module.shared.from }\n";

/// A `tar` of files below one directory, as forges make them.
pub fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What a program of the system makes of bytes.
pub fn piped(program: &str, input: &[u8]) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("input"), input).unwrap();
    let input = fs::File::open(dir.path().join("input")).unwrap();
    let output = Command::new(program).arg("-c").stdin(input).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success());
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_uses_what_is_beside_it_wherever_its_package_comes_from() {
    let origin = Origin::start().await;
    let url = origin.url.clone();
    let files = [
        ("modules/net/main.tf", USES_WHAT_IS_BESIDE),
        ("shared/main.tf", "output \"from\" { value = \"beside\" }\n"),
        ("main.tf", "output \"from\" { value = \"the top\" }\n"),
    ];
    origin.publish_git("git/acme/mods.git", &files);
    let outer = files.map(|(name, text)| (format!("mods-1/{name}"), text));
    let outer = outer.each_ref().map(|(name, text)| (name.as_str(), *text));
    let packed = piped("gzip", &tar(&outer));
    origin.put("files/mods.tar.gz", &packed);
    for (name, location) in [
        (
            "git",
            format!("git::{url}/git/acme/mods.git//modules/net?ref=v1"),
        ),
        (
            "zip",
            "/files/mods.tar.gz//*/modules/net?archive=tar.gz".to_owned(),
        ),
        ("all", format!("git::{url}/git/acme/mods.git?ref=v1")),
    ] {
        origin.publish_module(&format!("{REGISTRY}/acme/{name}/coder"), "1.0.0", &location);
    }
    let mut site = Site::new(&format!(
        "[[templates]]\npath = \"template\"\n{}",
        origin.host(REGISTRY)
    ));
    let template: String = [
        call("in_git", "registry.example/acme/git/coder"),
        call("in_zip", "registry.example/acme/zip/coder"),
        call("inner", "registry.example/acme/all/coder//modules/net"),
        call(
            "direct",
            &format!("git::{url}/git/acme/mods.git//modules/net?ref=v1&depth=1"),
        ),
    ]
    .concat();
    let dir = site.template(&template);

    done(&site.mirror(&["sync"], None));
    drop(origin);
    site.serve(&[]);
    let outputs = site.outputs();

    let expected =
        ["direct", "in_git", "in_zip", "inner"].map(|it| (it.to_owned(), "beside".to_owned()));
    assert_eq!(values(&outputs), expected);
    done(&site.mirror(&["doctor", dir.to_str().unwrap()], None));
    let generation = site.generation();
    let dirs: Vec<_> = generation["modules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["dir"])
        .collect();
    assert_eq!(
        dirs,
        [
            &serde_json::Value::Null,
            &"modules/net".into(),
            &"modules/net".into()
        ]
    );
}

/// A repository with a tag, a branch that is ahead of it, and a commit between the two.
fn repository(dir: &Path) -> String {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]);
        let output = command.args(arguments).current_dir(dir).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let write = |text: &str| {
        fs::create_dir_all(dir.join("vpc")).unwrap();
        let text = format!("output \"from\" {{ value = \"{text}\" }}\n");
        fs::write(dir.join("vpc/main.tf"), text).unwrap();
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "more"]);
    };
    git(&["init", "--quiet", "--initial-branch=trunk", "."]);
    write("v1");
    git(&["tag", "v1"]);
    git(&["checkout", "--quiet", "-b", "next"]);
    write("between");
    let between = git(&["rev-parse", "HEAD"]);
    write("next");
    git(&["checkout", "--quiet", "trunk"]);
    write("trunk");
    between
}

#[tokio::test(flavor = "multi_thread")]
async fn git_in_every_form_reaches_a_plain_engine_also_beyond_what_refs_names() {
    let origin = Origin::start().await;
    let source = TempDir::new().unwrap();
    let between = repository(source.path());
    origin.publish_repository("git/acme/mods.git", source.path());
    // The same without an ending, as forges answer.
    origin.publish_repository("git/acme/mods", source.path());
    let mut site = Site::new(
        "[[templates]]\npath = \"template\"\n\
         [[git]]\nurl = \"git@git.example:acme/mods.git\"\nrefs = [\"v*\"]\n",
    );
    let template: String = [
        call(
            "shallow",
            "git::https://git.example/acme/mods//vpc?ref=v1&depth=1",
        ),
        call("short", "git@git.example:acme/mods.git//vpc?ref=next"),
        call("head", "git::ssh://git@git.example/acme/mods.git//vpc"),
        call(
            "commit",
            &format!("git::https://git.example/acme/mods.git//vpc?ref={between}"),
        ),
    ]
    .concat();
    let dir = site.template(&template);
    let url = origin.url.clone();

    done(&site.mirror(&["sync"], Some(&url)));
    let generation = site.generation();
    let again = done(&site.mirror(&["sync"], Some(&url)));
    assert_eq!(site.generation(), generation, "{again}");
    drop(origin);
    let served = site.serve(&[]);
    let outputs = site.outputs();

    let expected = [
        ("commit", "between"),
        ("head", "trunk"),
        ("shallow", "v1"),
        ("short", "next"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(values(&outputs), expected);
    assert_eq!(
        generation["git"].as_array().unwrap().len(),
        1,
        "{generation}"
    );
    done(&site.mirror(&["doctor", dir.to_str().unwrap()], None));

    // What is not there is known to the server, though the engine finds out by itself.
    site.template(&call(
        "gone",
        "git::https://git.example/acme/mods//vpc?ref=v7&depth=1",
    ));
    let refused = site.engine(&["init", "-no-color", "-input=false"]);
    assert!(!refused.status.success());
    let listed = reqwest::get(format!("{served}api/missing")).await.unwrap();
    let listed = listed.text().await.unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let missed = &listed["missing"][0];
    assert_eq!(
        (&missed["kind"], &missed["name"], &missed["version"]),
        (&"git".into(), &"git.example/acme/mods".into(), &"v7".into()),
        "{listed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_asks_a_served_mirror_and_tells_it_what_jobs_would_miss() {
    const TOKEN: &str = "0123456789abcdef";
    let origin = Origin::start().await;
    let url = origin.url.clone();
    let here = Platform::current().to_string();
    let demo = format!("{REGISTRY}/acme/demo");
    origin.publish(&Publisher::new(), &demo, "1.0.0", &[&here], 10);
    let module = "output \"from\" { value = \"there\" }\n";
    origin.publish_git("git/acme/mods.git", &[("main.tf", module)]);
    let packed = piped("xz", &tar(&[("mods-1/vpc/main.tf", module)]));
    origin.put("files/mods.tar.xz", &packed);
    let ide = format!("{REGISTRY}/acme/ide/coder");
    origin.publish_module(&ide, "1.0.0", "/files/mods.tar.xz//mods-1/vpc");
    let mut site = Site::new(&format!(
        "[[templates]]\npath = \"template\"\n{}",
        origin.host(REGISTRY)
    ));
    let template = |version: &str, reference: &str, file: &str| {
        let ide =
            format!("module \"ide\" {{\n  source  = \"{ide}\"\n  version = \"{version}\"\n}}\n");
        let demo = format!("demo = {{ source = \"{demo}\", version = \"{version}\" }}");
        [
            format!("terraform {{\n  required_version = \">= 1.0\"\n  required_providers {{\n    {demo}\n  }}\n}}\n"),
            ide,
            call("git", &format!("git::{url}/git/acme/mods.git?ref={reference}")),
            call("file", &format!("{url}/files/{file}.tar.xz//mods-1/vpc")),
        ]
        .concat()
    };
    let dir = site.template(&template("~> 1.0", "v1", "mods"));
    done(&site.mirror(&["sync"], None));
    drop(origin);
    fs::write(site.path("token"), TOKEN).unwrap();
    let token = site.path("token").display().to_string();
    let served = site.serve(&["--token-file", &token]);
    let doctor = |template: &Path| {
        let arguments = [
            "doctor",
            "--mirror",
            &served,
            "--mirror-token-file",
            &token,
            "--output",
            "json",
            template.to_str().unwrap(),
        ];
        let output = site.mirror(&arguments, None);
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output, rows)
    };

    let (good, rows) = doctor(&dir);
    done(&good);
    let verdicts: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["verdict"])
        .collect();
    assert_eq!(verdicts, [&serde_json::Value::from("present"); 5], "{rows}");
    let dir = site.template(&template("~> 2.0", "v9", "more"));
    let (bad, rows) = doctor(&dir);

    assert_eq!(bad.status.code(), Some(1), "{rows}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let listed = client
        .get(format!("{served}api/missing"))
        .bearer_auth(TOKEN);
    let listed = listed.send().await.unwrap().text().await.unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let missing = listed["missing"].as_array().unwrap().iter();
    let missing: Vec<_> = missing
        .map(|it| {
            let text = |name: &str| it[name].as_str().unwrap_or("-").to_owned();
            format!("{} {} {}", text("kind"), text("name"), text("version"))
        })
        .collect();
    let host = url.strip_prefix("http://").unwrap();
    for expected in [
        format!("file {host}/files/more.tar.xz -"),
        format!("git {host}/git/acme/mods v9"),
        format!("module {ide} ~> 2.0"),
        format!("provider {demo} ~> 2.0"),
    ] {
        assert!(
            missing.contains(&expected),
            "{expected} is not in {missing:#?}"
        );
    }
    let refused = site.mirror(&["lock", "--mirror", &served, dir.to_str().unwrap()], None);
    assert_eq!(refused.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_an_archive_sends_an_engine_to_its_module() {
    let origin = Origin::start().await;
    let url = origin.url.clone();
    let module = |from: &str| format!("output \"from\" {{ value = \"{from}\" }}\n");
    for (program, end) in [("bzip2", "tar.bz2"), ("xz", "tar.xz")] {
        let text = module(end);
        let packed = piped(program, &tar(&[("mods-1/vpc/main.tf", &text)]));
        origin.put(&format!("files/mods.{end}"), &packed);
    }
    let target = format!("{url}/files/mods.tar.bz2//mods-1?archive=tar.bz2");
    let page =
        format!("<html><head><meta name=\"terraform-get\" content=\"{target}\"></head></html>");
    origin.put("vanity", page.as_bytes());
    let site = Site::new("[[templates]]\npath = \"template\"\n");
    let dir = site.template(
        &[
            call("vanity", &format!("{url}/vanity//vpc")),
            call("xz", &format!("{url}/files/mods.tar.xz//mods-1/vpc")),
        ]
        .concat(),
    );

    done(&site.mirror(&["sync"], None));
    drop(origin);
    done(&site.mirror(&["doctor", dir.to_str().unwrap()], None));

    // Engines get to files by their own addresses through the proxy, which speaks for hosts with https alone.
    let store = Store::open(&site.path("mirror")).unwrap();
    let (number, mut generation) = store.newest().unwrap();
    let here = url.clone();
    for file in &mut generation.files {
        let text = fs::read_to_string(store.path(file.content)).unwrap_or_default();
        if text.contains(&here) {
            let text = text.replace(&here, "https://modules.example");
            file.content = store.put(text.as_bytes()).unwrap();
            file.size = text.len() as u64;
        }
        file.url = file.url.replace(&here, "https://modules.example");
    }
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, Some(number), &lock).unwrap();
    site.template(
        &[
            call("vanity", "https://modules.example/vanity//vpc"),
            call(
                "xz",
                "https://modules.example/files/mods.tar.xz//mods-1/vpc",
            ),
        ]
        .concat(),
    );
    let loopback = Loopback::with_proxy(store).await.unwrap();
    let init_proxy = loopback.init_proxy().unwrap();
    fs::write(site.path("ca.pem"), &init_proxy.authority).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new("terraform")
            .args(arguments)
            .current_dir(site.path("template"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", site.home.path())
            .env("CHECKPOINT_DISABLE", "1")
            .env("HTTPS_PROXY", init_proxy.url.as_str())
            .env("SSL_CERT_FILE", site.path("ca.pem"))
            .output()
            .unwrap();
        done(&output);
        output.stdout
    };
    run(&["init", "-no-color", "-input=false"]);
    run(&["apply", "-no-color", "-auto-approve"]);
    let outputs = serde_json::from_slice(&run(&["output", "-json"])).unwrap();

    let expected = [("vanity", "tar.bz2"), ("xz", "tar.xz")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(values(&outputs), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_on_a_machine_without_git_serves_repositories_all_the_same() {
    let origin = Origin::start().await;
    origin.publish_git("git/acme/mods.git", &[("main.tf", "")]);
    let url = origin.url.clone();
    let mut site = Site::new(&format!("[[git]]\nurl = \"{url}/git/acme/mods.git\"\n"));
    done(&site.mirror(&["sync"], None));
    drop(origin);
    let served = site.serve_on("/nonexistent", &[]);
    let place = url.replace("http://", &format!("{served}git/")) + "/git/acme/mods.git";
    let clone = |more: &[&str], to: &str| {
        let mut command = Command::new("git");
        command
            .args(["clone", "--quiet"])
            .args(more)
            .arg(&place)
            .arg(site.path(to));
        command.output().unwrap()
    };

    done(&clone(&["--branch", "v1"], "whole"));
    assert!(site.path("whole/main.tf").is_file());
    let shallow = clone(&["--depth", "1"], "shallow");
    let said = String::from_utf8_lossy(&shallow.stderr).into_owned();
    assert!(
        said.contains("dumb http transport does not support shallow"),
        "{said}"
    );
}
