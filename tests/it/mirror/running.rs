//! A provider that runs while another job installs it: what engines do to a shared plugin cache, and what a mirror spares them.

use std::{
    fs,
    io::{Cursor, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use outpost::{
    mirror::{
        Generation, Store,
        generation::{Package, Provider},
        serve,
    },
    net::listener::{Limits, Listener},
    registry::Platform,
    stop::Stop,
};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::{
    round_trip::{done, quiet},
    serve::NO_WAY_OUT,
};
use crate::{
    daemon::authority,
    support::{go_install, skip::skipped},
};

const VERSION: &str = "2.20.0";

/// A store with the real provider, whose program is busy while it runs, as a script's text is not.
async fn filled(dir: &Path) -> Result<Store, String> {
    let module = format!("github.com/coder/terraform-provider-coder/v2@v{VERSION}");
    let program = go_install(&module, "terraform-provider-coder")?;
    outpost::net::install_crypto_provider();
    let store = Store::open(dir).unwrap();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(0o755);
    zip.start_file(format!("terraform-provider-coder_v{VERSION}"), options)
        .unwrap();
    zip.write_all(&fs::read(program).unwrap()).unwrap();
    let content = zip.finish().unwrap().into_inner();
    let (archive, platform) = (store.put(&content).unwrap(), Platform::current());
    let filename = format!("terraform-provider-coder_{VERSION}_{platform}.zip");
    let (h1_zip, h1_tree) = store.checksums(archive, &filename).unwrap();
    let package = Package {
        platform,
        filename,
        archive,
        size: content.len() as u64,
        h1_zip,
        h1_tree,
    };
    let provider = Provider {
        addr: "registry.terraform.io/coder/coder".parse().unwrap(),
        version: VERSION.parse().unwrap(),
        protocols: vec!["5.0".to_owned()],
        signed: None,
        packages: vec![package],
    };
    let generation = Generation {
        providers: vec![provider],
        ..Generation::default()
    };
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
    Ok(store)
}

/// A template whose apply stands still, with the provider running, until somebody writes into the second pipe.
struct Standing<'a> {
    home: &'a Path,
}

impl<'a> Standing<'a> {
    fn new(home: &'a Path) -> Self {
        let running = format!(
            r#"
resource "terraform_data" "stand" {{
  count = data.coder_workspace.me.start_count
  provisioner "local-exec" {{
    command = "echo running > {0}/running && read line < {0}/go"
  }}
}}
data "coder_workspace_owner" "after" {{
  depends_on = [terraform_data.stand]
}}
"#,
            home.display()
        );
        let template = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
"#;
        for pipe in ["running", "go"] {
            mkfifo(&home.join(pipe), Mode::S_IRWXU).unwrap();
        }
        for (name, more) in [("first", running.as_str()), ("second", "")] {
            fs::create_dir(home.join(name)).unwrap();
            fs::write(home.join(name).join("main.tf"), template.to_owned() + more).unwrap();
        }
        Self { home }
    }

    /// Returns when the apply stands, or says what the program said when it ended before.
    async fn stands(&self, child: Child) -> Child {
        let pipe = self.home.join("running");
        let running = tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            fs::File::open(pipe)
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            said
        });
        let id = child.id().cast_signed();
        let ended = tokio::task::spawn_blocking(move || {
            // Looks without taking the status away from `Child`.
            let id = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(id));
            let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
            nix::sys::wait::waitid(id, flags).unwrap()
        });
        tokio::select! {
            said = running => assert_eq!(said.unwrap(), "running\n"),
            status = ended => {
                // Whoever waits at the pipe is let go.
                fs::OpenOptions::new().write(true).open(self.home.join("running")).unwrap();
                let output = child.wait_with_output().unwrap();
                panic!("{status:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        child
    }

    fn go(&self) {
        fs::write(self.home.join("go"), "go\n").unwrap();
    }
}

/// An engine with a plugin cache that others use, too, and a network mirror.
fn engine(home: &Path, template: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("terraform");
    command
        .args(arguments)
        .current_dir(home.join(template))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("TF_CLI_CONFIG_FILE", home.join("config.tfrc"))
        .env("TF_PLUGIN_CACHE_DIR", home.join("cache"))
        .env("CHECKPOINT_DISABLE", "1")
        .env("HTTPS_PROXY", NO_WAY_OUT)
        .env("SSL_CERT_FILE", home.join("authorities.pem"))
        .env("CODER_AGENT_URL", "http://127.0.0.1:9")
        .env("CODER_WORKSPACE_TRANSITION", "start")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_job_fails_with_a_shared_plugin_cache_while_the_first_applies_and_passes_with_a_mirror()
 {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    let store = match filled(&home.join("store")).await {
        Ok(store) => store,
        Err(why) => {
            return skipped("a real provider that runs", why);
        }
    };
    let standing = Standing::new(home);

    // Engines as they are.
    let (authority, tls) = authority(home);
    fs::write(home.join("authorities.pem"), authority).unwrap();
    fs::create_dir(home.join("cache")).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Some(&tls), Limits::standard());
    let listener = listener.await.unwrap();
    let config = format!(
        "provider_installation {{\n  network_mirror {{\n    url = \"{}mirror/\"\n  }}\n}}\n",
        listener.url()
    );
    fs::write(home.join("config.tfrc"), config).unwrap();
    let router = serve::Server::new(store, serve::Access::default()).router();
    tokio::spawn(listener.serve(router, Stop::new()));
    let output = engine(home, "first", &["init"]).output().unwrap();
    done(&output);
    let applying = engine(home, "first", &["apply", "-auto-approve", "-no-color"]);
    let applying = standing.stands({ applying }.spawn().unwrap()).await;
    let second = engine(home, "second", &["init", "-no-color"])
        .output()
        .unwrap();
    standing.go();
    done(&applying.wait_with_output().unwrap());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("text file busy"),
        "{said}"
    );

    // Ours, with the same templates and the same packages.
    let job = |template: &str| {
        let mirror = home.join("store").display().to_string();
        let mut command = quiet(home);
        command
            .args([
                "dev",
                "--check",
                "--coder-provider",
                "registry",
                "--mirror",
                &mirror,
                template,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let applying = standing.stands(job("first").spawn().unwrap()).await;
    done(&job("second").output().unwrap());
    standing.go();
    // The workspace is started a second time.
    let applying = standing.stands(applying).await;
    standing.go();
    done(&applying.wait_with_output().unwrap());
}
