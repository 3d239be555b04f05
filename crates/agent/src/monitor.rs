//! Usage of memory and volumes.
//!
//! # Source
//! coder `agent/proto/resourcesmonitor`.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use outpost_transport::drpc::CallError;
use outpost_wire::proto::coder::agent::v2::{
    GetResourcesMonitoringConfigurationRequest, GetResourcesMonitoringConfigurationResponse,
    PushResourcesMonitoringUsageRequest, PushResourcesMonitoringUsageResponse,
    push_resources_monitoring_usage_request::{
        Datapoint,
        datapoint::{MemoryUsage, VolumeUsage},
    },
};
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::{rpc::Rpc, stamp};

/// Number of measurements that are kept, whatever the server asks for.
const MAX_POINTS: usize = 1000;

/// Measures and reports until the connection breaks, if the server wants it.
pub(super) async fn run(rpc: &Rpc) -> Result<(), CallError> {
    if !rpc.knows(4) {
        return std::future::pending().await;
    }
    let request = GetResourcesMonitoringConfigurationRequest {};
    let asked: Result<GetResourcesMonitoringConfigurationResponse, CallError> = rpc
        .call("GetResourcesMonitoringConfiguration", &request)
        .await;
    let wanted = match asked {
        Ok(wanted) => wanted,
        Err(error @ CallError::Lost(_)) => return Err(error),
        Err(error) => {
            debug!(%error, "cannot get the resource monitoring settings from the server");
            return std::future::pending().await;
        }
    };
    let config = wanted.config.unwrap_or_default();
    let memory = wanted.memory.is_some_and(|memory| memory.enabled);
    let volumes: Vec<String> = wanted
        .volumes
        .into_iter()
        .filter(|volume| volume.enabled)
        .map(|volume| volume.path)
        .collect();
    let pause = u64::try_from(config.collection_interval_seconds).unwrap_or_default();
    let count = usize::try_from(config.num_datapoints).unwrap_or_default();
    if pause == 0 || count == 0 || !memory && volumes.is_empty() {
        return std::future::pending().await;
    }
    let count = count.min(MAX_POINTS);
    let mut points = VecDeque::new();
    let mut tick = interval(Duration::from_secs(pause));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if points.len() >= count {
            points.pop_front();
        }
        points.push_back(Datapoint {
            collected_at: Some(stamp(Timestamp::now())),
            memory: if memory { memory_usage() } else { None },
            volumes: volumes
                .iter()
                .filter_map(|path| volume_usage(path))
                .collect(),
        });
        if points.len() == count {
            let datapoints = points.iter().cloned().collect();
            let request = PushResourcesMonitoringUsageRequest { datapoints };
            let _: PushResourcesMonitoringUsageResponse =
                rpc.call("PushResourcesMonitoringUsage", &request).await?;
        }
    }
}

/// Returns the limit and the usage of the control group, or of the machine if there is no limit.
fn memory_usage() -> Option<MemoryUsage> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<i64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: i64 = line
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        kib.checked_mul(1024)
    };
    let number =
        |path: &str| -> Option<i64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let total = field("MemTotal")?;
    let bounded = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ];
    let bounded = bounded
        .into_iter()
        .find_map(|(limit, used)| Some((number(limit)?, number(used)?)));
    let (total, used) = match bounded {
        Some((limit, used)) if limit < total => (limit, used),
        _ => (total, total - field("MemAvailable")?),
    };
    Some(MemoryUsage { used, total })
}

fn volume_usage(path: &str) -> Option<VolumeUsage> {
    match statvfs(path) {
        Ok(found) => {
            let size = found.fragment_size();
            let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(size)).ok();
            let total = bytes(found.blocks())?;
            Some(VolumeUsage {
                volume: path.to_owned(),
                used: total - bytes(found.blocks_available())?,
                total,
            })
        }
        Err(error) => {
            debug!(path, %error, "cannot measure a volume");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_volumes_are_measured() {
        let memory = memory_usage().unwrap();
        assert!(0 < memory.used && memory.used <= memory.total, "{memory:?}");
        let volume = volume_usage("/").unwrap();
        assert!(
            0 < volume.total && volume.used <= volume.total,
            "{volume:?}"
        );
        assert_eq!(volume_usage("/nowhere/at/all"), None);
    }
}
