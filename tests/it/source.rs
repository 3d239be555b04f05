//! What we write for Terraform, read by Terraform: the CLI configuration, lock files, archives.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use outpost::{
    files::{
        archive::{extract_template, pack_template},
        beneath::Dir,
    },
    language::{
        Constraint,
        cli_config::{CliConfig, Installation, Method},
        lock::{FILE_NAME, Lock, LockedProvider},
    },
    registry::{Platform, h1_of_dir},
    stop::Stop,
};

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = "!= 2.2.0, < 3, >= 2.0, ~> 2.1"
    }
    plain = {
      source = "example.com/acme/plain"
    }
  }
}
"#;

/// A template and a mirror with packages that init installs without running them.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(site.template()).unwrap();
        fs::write(site.template().join("main.tf"), TEMPLATE).unwrap();
        for version in ["2.1.0", "2.3.0"] {
            site.publish("registry.terraform.io/coder/coder", version);
        }
        site.publish("example.com/acme/plain", "1.0.0");
        site
    }

    fn template(&self) -> PathBuf {
        self.dir.path().join("template")
    }

    /// A name that must be quoted.
    fn mirror(&self) -> PathBuf {
        self.dir.path().join("mirror \"${x}\" \\ %{y}")
    }

    fn package(&self, addr: &str, version: &str) -> PathBuf {
        let platform = Platform::current().to_string();
        self.mirror().join(addr).join(version).join(platform)
    }

    fn publish(&self, addr: &str, version: &str) {
        let (package, kind) = (
            self.package(addr, version),
            addr.rsplit('/').next().unwrap(),
        );
        fs::create_dir_all(package.join("docs")).unwrap();
        fs::write(package.join("docs/README.md"), version).unwrap();
        let program = package.join(format!("terraform-provider-{kind}_v{version}"));
        fs::write(&program, version).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What an operator has, with our mirror in front.
    fn write_config(&self) -> PathBuf {
        let mut config = CliConfig::parse("disable_checkpoint = true\n").unwrap();
        let more = r#"{"credentials": {"app.example.com": {"token": "x\"${y}"}}}"#;
        config.append(CliConfig::parse(more).unwrap());
        let mut installation = Installation::default();
        installation.methods.push(Method::direct_except(Vec::new()));
        let ours = ["registry.terraform.io/coder/coder", "example.com/*/*"].map(str::to_owned);
        let mirror = self.mirror();
        installation.prefer(Method::filesystem_mirror(
            mirror.to_str().unwrap(),
            ours.to_vec(),
        ));
        config.set_installation(&installation);
        let path = self.dir.path().join("config.tfrc");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn init(&self, template: &Path, arguments: &[&str]) -> Output {
        Command::new("terraform")
            .arg("init")
            .args(["-no-color", "-input=false"])
            .args(arguments)
            .current_dir(template)
            .env("TF_CLI_CONFIG_FILE", self.write_config())
            .env("CHECKPOINT_DISABLE", "1")
            .output()
            .expect("terraform is on the PATH")
    }

    /// The lock file that we expect.
    fn lock(&self) -> Lock {
        let locked = |addr: &str, version: &str, constraints: &str| {
            let provider = LockedProvider {
                version: version.parse().unwrap(),
                constraints: Constraint::parse(constraints).unwrap().to_string(),
                hashes: vec![h1_of_dir(&self.package(addr, version)).unwrap()],
            };
            (addr.parse().unwrap(), provider)
        };
        let coder = "!= 2.2.0, < 3, >= 2.0, ~> 2.1";
        Lock {
            providers: [
                locked("registry.terraform.io/coder/coder", "2.3.0", coder),
                locked("example.com/acme/plain", "1.0.0", ""),
            ]
            .into(),
        }
    }
}

#[track_caller]
fn assert_success(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "", "{stdout}");
}

#[test]
fn terraform_writes_the_lock_file_that_we_would_write() {
    let site = Site::new();

    assert_success(&site.init(&site.template(), &[]));

    let written = fs::read_to_string(site.template().join(FILE_NAME)).unwrap();
    assert_eq!(site.lock().to_string(), written);
    assert_eq!(Lock::parse(&written).unwrap(), site.lock());
}

#[test]
fn terraform_accepts_the_lock_file_that_we_write() {
    let site = Site::new();
    fs::write(site.template().join(FILE_NAME), site.lock().to_string()).unwrap();

    assert_success(&site.init(&site.template(), &["-lockfile=readonly"]));
}

#[test]
fn a_template_that_was_packed_and_unpacked_is_the_same_to_terraform() {
    let site = Site::new();
    fs::write(site.template().join(FILE_NAME), site.lock().to_string()).unwrap();
    let copy = site.dir.path().join("copy");
    fs::create_dir(&copy).unwrap();

    let archive = pack_template(&site.template()).unwrap();
    extract_template(&archive, &Dir::open(&copy).unwrap(), &Stop::new()).unwrap();

    assert_success(&site.init(&copy, &["-lockfile=readonly"]));
}
