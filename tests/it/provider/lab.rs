//! A directory with a template in which Terraform runs with one of the two providers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use crate::support::{go_install, skip::skipped};
use outpost::{mirror::builtin::BuiltinPackages, provision::ProviderPackages, registry::Platform};
use serde_json::Value;
use tempfile::TempDir;

/// The version we compare with.
const VERSION: &str = "2.20.0";

/// The beginning of a template that uses the provider.
pub const HEADER: &str =
    "terraform {\n  required_providers {\n    coder = { source = \"coder/coder\" }\n  }\n}\n";

/// A provider: a mirror that has nothing else.
#[derive(Clone, Debug)]
pub struct Provider {
    mirror: PathBuf,
}

impl Provider {
    /// Ours, from the binary under test.
    pub fn builtin() -> Self {
        static MIRROR: OnceLock<PathBuf> = OnceLock::new();
        let mirror = MIRROR.get_or_init(|| {
            let packages = BuiltinPackages {
                dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("builtin"),
                executable: env!("CARGO_BIN_EXE_outpost").into(),
            };
            packages.mirror(None).unwrap()
        });
        Self {
            mirror: mirror.clone(),
        }
    }

    /// The original, built once and kept in the target directory; `None`, with a note, if Go cannot build it.
    pub fn real() -> Option<Self> {
        static MIRROR: OnceLock<Option<PathBuf>> = OnceLock::new();
        let mirror = MIRROR.get_or_init(|| match build_real() {
            Ok(mirror) => Some(mirror),
            Err(why) => {
                skipped("comparisons with coder/coder", why);
                None
            }
        });
        mirror.clone().map(|mirror| Self { mirror })
    }
}

impl Provider {
    /// A configuration of Terraform's with which this is the only provider there is.
    pub fn cli_config(&self) -> String {
        let mirror = self.mirror.display().to_string();
        format!(
            "disable_checkpoint = true\nprovider_installation {{\n  filesystem_mirror {{\n    path = {mirror:?}\n  }}\n}}\n"
        )
    }
}

fn build_real() -> Result<PathBuf, String> {
    let mirror = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("coder-{VERSION}"));
    let package = mirror
        .join("registry.terraform.io/coder/coder")
        .join(VERSION)
        .join(Platform::current().to_string());
    let binary = package.join(format!("terraform-provider-coder_v{VERSION}"));
    if binary.is_file() {
        return Ok(mirror);
    }
    let module = format!("github.com/coder/terraform-provider-coder/v2@v{VERSION}");
    let built = go_install(&module, "terraform-provider-coder")?;
    fs::create_dir_all(&package).map_err(|e| e.to_string())?;
    fs::rename(built, binary).map_err(|e| e.to_string())?;
    Ok(mirror)
}

/// The template `case`, from `testdata/provider`.
pub fn template(case: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/provider")
        .join(case);
    fs::read_to_string(path.join("main.tf")).unwrap()
}

/// One template with one state.
pub struct Lab {
    dir: TempDir,
    provider: Provider,
}

impl Lab {
    /// A directory with `source` as its only file.
    pub fn new(source: &str, provider: &Provider) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("main.tf"), source).unwrap();
        let lab = Self {
            dir,
            provider: provider.clone(),
        };
        lab.configure();
        lab
    }

    fn configure(&self) {
        let text = self.provider.cli_config();
        fs::write(self.dir.path().join("terraform.rc"), text).unwrap();
    }

    /// Goes on with another provider, as if nothing had been initialised.
    pub fn switch_to(&mut self, provider: &Provider) {
        self.provider = provider.clone();
        self.configure();
        fs::remove_dir_all(self.dir.path().join(".terraform")).unwrap();
        fs::remove_file(self.dir.path().join(".terraform.lock.hcl")).unwrap();
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let inherited = ["PATH", "HOME", "TMPDIR"];
        let inherited = inherited
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        Command::new("terraform")
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .env_clear()
            .envs(inherited)
            .env("TF_CLI_CONFIG_FILE", self.dir.path().join("terraform.rc"))
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    fn succeed(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = self.run(arguments, environment);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "terraform {arguments:?} with {:?}: {stdout}{}",
            self.provider,
            String::from_utf8_lossy(&output.stderr)
        );
        stdout
    }

    /// `terraform init`.
    pub fn init(&self) {
        self.succeed(&["init", "-no-color", "-input=false"], &[]);
    }

    /// Plans into a file and returns it as JSON.
    pub fn plan(&self, environment: &[(&str, &str)]) -> Value {
        self.succeed(
            &["plan", "-no-color", "-input=false", "-out=plan"],
            environment,
        );
        self.json(&["show", "-json", "plan"], &[])
    }

    /// Applies what was planned last.
    pub fn apply(&self, environment: &[(&str, &str)]) {
        self.succeed(&["apply", "-no-color", "-input=false", "plan"], environment);
    }

    /// The state as JSON.
    pub fn state(&self) -> Value {
        self.json(&["show", "-json"], &[])
    }

    /// Whether another plan would change anything.
    pub fn has_changes(&self, environment: &[(&str, &str)]) -> bool {
        let arguments = ["plan", "-no-color", "-input=false", "-detailed-exitcode"];
        let output = self.run(&arguments, environment);
        match output.status.code() {
            Some(0) => false,
            Some(2) => {
                println!("{}", String::from_utf8_lossy(&output.stdout));
                true
            }
            _ => panic!(
                "terraform plan: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    /// What a command prints as JSON.
    pub fn json(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Value {
        serde_json::from_str(&self.succeed(arguments, environment)).unwrap()
    }

    /// What a command prints, whether it succeeds or not.
    pub fn output(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(arguments, &[]).stdout).unwrap()
    }
}
