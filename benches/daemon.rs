//! What an idle daemon costs: time from its start until it waits for a job, and memory while it waits.
//!
//! Run it: cargo bench --bench daemon
//!
//! Starts the built binary with a control plane in this process as its server. `OUTPOST_BENCH_ROUNDS` sets the rounds
//! (15). Memory is `VmRSS` of the process after its first request for a job, two seconds later.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures, and prints its figures"
)]

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use outpost::{
    client::{self, Target},
    control::{self, Limits, StateKey, Storage, tokens},
    net::tls::Trust,
    proto::outpost::v1::ListDaemonsRequest,
    stop::Stop,
};
use tokio::process::Command;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let rounds = match std::env::var("OUTPOST_BENCH_ROUNDS") {
            Ok(rounds) => rounds.parse().context("OUTPOST_BENCH_ROUNDS is no number")?,
            Err(_) => 15,
        };
        for slots in [1, 30] {
            let (mut waits, mut memory) = (vec![], vec![]);
            for _ in 0..rounds {
                let idle = idle(slots).await?;
                waits.push(idle.until_waiting.as_secs_f64() * 1e3);
                memory.push(idle.resident_bytes as f64 / 1e6);
            }
            waits.sort_by(f64::total_cmp);
            memory.sort_by(f64::total_cmp);
            println!(
                "{slots:>2} slots: start to waiting {:.0} ms (best {:.0}), resident {:.1} MB (best {:.1})",
                waits[waits.len() / 2], waits[0], memory[memory.len() / 2], memory[0],
            );
        }
        Ok(())
    })
}

struct Idle {
    until_waiting: Duration,
    resident_bytes: u64,
}

/// Starts a daemon with so many slots, waits until each is known to the server, and looks at it.
async fn idle(slots: usize) -> anyhow::Result<Idle> {
    let psk = tokens::generate();
    let config = control::Config {
        storage: Storage::Memory,
        state_key: StateKey::Own,
        listen: ([127, 0, 0, 1], 0).into(),
        tls: None,
        access_url: None,
        agent_binaries: None,
        trusted_proxies: Vec::new(),
        psks: vec![psk.clone()],
        psk_file: None,
        direct_paths: control::DirectPaths::default(),
        limits: Limits::standard(),
        version: "v0.1.0".to_owned(),
    };
    let server = control::start(config, Stop::new()).await?;
    let mut api = client::connect(&Target {
        url: server.url().clone(),
        token: server.admin_token().clone(),
        trust: Trust::default(),
    })?;
    let state = tempfile::tempdir()?;
    let psk_file = state.path().join("psk");
    outpost::files::write_private(&psk_file, psk.expose().as_bytes())?;
    let started = Instant::now();
    let daemon = Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args([
            "provisioner",
            "start",
            "--server",
            "outpost",
            "--name",
            "bench",
        ])
        .arg("--url")
        .arg(server.url().as_str())
        .arg("--psk-file")
        .arg(&psk_file)
        .arg("--state-dir")
        .arg(state.path().join("state"))
        .arg("--concurrency")
        .arg(slots.to_string())
        .env_remove("TF_CLI_CONFIG_FILE")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    loop {
        let daemons = api.list_daemons(ListDaemonsRequest::default()).await?;
        if daemons.get_ref().daemons.len() == slots {
            break;
        }
        ensure!(
            started.elapsed() < Duration::from_secs(60),
            "the daemon does not come"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let until_waiting = started.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let id = daemon.id().context("the daemon ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = resident
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .context("no VmRSS")?
        .trim()
        .parse()?;
    Ok(Idle {
        until_waiting,
        resident_bytes: kilobytes * 1024,
    })
}
