//! Templates that exchange the files of their session for what the daemon must not read or write.

use std::{fs, path::Path, time::Duration};

use outpost::{job::VariableValue, provision::PlanRequest};
use tokio::time::timeout;

use crate::engine;

/// Longer than anything takes here, so that what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(240);

const SECRET: &str = "the secret of the victim";

/// What stands in the place of a file.
#[derive(Clone, Copy, Debug)]
enum Instead {
    Link,
    Pipe,
}

impl Instead {
    fn put(self, secret: &Path, place: &Path) {
        fs::remove_file(place).ok();
        match self {
            Self::Link => std::os::unix::fs::symlink(secret, place).unwrap(),
            Self::Pipe => nix::unistd::mkfifo(place, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_template_says_of_itself_is_read_from_its_own_files() {
    for instead in [Instead::Link, Instead::Pipe] {
        for name in ["README.md", "main.tf", ".terraform.lock.hcl"] {
            let lab = engine::Lab::new();
            let secret = lab.dir.path().join("secret");
            fs::write(&secret, SECRET).unwrap();
            let mut session = lab.ready(r#"resource "terraform_data" "a" {}"#).await;
            instead.put(&secret, &lab.session_dir().join(name));

            let parsed = timeout(PATIENCE, session.parse(lab.log.clone()))
                .await
                .unwrap();

            let said = format!("{parsed:?}\n{}", lab.log.all());
            assert!(!said.contains(SECRET), "{instead:?} {name}: {said}");
            let is_of_parse = name != ".terraform.lock.hcl";
            assert_eq!(parsed.is_err(), is_of_parse, "{instead:?} {name}: {said}");
            session.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_daemon_writes_for_a_job_lands_in_its_own_files() {
    for instead in [Instead::Link, Instead::Pipe] {
        let lab = engine::Lab::new();
        let secret = lab.dir.path().join("secret");
        fs::write(&secret, SECRET).unwrap();
        let mut session = lab.ready("variable \"v\" { type = string }").await;
        let dir = lab.session_dir();
        instead.put(&secret, &dir.join("terraform.tfstate"));
        let private = format!("{}.private/variables.tfvars", dir.display());
        instead.put(&secret, Path::new(&private));
        let request = PlanRequest {
            state: r#"{"version":4,"terraform_version":"1.0.0","serial":1,"lineage":"l","outputs":{},"resources":[]}"#.into(),
            variables: vec![VariableValue {
                name: "v".to_owned(),
                value: "x".to_owned().into(),
                sensitive: false,
            }],
            ..PlanRequest::default()
        };

        let planned = session.plan(request, lab.log.clone(), &lab.stop);
        let planned = timeout(PATIENCE, planned).await.unwrap();

        assert!(
            planned.is_ok(),
            "{instead:?}: {planned:?}\n{}",
            lab.log.all()
        );
        assert_eq!(fs::read_to_string(&secret).unwrap(), SECRET);
        session.close().await;
    }
}
