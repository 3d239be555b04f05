//! What is left of an import that was killed.

use std::{io::Write as _, process::Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use outpost::{
    mirror::{Generation, generation::StaticFile, keys::SecretKey},
    stop::Stop,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Site, bundled, planned, provider};

/// Moments at which it is killed.
const KILLS: usize = 12;

#[tokio::test]
async fn a_killed_import_leaves_a_good_mirror_and_goes_on_where_it_was() {
    let (outside, inside) = (Site::new(), Site::new());
    let (origin, key) = (outside.store(), SecretKey::generate().unwrap());
    let file = |number: u8| StaticFile {
        url: format!("https://files.example/{number:02}"),
        content: origin.put(&vec![number; 40_000]).unwrap(),
        size: 40_000,
    };
    let generation = Generation {
        files: (0..20).map(file).collect(),
        providers: vec![provider(&origin, "1.0.0")],
        ..Generation::default()
    };
    let bundle = bundled(&origin, &planned(&origin, generation.clone(), 2), &key);
    let before = bundled(&origin, &planned(&origin, Generation::default(), 1), &key);
    std::fs::write(inside.path("before"), before).unwrap();
    std::fs::write(inside.path("site.pub"), key.public().to_file()).unwrap();
    inside.done(&["import", "before", "--trust", "site.pub"]);
    let mut random = StdRng::seed_from_u64(7);
    let mut kept = 0;
    for _ in 0..KILLS {
        // So much of the bundle arrives, then the power fails.
        let length = random.random_range(0..bundle.len());
        let mut child = inside
            .command(&["import", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(&bundle[..length]).unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGKILL).unwrap();
        child.wait().unwrap();

        let store = inside.store();
        assert_eq!(store.newest().unwrap(), (1, Generation::default()));
        let blobs = store.blobs().unwrap();
        for digest in &blobs {
            store.verify(*digest).unwrap();
        }
        assert!(blobs.len() >= kept, "what was there stays");
        kept = blobs.len();
    }

    std::fs::write(inside.path("bundle"), &bundle).unwrap();
    let done = inside.done(&["import", "bundle", "--output", "json"]);

    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    let fresh = usize::try_from(done["new_files"].as_u64().unwrap()).unwrap();
    assert_eq!(fresh + kept, generation.digests().len());
    assert!(kept > 0, "nothing was kept of {KILLS} imports");
    assert_eq!(inside.store().newest().unwrap(), (2, generation));
    drop(inside.store().lock(&Stop::new()).await.unwrap());
}
