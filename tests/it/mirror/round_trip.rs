//! From an origin that fails into a sealed site: sync, bundle, import, and templates as they are, without a network.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use outpost::registry::Platform;
use tempfile::TempDir;

use super::origin::{Fault, Origin, Publisher};
use crate::cli::outpost;

/// What a template sees of the network of its namespace: sent datagrams, as of DNS, and packets that had nowhere to go.
const COUNTERS: &str = r#"
resource "terraform_data" "look" {
  input = data.coder_workspace.mirrored.name
  provisioner "local-exec" {
    command = <<-EOT
      echo "sent: $(awk '/^Udp:/ { sent = $5 } END { print sent }' /proc/net/snmp)" \
        "lost: $(awk '/^Ip:/ { lost = $13 } END { print lost }' /proc/net/snmp)."
    EOT
  }
}
"#;

/// Runs the program to its end, as somebody who has nothing else.
fn run(home: &Path, arguments: &[&str]) -> Output {
    quiet(home).args(arguments).output().unwrap()
}

fn quiet(home: &Path) -> Command {
    let mut command = outpost();
    command
        .env("HOME", home)
        .env("TMPDIR", home)
        .env_remove("XDG_STATE_HOME")
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn done(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    out + &err
}

/// Templates that want different versions, and modules from a registry and from a repository.
fn write_templates(dir: &Path, origin: &Origin) -> Vec<String> {
    let template = |constraint: &str, modules: &str| {
        format!(
            r#"
terraform {{
  required_providers {{
    acme = {{
      source  = "registry.example/acme/coder"
      version = "{constraint}"
    }}
  }}
}}
data "coder_workspace" "mirrored" {{ provider = acme }}
{modules}
{COUNTERS}"#
        )
    };
    let url = &origin.url;
    let modules = format!(
        r#"
module "hello" {{
  source  = "registry.example/acme/hello/coder"
  version = "~> 1.0"
}}
module "inner" {{
  source = "git::{url}/git/mods.git//inner?ref=v1"
}}
output "from" {{
  value = "${{module.hello.from}} and ${{module.inner.from}}"
}}
"#
    );
    let all = [
        ("old", template("~> 1.0", "")),
        ("new", template(">= 1.0", &modules)),
    ];
    let written = all.map(|(name, text)| {
        let template = dir.join("templates").join(name);
        std::fs::create_dir_all(&template).unwrap();
        std::fs::write(template.join("main.tf"), text).unwrap();
        template.display().to_string()
    });
    written.to_vec()
}

/// An origin with everything that the templates want.
async fn origin() -> Origin {
    let origin = Origin::start().await;
    let (publisher, here) = (Publisher::new(), Platform::current().to_string());
    for version in ["1.0.0", "1.1.0", "2.0.0"] {
        let addr = "registry.example/acme/coder";
        origin.publish(&publisher, addr, version, &[&here], 100_000);
    }
    let module = |from: &str| format!("output \"from\" {{ value = \"{from}\" }}\n");
    let (inner, hello) = (module("git"), module("the registry"));
    let files = [
        ("inner/main.tf", inner.as_str()),
        ("hello/main.tf", hello.as_str()),
    ];
    origin.publish_git("git/mods.git", &files);
    let location = format!("git::{}/git/mods.git//hello?ref=v1", origin.url);
    origin.publish_module("registry.example/acme/hello/coder", "1.2.0", &location);
    origin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_as_they_are_work_on_a_sealed_site_from_one_file() {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    let origin = origin().await;
    let templates = write_templates(home, &origin);
    let wishes =
        "[[templates]]\npath = \"templates/*\"\n".to_owned() + &origin.host("registry.example");
    std::fs::write(home.join("mirror.toml"), wishes).unwrap();

    // Outside: an origin that is busy, and breaks off.
    origin.fail("_SHA256SUMS", Fault::Status(503, 2));
    origin.fail(".zip", Fault::Broken(40_000));
    done(&run(home, &["mirror", "sync", "--mirror-dir", "outside"]));
    let first = origin.asked();
    done(&run(home, &["mirror", "sync", "--mirror-dir", "outside"]));
    let second = origin.asked();
    let is_archive = |line: &&String| line.contains(".zip") || line.contains("/pack-");
    let whole: Vec<_> = first.iter().filter(is_archive).collect();
    let mut once = whole.clone();
    once.dedup();
    assert_eq!(whole, once, "asked for twice");
    assert_eq!(second.iter().filter(is_archive).count(), 0, "{second:?}");

    // One file, carried in.
    for words in [
        "mirror key generate site",
        "mirror bundle --mirror-dir outside --key site.key --out site.opbundle",
        "mirror import --mirror-dir inside --trust site.pub site.opbundle",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        done(&run(home, &words));
    }
    drop(origin);

    // Inside: without any network, and as another machine's mirror.
    let inside = home.join("inside").display().to_string();
    for template in &templates {
        let sealed = ["dev", "--sealed", "--check", "--mirror", &inside, template];
        let said = done(&run(home, &sealed));

        if said.contains("nothing of this run has a network") {
            let seen = said.matches("(local-exec): sent: ").count();
            assert!(seen > 0, "{said}");
            assert_eq!(
                said.matches("(local-exec): sent: 0 lost: 0.").count(),
                seen,
                "{said}"
            );
        }
    }
    let mut serving = quiet(home)
        .args([
            "mirror",
            "serve",
            "--mirror-dir",
            "inside",
            "--listen",
            "127.0.0.1:0",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(serving.stderr.take().unwrap()).lines();
    let url = said.find_map(|line| {
        let line = line.unwrap();
        let (_, url) = line.split_once("Serving the mirror at ")?;
        Some(url.trim().to_owned())
    });
    for template in &templates {
        let served = [
            "dev",
            "--check",
            "--mirror",
            url.as_deref().unwrap(),
            template,
        ];
        let output = quiet(home)
            .args(served)
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .output()
            .unwrap();
        done(&output);
    }
    serving.kill().unwrap();
    serving.wait().unwrap();
}
