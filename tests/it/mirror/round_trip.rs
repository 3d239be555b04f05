//! From an origin that fails into a sealed site: sync, bundle, import, and templates as they are, without a network.

use std::{
    io::{BufRead as _, BufReader, Cursor},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use outpost::registry::Platform;
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::origin::{Fault, Origin, Publisher};
use crate::{
    cli::outpost,
    support::{
        capture::{Packet, captured},
        go_install,
        skip::skipped,
    },
};

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
pub fn run(home: &Path, arguments: &[&str]) -> Output {
    quiet(home).args(arguments).output().unwrap()
}

pub fn quiet(home: &Path) -> Command {
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
pub fn done(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    out + &err
}

/// One file, from the mirror outside into the one inside.
fn carry_in(home: &Path) {
    for words in [
        "mirror key generate site",
        "mirror bundle --mirror-dir outside --key site.key --out site.opbundle",
        "mirror import --mirror-dir inside --trust site.pub site.opbundle",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        done(&run(home, &words));
    }
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
    let config =
        "[[templates]]\npath = \"templates/*\"\n".to_owned() + &origin.host("registry.example");
    std::fs::write(home.join("mirror.toml"), config).unwrap();

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

    carry_in(home);
    drop(origin);

    // Inside: without any network, and as another machine's mirror.
    let inside = home.join("inside").display().to_string();
    for template in &templates {
        let sealed = [
            "dev",
            "--sealed",
            "--check",
            "--verbose",
            "--mirror",
            &inside,
            template,
        ];
        let said = match captured(|| run(home, &sealed)) {
            Ok((ended, packets)) => {
                let said = done(&ended);
                assert!(said.contains("this run has no network access"), "{said}");
                let strange = |packet: &&Packet| packet.is_dns() || !packet.is_inside();
                let strange: Vec<_> = packets.iter().filter(strange).collect();
                assert!(strange.is_empty(), "{strange:?}");
                assert!(packets.len() > 10, "an engine asks the mirror");
                said
            }
            Err(why) => {
                skipped("the capture of a sealed run's packets", why);
                done(&run(home, &sealed))
            }
        };

        if said.contains("this run has no network access") {
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

/// A provider as its publisher releases it, on its way into a sealed site and through a build there.
async fn goes_the_whole_way(addr: &str, version: &str, program: &Path, template: &str) {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    // What an engine unpacks is the same; a large program is not worth the time here.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(0o755);
    let name = program.file_name().unwrap().to_string_lossy();
    zip.start_file(name, options).unwrap();
    std::io::copy(&mut std::fs::File::open(program).unwrap(), &mut zip).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    let (origin, here) = (Origin::start().await, Platform::current().to_string());
    origin.publish_packages(&Publisher::new(), addr, version, &[&here], vec![zip]);
    std::fs::create_dir(home.join("template")).unwrap();
    std::fs::write(home.join("template/main.tf"), template).unwrap();
    let config =
        "[[templates]]\npath = \"template\"\n".to_owned() + &origin.host("registry.terraform.io");
    std::fs::write(home.join("mirror.toml"), config).unwrap();

    done(&run(home, &["mirror", "sync", "--mirror-dir", "outside"]));
    carry_in(home);
    drop(origin);
    let inside = home.join("inside").display().to_string();
    let said = done(&run(
        home,
        &[
            "dev",
            "--sealed",
            "--check",
            "--verbose",
            "--coder-provider",
            "registry",
            "--mirror",
            &inside,
            "template",
        ],
    ));

    let (_, path) = addr.split_once('/').unwrap();
    assert!(
        said.contains(&format!("Installed provider version: {path} v{version}")),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_coder_provider_goes_the_whole_way() {
    let module = "github.com/coder/terraform-provider-coder/v2@v2.20.0";
    let program = match go_install(module, "terraform-provider-coder") {
        Ok(program) => program,
        Err(why) => return skipped("the real coder provider", why),
    };
    let template = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
}
"#;
    goes_the_whole_way(
        "registry.terraform.io/coder/coder",
        "2.20.0",
        &program,
        template,
    )
    .await;
}

/// Set to a directory in which a large provider lies unpacked, as in a filesystem mirror.
const LARGE: &str = "OUTPOST_TEST_LARGE_PROVIDER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_provider_goes_the_whole_way() {
    let Some(dir) = std::env::var_os(LARGE).map(PathBuf::from) else {
        let why = format!("{LARGE} is not set (HOST/hashicorp/aws/VERSION/PLATFORM)");
        return skipped("a large provider", why);
    };
    let files =
        std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{LARGE}={}: {e}", dir.display()));
    let program = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().unwrap().len());
    let program = program.unwrap_or_else(|| {
        panic!(
            "{LARGE}={} has no program: name HOST/hashicorp/aws/VERSION/PLATFORM itself",
            dir.display()
        )
    });
    let version = dir.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let template = r#"
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}
provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}
data "aws_partition" "here" {}
resource "terraform_data" "partition" {
  input = data.aws_partition.here.partition
}
"#;
    goes_the_whole_way(
        "registry.terraform.io/hashicorp/aws",
        version,
        &program,
        template,
    )
    .await;
}
