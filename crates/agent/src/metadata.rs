//! Values that an agent measures by running scripts.
//!
//! # Source
//! coder `agent/agent.go` `reportMetadata`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use outpost_base::stop::Stop;
use outpost_process::{self as process, Limits, Request};
use outpost_provision::Memory;
use outpost_transport::drpc::CallError;
use outpost_wire::proto::coder::agent::v2::{
    BatchUpdateMetadataRequest, BatchUpdateMetadataResponse, Manifest, Metadata,
    workspace_agent_metadata::{Description, Result as Measured},
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{Instrument as _, debug_span};

use super::{Shared, command, rpc::Rpc, stamp};

/// Longest value in bytes.
const MAX_BYTES: usize = 10 << 10;
/// Interval at which due scripts are looked for, and new values reported.
const TICK: Duration = Duration::from_secs(1);
/// Time limit of a script that has none of its own.
const TIMEOUT: Duration = Duration::from_secs(5);
const LIMITS: Limits = Limits {
    request: Request::HangUp,
    exit_timeout: Duration::from_secs(1),
    pipe_grace: Duration::from_secs(1),
    line_bytes: 0,
    precious_bytes: 0,
    must_keep_whole: |_| false,
};

/// Decodes an interval as servers send it: a number of nanoseconds that means seconds.
pub(super) fn seconds(interval: Option<prost_types::Duration>) -> u64 {
    let interval = interval.unwrap_or_default();
    let count = interval.seconds.saturating_mul(1_000_000_000);
    let count = count.saturating_add(interval.nanos.into());
    u64::try_from(count).unwrap_or_default()
}

/// Measures and reports until the connection breaks.
pub(super) async fn run(
    shared: &Arc<Shared>,
    rpc: &Rpc,
    manifest: &Manifest,
) -> Result<(), CallError> {
    let mut due: BTreeMap<&str, Instant> = BTreeMap::new();
    let mut running = JoinSet::new();
    let mut busy = std::collections::BTreeSet::new();
    let mut news: BTreeMap<String, Measured> = BTreeMap::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let now = Instant::now();
                for wanted in &manifest.metadata {
                    let again = seconds(wanted.interval);
                    let is_due = due.get(&*wanted.key).is_none_or(|at| again > 0 && *at <= now);
                    if is_due && busy.insert(wanted.key.clone()) {
                        due.insert(&wanted.key, now + Duration::from_secs(again.max(1)));
                        let span = debug_span!("metadata", key = wanted.key);
                        running.spawn(measure(shared.clone(), wanted.clone()).instrument(span));
                    }
                }
                if !news.is_empty() {
                    let metadata = std::mem::take(&mut news).into_iter();
                    let metadata = metadata
                        .map(|(key, result)| Metadata { key, result: Some(result) })
                        .collect();
                    let request = BatchUpdateMetadataRequest { metadata };
                    let _: BatchUpdateMetadataResponse =
                        rpc.call("BatchUpdateMetadata", &request).await?;
                }
            }
            Some(Ok((key, measured))) = running.join_next() => {
                busy.remove(&key);
                news.insert(key, measured);
            }
        }
    }
}

async fn measure(shared: Arc<Shared>, wanted: Description) -> (String, Measured) {
    let began = Instant::now();
    let limit = [seconds(wanted.timeout), seconds(wanted.interval)]
        .into_iter()
        .find(|limit| *limit > 0)
        .map_or(TIMEOUT, Duration::from_secs);
    let invocation = command::invocation(&shared.account.shell, wanted.script.as_ref());
    let variables = shared.variables().into_iter();
    let command = process::Command {
        program: invocation.program,
        args: invocation.args,
        env: variables.collect(),
        dir: shared.directory(),
        confinement: None,
        outlives_us: false,
        shim: None,
        memory: Memory::default(),
    };
    let stop = Stop::new();
    let running = process::capture(&command, &LIMITS, &stop, MAX_BYTES);
    tokio::pin!(running);
    let (mut value, mut error) = (String::new(), String::new());
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = tokio::time::sleep(limit) => {
            error = format!("took longer than {} s", limit.as_secs());
            stop.kill();
            running.await
        }
    };
    match ended {
        Ok(captured) => {
            let mut bytes = captured.stdout;
            bytes.extend(captured.stderr);
            bytes.truncate(MAX_BYTES);
            value = String::from_utf8_lossy(&bytes).replace('\0', "");
            if error.is_empty() && !captured.exit.is_success() {
                error = format!("run cmd: {}", captured.exit);
            }
        }
        Err(failed) => error = failed.to_string(),
    }
    let measured = Measured {
        collected_at: Some(stamp(Timestamp::now())),
        age: i64::try_from(began.elapsed().as_secs()).unwrap_or_default(),
        value,
        error,
    };
    (wanted.key, measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_count_of_nanoseconds_that_means_seconds() {
        let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });

        assert_eq!(seconds(duration(0, 10)), 10);
        assert_eq!(seconds(duration(2, 5)), 2_000_000_005);
        assert_eq!(seconds(duration(-1, 0)), 0);
        assert_eq!(seconds(None), 0);
    }
}
