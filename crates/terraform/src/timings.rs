//! Durations of steps, from the events that begin and end them. Pure: time comes with the events. Pure: time comes
//! with the events.
//!
//! # Source
//! coder `provisioner/terraform/{timings,inittimings}.go`.

use std::collections::HashMap;

use jiff::{Timestamp, TimestampRound, Unit};
use outpost_base::job::{Timing, TimingState};
use outpost_provision::ApplyObserver;
use serde::Deserialize;

use super::log_stream::Timed;

/// Subject of an event: a resource and an action.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Hook {
    action: String,
    resource: HookResource,
}

impl Timed {
    /// Reports to the observer which resource was created, or may have been.
    pub(super) fn tell(&self, observer: &dyn ApplyObserver) {
        let address = self.hook.resource.addr.as_str();
        if self.hook.action != "create" || address.is_empty() {
            return;
        }
        match self.kind.as_str() {
            "apply_start" => observer.began(address),
            "apply_complete" => observer.created(address),
            "apply_errored" => observer.failed(address),
            _ => {}
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct HookResource {
    addr: String,
    implied_provider: String,
}

/// Steps of init in their order, by the codes of the messages that begin them.
const INIT_STEPS: [(&[&str], &str); 4] = [
    (
        &[
            "initializing_backend_message",
            "initializing_state_store_message",
        ],
        "backend",
    ),
    (
        &["initializing_modules_message", "upgrading_modules_message"],
        "modules",
    ),
    (
        &["initializing_provider_plugin_message"],
        "provider plugins",
    ),
    (
        &[
            "output_init_success_message",
            "output_init_success_cloud_message",
        ],
        "",
    ),
];

/// Timings of one stage.
#[derive(Debug)]
pub(super) struct Timings {
    stage: &'static str,
    started: HashMap<Key, Timestamp>,
    ended: Vec<Timing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    category: &'static str,
    action: String,
    resource: String,
    provider: String,
}

impl Timings {
    /// Begins the timings of `init`, `plan`, `graph` or `apply`.
    pub(super) fn begin(stage: &'static str, now: Timestamp) -> Self {
        let mut timings = Self {
            stage,
            started: HashMap::new(),
            ended: Vec::new(),
        };
        timings.started.insert(Self::stage_key(stage), rounded(now));
        timings
    }

    /// Records an event. Events that neither begin nor end a step are ignored.
    pub(super) fn observe(&mut self, event: &Timed, received: Timestamp) {
        let at = timestamp(&event.timestamp).unwrap_or(received);
        if event.kind == "init_output" {
            return self.observe_init(&event.message_code, rounded(received));
        }
        let Some((category, step)) = kind(&event.kind) else {
            return;
        };
        let key = Key {
            category,
            action: event.hook.action.clone(),
            resource: event.hook.resource.addr.clone(),
            provider: event.hook.resource.implied_provider.clone(),
        };
        match step {
            TimingState::Started => {
                self.started.insert(key, rounded(at));
            }
            TimingState::Completed | TimingState::Failed => self.end(key, rounded(at), step),
        }
    }

    /// Begins the step of init that fetches modules, which `get` does not announce itself.
    pub(super) fn begin_modules(&mut self, now: Timestamp) {
        self.observe_init("initializing_modules_message", rounded(now));
    }

    /// Ends the stage and returns all completed steps, in the order of their ends.
    pub(super) fn finish(mut self, has_succeeded: bool, now: Timestamp) -> Vec<Timing> {
        let state = if has_succeeded {
            TimingState::Completed
        } else {
            TimingState::Failed
        };
        self.end(Self::stage_key(self.stage), rounded(now), state);
        self.ended
    }

    fn stage_key(stage: &str) -> Key {
        Key {
            category: "stage",
            action: "terraform".to_owned(),
            resource: format!("coder_stage_{stage}"),
            provider: "coder".to_owned(),
        }
    }

    /// Records an event of init, whose steps end where the next one begins.
    fn observe_init(&mut self, code: &str, at: Timestamp) {
        let Some(position) = INIT_STEPS
            .iter()
            .position(|(codes, _)| codes.contains(&code))
        else {
            return;
        };
        let key = |resource: &str| Key {
            category: "init",
            action: "load".to_owned(),
            resource: resource.to_owned(),
            provider: String::new(),
        };
        if let Some(before) = position.checked_sub(1) {
            self.end(key(INIT_STEPS[before].1), at, TimingState::Completed);
        }
        if !INIT_STEPS[position].1.is_empty() {
            self.started.insert(key(INIT_STEPS[position].1), at);
        }
    }

    /// Ends a step. Of two ends with the same outcome only the later one counts. If the clock was set back, the step
    /// has no length.
    fn end(&mut self, key: Key, end: Timestamp, state: TimingState) {
        let Some(start) = self.started.get(&key) else {
            return;
        };
        let action = if key.action.is_empty() {
            key.category.to_owned()
        } else {
            key.action
        };
        self.ended.push(Timing {
            start: (*start).min(end),
            end,
            action,
            source: key.provider,
            resource: key.resource,
            stage: self.stage.to_owned(),
            state,
        });
    }
}

/// Returns the category of an event, and the state that it gives to its step.
fn kind(name: &str) -> Option<(&'static str, TimingState)> {
    use TimingState::{Completed, Failed, Started};
    Some(match name {
        "apply_start" => ("apply", Started),
        "apply_complete" => ("apply", Completed),
        "apply_errored" => ("apply", Failed),
        "provision_start" => ("provision", Started),
        "provision_complete" => ("provision", Completed),
        "provision_errored" => ("provision", Failed),
        "refresh_start" => ("state refresh", Started),
        "refresh_complete" => ("state refresh", Completed),
        "graph_start" => ("graph", Started),
        "graph_complete" => ("graph", Completed),
        "graph_errored" => ("graph", Failed),
        _ => return None,
    })
}

/// Parses a time with six fractional digits; coarser times are useless.
fn timestamp(text: &str) -> Option<Timestamp> {
    let (_, fraction) = text.split_once('.')?;
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 6 { text.parse().ok() } else { None }
}

fn rounded(time: Timestamp) -> Timestamp {
    time.round(TimestampRound::new().smallest(Unit::Microsecond))
        .unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str, addr: &str, timestamp: &str) -> Timed {
        let resource = HookResource {
            addr: addr.to_owned(),
            implied_provider: "aws".to_owned(),
        };
        Timed {
            kind: kind.to_owned(),
            message_code: String::new(),
            timestamp: timestamp.to_owned(),
            hook: Hook {
                action: action.to_owned(),
                resource,
            },
        }
    }

    fn at(second: u8) -> Timestamp {
        format!("2026-01-01T00:00:{second:02}.000001Z")
            .parse()
            .unwrap()
    }

    fn observed(events: &[Timed]) -> Vec<(String, String, i64, TimingState)> {
        let mut timings = Timings::begin("apply", at(0));
        events
            .iter()
            .for_each(|event| timings.observe(event, at(30)));
        let mut found = timings.finish(true, at(59));
        let stage = found.pop().unwrap();
        assert_eq!(
            (stage.resource.as_str(), stage.source.as_str()),
            ("coder_stage_apply", "coder")
        );
        let brief = |timing: Timing| {
            let seconds = (timing.end - timing.start).total(Unit::Second).unwrap() as i64;
            (timing.action, timing.resource, seconds, timing.state)
        };
        found.into_iter().map(brief).collect()
    }

    #[test]
    fn delete_and_create_of_one_address_are_two_steps() {
        let found = observed(&[
            event(
                "apply_start",
                "delete",
                "a.b",
                "2026-01-01T00:00:01.000000Z",
            ),
            event(
                "apply_complete",
                "delete",
                "a.b",
                "2026-01-01T00:00:03.000000Z",
            ),
            event(
                "apply_start",
                "create",
                "a.b",
                "2026-01-01T02:00:03.000000+02:00",
            ),
            event(
                "apply_errored",
                "create",
                "a.b",
                "2026-01-01T00:00:08.000000Z",
            ),
        ]);

        let step =
            |action: &str, seconds, state| (action.to_owned(), "a.b".to_owned(), seconds, state);
        let expected = [
            step("delete", 2, TimingState::Completed),
            step("create", 5, TimingState::Failed),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_step_without_its_beginning_or_end_is_left_out() {
        let found = observed(&[
            event(
                "apply_complete",
                "create",
                "a.b",
                "2026-01-01T00:00:01.000000Z",
            ),
            event(
                "apply_start",
                "create",
                "a.c",
                "2026-01-01T00:00:01.000000Z",
            ),
            event(
                "apply_progress",
                "create",
                "a.c",
                "2026-01-01T00:00:02.000000Z",
            ),
        ]);

        assert!(found.is_empty());
    }

    #[test]
    fn a_step_that_ends_before_it_begins_has_no_length() {
        let found = observed(&[
            event("refresh_start", "", "a.b", "2026-01-01T00:00:05.000000Z"),
            event("refresh_complete", "", "a.b", "2026-01-01T00:00:01.000000Z"),
        ]);

        assert_eq!(
            found,
            [(
                "state refresh".to_owned(),
                "a.b".to_owned(),
                0,
                TimingState::Completed
            )]
        );
    }

    #[test]
    fn steps_of_init_end_where_the_next_one_begins() {
        let mut timings = Timings::begin("init", at(0));
        let codes = [
            "initializing_backend_message",
            "initializing_modules_message",
            "initializing_provider_plugin_message",
            "output_init_success_message",
        ];
        for (second, code) in (1..).zip(codes) {
            let mut event = event("init_output", "", "", "2026-01-01T00:00:00Z");
            event.message_code = code.to_owned();
            timings.observe(&event, at(second));
        }

        let resources: Vec<_> = timings
            .finish(true, at(9))
            .into_iter()
            .map(|timing| timing.resource)
            .collect();
        assert_eq!(
            resources,
            ["backend", "modules", "provider plugins", "coder_stage_init"]
        );
    }

    #[test]
    fn coarse_times_count_as_received() {
        assert!(timestamp("2026-01-01T00:00:05Z").is_none());
        assert!(timestamp("2026-01-01T00:00:05.123Z").is_none());
        assert!(timestamp("2026-01-01T00:00:05.123456Z").is_some());
    }
}
