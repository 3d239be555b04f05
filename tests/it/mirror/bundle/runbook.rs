//! `deploy/mirror.md`, as it stands.

use std::{fs, path::Path, process::Command};

use super::{Site, said};

/// What a shell of the runbook has: our program, and a way over the gap.
fn shell(here: &Site, there: &Site, block: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_outpost"));
    let carry = format!(
        "carry() {{ cp \"$@\" '{}/'; }}\n",
        there.dir.path().display()
    );
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", &format!("{carry}{block}")])
        .env_clear()
        .env("PATH", path)
        .env("HOME", here.dir.path())
        .env("OUTPOST_MIRROR_DIR", here.path("mirror"))
        .current_dir(here.dir.path());
    command
}

#[tokio::test]
async fn the_runbook_works_as_it_is_written() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/mirror.md");
    let text = fs::read_to_string(file).unwrap();
    let (outside, inside) = (Site::new(), Site::new());
    outside.publish("1.0.0").await;
    let mut blocks = 0;
    for block in text.split("```sh ").skip(1) {
        let block = block.split("```").next().unwrap();
        let (place, commands) = block.split_once('\n').unwrap();
        let (here, there) = match place {
            "outside" => (&outside, &inside),
            "inside" => (&inside, &outside),
            other => panic!("there is no place {other}"),
        };
        if commands.contains("--since") {
            outside.publish("1.1.0").await;
        }
        let output = shell(here, there, commands).output().unwrap();
        assert!(
            output.status.success(),
            "{place}:\n{commands}\n{}",
            said(&output)
        );
        blocks += 1;
    }
    assert!(blocks > 5, "the runbook lost its blocks");
    let (arrived, sent) = (
        inside.store().newest().unwrap(),
        outside.store().newest().unwrap(),
    );
    assert_eq!(arrived.1, sent.1);
    // What the runbook says about the lost key.
    let forge = [
        "bundle",
        "--key",
        "ann-2.key",
        "--key",
        "bob.key",
        "--sequence",
        "9",
        "--out",
        "forged",
    ];
    let error = outside.refused(&forge);
    assert!(error.contains("is revoked"), "{error}");
    let finder = Site::new();
    finder.publish("1.0.0").await;
    for file in ["ann-2.key", "ann-2.rotations", "bob.key"] {
        finder.carry(file, &outside);
    }
    finder.done(&forge);
    inside.carry("forged", &finder);
    let error = inside.refused(&["import", "forged", "--trust", "bob.pub"]);
    assert!(
        error.contains("1 of its signers are trusted, but 2 are required"),
        "{error}"
    );
}
