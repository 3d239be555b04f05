//! Fuzzing on any toolchain: every seed, then mutations of the seeds for as long as `OUTPOST_FUZZ_SECONDS` says.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

#[path = "../../fuzz/bodies.rs"]
mod bodies;

/// Time for each target if nobody says how much.
const BRIEFLY: Duration = Duration::from_millis(300);

/// Bytes of an input; what matters in these formats fits.
const MAX_BYTES: usize = 4096;

/// What breaks parsers: ends of ranges, ends of lines, flags.
const TOKENS: &[&[u8]] = &[
    &[0],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0xff; 4],
    &[0xff; 9],
    &[0, 0, 0, 0],
    &[0, 4, 0, 0],
    b"\n",
    b"\r\n",
    b"{\"@level\":\"error\",\"@message\":\"",
    b"\"state\":{",
    b"\xe2\x82",
];

#[test]
fn yamux_holds() {
    fuzz("yamux");
}

#[test]
fn drpc_frames_hold() {
    fuzz("drpc");
}

#[test]
fn inbound_messages_hold() {
    fuzz("messages");
}

#[test]
fn the_log_reader_holds() {
    fuzz("log_reader");
}

#[test]
fn bundles_hold() {
    fuzz("bundle");
}

#[test]
fn manifests_hold() {
    fuzz("manifest");
}

#[test]
fn packages_hold() {
    fuzz("zip");
}

#[test]
fn ranges_hold() {
    fuzz("range");
}

#[test]
fn links_hold() {
    fuzz("link");
}

#[test]
fn answers_of_registries_hold() {
    fuzz("registry");
}

#[test]
fn scenarios_hold() {
    fuzz("scenario");
}

#[test]
fn frames_of_relays_hold() {
    fuzz("derp");
}

#[test]
fn disco_holds() {
    fuzz("disco");
}

#[test]
fn packets_of_the_overlay_hold() {
    fuzz("tsmp");
}

#[test]
fn nodes_and_maps_hold() {
    fuzz("tailnet");
}

#[test]
fn calls_of_agents_hold() {
    fuzz("agent_calls");
}

#[test]
fn texts_for_agents_hold() {
    fuzz("agent_texts");
}

#[test]
fn a_node_holds() {
    fuzz("engine");
}

#[test]
fn the_coordinator_holds() {
    fuzz("coordinator");
}

#[test]
fn every_target_has_seeds_and_a_binary() {
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    for (name, _) in bodies::TARGETS {
        assert!(!seeds(name).is_empty(), "{name} has no seeds");
        assert!(manifest.contains(&format!("name = \"{name}\"")));
        let source = directory().join(format!("fuzz_targets/{name}.rs"));
        let source = fs::read_to_string(source).unwrap();
        assert!(source.contains(&format!("bodies::{name}(data)")));
    }
}

fn fuzz(name: &str) {
    let (_, body) = bodies::TARGETS
        .into_iter()
        .find(|(it, _)| *it == name)
        .unwrap();
    let seeds = seeds(name);
    for seed in &seeds {
        attempt(name, body, seed);
    }
    let seconds = std::env::var("OUTPOST_FUZZ_SECONDS").ok();
    let seconds: Option<u64> = seconds.map(|it| it.parse().unwrap());
    let time = seconds.map_or(BRIEFLY, Duration::from_secs);
    // A run that is not asked for must end as it did before.
    let start = seconds.map_or(0, |_| rand::rng().random());
    let mut random = StdRng::seed_from_u64(start);
    let (end, mut inputs) = (Instant::now() + time, 0_u64);
    while Instant::now() < end {
        for _ in 0..256 {
            attempt(name, body, &mutated(&seeds, &mut random));
            inputs += 1;
        }
    }
    println!("{name}: {inputs} inputs in {time:?}");
}

/// Runs one input. What fails is kept, as the next run has other random numbers.
fn attempt(name: &str, body: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
        let dir = directory().join("artifacts").join(name);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("crash-{}", uuid::Uuid::new_v4()));
        fs::write(&path, input).unwrap();
        eprintln!("{name} failed; the input is in {}", path.display());
        resume_unwind(panic);
    }
}

fn mutated(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..=input.len());
        let until = random.random_range(at..=input.len().min(at + 64));
        match random.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => drop(input.drain(at..until)),
            3 => {
                let piece = input[at..until].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            5 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let mut noise = [0; 16];
                random.fill_bytes(&mut noise);
                input.splice(at..until, noise);
            }
        }
    }
    input.truncate(MAX_BYTES);
    input
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(directory().join("corpus").join(name)).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| fs::read(path).unwrap())
        .collect()
}
