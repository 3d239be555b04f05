//! What is left of a sync that was killed.

use std::process::Stdio;

use outpost::{mirror::Store, registry::Platform};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use super::{
    origin::{Origin, Publisher},
    round_trip::{done, quiet, run},
};

/// Moments at which it is killed.
const KILLS: usize = 12;

const SYNC: [&str; 4] = ["mirror", "sync", "--mirror-dir", "mirror"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_sync_leaves_a_good_mirror_and_goes_on_where_it_was() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let platform = Platform::current().to_string();
    let addr = "registry.example/acme/coder";
    for version in ["1.0.0", "1.1.0", "1.2.0", "2.0.0"] {
        origin.publish(&publisher, addr, version, &[&platform], 200_000);
    }
    let config = format!(
        "[[providers]]\nsource = \"{addr}\"\nversions = [\">= 1.0\"]\npolicy = \"all-matching\"\n{}",
        origin.host("registry.example")
    );
    let home = || {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("mirror.toml"), &config).unwrap();
        dir
    };
    let undisturbed = home();
    done(&run(undisturbed.path(), &SYNC));
    let whole = origin.count();
    let expected = Store::open(&undisturbed.path().join("mirror")).unwrap();
    let (_, expected) = expected.newest().unwrap();

    let dir = home();
    let mut random = StdRng::seed_from_u64(11);
    let mut kept = 0;
    for _ in 0..KILLS {
        // At a request, or where its answer is on the way; later ones have less to ask for, and may be done before.
        let moment = origin.count() + random.random_range(1..=whole);
        let mut command = tokio::process::Command::from(quiet(dir.path()));
        command
            .args(SYNC)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        tokio::select! {
            () = origin.counts(moment) => {}
            status = child.wait() => assert!(status.unwrap().success()),
        }
        child.kill().await.unwrap();

        let store = Store::open(&dir.path().join("mirror")).unwrap();
        if let Ok((_, generation)) = store.newest() {
            assert_eq!(generation, expected, "a generation is whole or not there");
        }
        let blobs = store.blobs().unwrap();
        for digest in &blobs {
            store.verify(*digest).unwrap();
        }
        assert!(blobs.len() >= kept, "what was there stays");
        kept = blobs.len();
    }

    done(&run(dir.path(), &SYNC));

    let store = Store::open(&dir.path().join("mirror")).unwrap();
    assert_eq!(store.newest().unwrap().1, expected);
    assert!(kept > 0, "nothing was kept of {KILLS} runs");
    let verified = done(&run(
        dir.path(),
        &["mirror", "verify", "--mirror-dir", "mirror"],
    ));
    assert!(!verified.contains("damaged"), "{verified}");
}
