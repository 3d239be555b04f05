//! Health checks of the apps in a workspace.
//!
//! # Source
//! coder `agent/apphealth.go`.

use std::time::Duration;

use outpost_transport::drpc::CallError;
use outpost_wire::proto::coder::agent::v2::{
    AppHealth, BatchUpdateAppHealthRequest, BatchUpdateAppHealthResponse, Manifest, WorkspaceApp,
    batch_update_app_health_request::HealthUpdate, workspace_app::Healthcheck,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{Instrument as _, debug_span};

use super::rpc::Rpc;

/// Lowest HTTP status that counts as a failure.
const FAILURE: u16 = 500;

/// Counter of failures: so many in a row are tolerated, and one success is enough.
struct FailureCounter {
    threshold: i32,
    failures: i32,
    health: AppHealth,
}

impl FailureCounter {
    /// Returns the new health of the app, if it has changed.
    fn hear(&mut self, is_up: bool) -> Option<AppHealth> {
        self.failures = if is_up {
            0
        } else {
            self.failures.saturating_add(1)
        };
        let health = match (is_up, self.failures > self.threshold) {
            (true, _) => AppHealth::Healthy,
            (false, true) => AppHealth::Unhealthy,
            (false, false) => self.health,
        };
        (std::mem::replace(&mut self.health, health) != health).then_some(health)
    }
}

/// Checks the apps and reports their health until the connection breaks.
pub(super) async fn run(rpc: &Rpc, manifest: &Manifest) -> Result<(), CallError> {
    let (news, mut told) = mpsc::channel(manifest.apps.len().max(1));
    let mut asking = JoinSet::new();
    for app in &manifest.apps {
        let check = app.healthcheck.clone().unwrap_or_default();
        let pause = check.interval.and_then(|it| u64::try_from(it.seconds).ok());
        let pause = pause.filter(|it| *it > 0);
        if let (Some(pause), true) = (pause, !check.url.is_empty() && check.threshold > 0) {
            let pause = Duration::from_secs(pause);
            let span = debug_span!("health", app = app.slug);
            asking.spawn(ask(app.clone(), check, pause, news.clone()).instrument(span));
        }
    }
    drop(news);
    while let Some(update) = told.recv().await {
        let mut updates = vec![update];
        while let Ok(update) = told.try_recv() {
            updates.push(update);
        }
        let request = BatchUpdateAppHealthRequest { updates };
        let _: BatchUpdateAppHealthResponse = rpc.call("BatchUpdateAppHealths", &request).await?;
    }
    std::future::pending().await
}

async fn ask(
    app: WorkspaceApp,
    check: Healthcheck,
    pause: Duration,
    news: mpsc::Sender<HealthUpdate>,
) {
    let mut judge = FailureCounter {
        threshold: check.threshold,
        failures: 0,
        health: AppHealth::Initializing,
    };
    let Ok(client) = reqwest::Client::builder().no_proxy().build() else {
        return;
    };
    let mut tick = interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let answer = timeout(pause, client.get(&check.url).send()).await;
        let is_up = matches!(answer, Ok(Ok(answer)) if answer.status().as_u16() < FAILURE);
        if let Some(health) = judge.hear(is_up) {
            let update = HealthUpdate {
                id: app.id.clone(),
                health: health.into(),
            };
            if news.send(update).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tolerated_up_to_the_threshold_and_one_success_is_enough() {
        let mut judge = FailureCounter {
            threshold: 2,
            failures: 0,
            health: AppHealth::Initializing,
        };
        let heard: Vec<_> = [false, false, false, false, true, true, false]
            .map(|is_up| judge.hear(is_up))
            .into();

        let unhealthy = Some(AppHealth::Unhealthy);
        let healthy = Some(AppHealth::Healthy);
        assert_eq!(heard, [None, None, unhealthy, None, healthy, None, None]);
    }
}
