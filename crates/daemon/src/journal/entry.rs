//! Entry of the journal: everything that is kept of one job. Pure.
//!
//! As bytes it is a length of four bytes, that much JSON, and the state.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::{
    job::{BuildResult, JobId, Transition, WorkspaceBuild},
    rules::state::Outline,
};
use outpost_provision::Identity;
use serde::{Deserialize, Serialize};

/// A job whose apply has begun, and whose state the server has not acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Id of the job.
    pub job: JobId,
    /// Name of the daemon, under which alone the server accepts the job's end.
    pub daemon: String,
    /// URL of the server.
    pub server: String,
    /// Id of the build at the server, a UUID as text.
    pub build: String,
    /// Start, stop, or destroy.
    pub transition: Transition,
    /// Name of the workspace.
    pub workspace: String,
    /// Name of its owner.
    pub owner: String,
    /// Id of the workspace at the server, a UUID as text.
    pub workspace_id: String,
    /// Time when apply began.
    pub began_at: Timestamp,
    /// Time of the last write.
    pub updated_at: Timestamp,
    /// Working directories of the engine; its state file is in the first one.
    pub dirs: Vec<PathBuf>,
    /// Resources that apply began to create, by address, unless apply failed in an orderly way.
    pub begun: BTreeMap<String, Begun>,
    /// Reason why the server refuses the state; a person must then decide. `None` if it did not.
    pub refused: Option<String>,
    /// Time when the server accepted the state although it may have given the job up before: a newer build, which
    /// does not know the state, may have begun in between.
    #[serde(default)]
    pub taken_late_at: Option<Timestamp>,
    /// Serial of the state that the job began with.
    #[serde(default)]
    pub base: Option<u64>,
    /// Jobs whose kept states this one includes.
    #[serde(default)]
    pub(crate) supersedes: Vec<JobId>,
    /// Time when the server last answered about the job.
    #[serde(default)]
    pub(crate) answered_at: Option<Timestamp>,
    /// Result that a success will have, as far as it was known before the apply.
    #[serde(default)]
    pub planned: BuildResult,
    /// Result of the job, once it has succeeded; its state is [`Self::state`].
    #[serde(default)]
    pub result: Option<BuildResult>,
    /// Newest state that is complete; empty if there never was one.
    #[serde(skip)]
    pub state: Bytes,
}

/// Progress of a resource that apply began to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Begun {
    /// Creation begun, with unknown result.
    Running,
    /// Created according to the engine; the state should contain it.
    Created,
}

impl Entry {
    /// Creates the entry of a build that is about to apply.
    pub fn new(job: JobId, owner: &Identity, build: &WorkspaceBuild, now: Timestamp) -> Self {
        Self {
            job,
            daemon: owner.name.clone(),
            server: owner.server.clone(),
            build: build.build_id.clone(),
            transition: build.metadata.transition,
            workspace: build.workspace_name.clone(),
            owner: build.metadata.workspace_owner.clone(),
            workspace_id: build.metadata.workspace_id.clone(),
            began_at: now,
            updated_at: now,
            dirs: Vec::new(),
            begun: BTreeMap::new(),
            refused: None,
            taken_late_at: None,
            base: Outline::read(&build.state).map(|outline| outline.serial),
            supersedes: Vec::new(),
            answered_at: None,
            planned: BuildResult::default(),
            result: None,
            state: build.state.clone(),
        }
    }

    /// Returns whether a daemon will deliver the entry by itself.
    pub fn is_pending(&self) -> bool {
        self.refused.is_none()
    }

    /// Returns whether no server has the state and nobody will deliver it, so that a person, or the workspace's next
    /// job, must act.
    pub(crate) fn is_kept(&self) -> bool {
        self.refused.is_some() && self.taken_late_at.is_none()
    }

    /// Returns the resources that apply began to create and the state does not contain: they may exist all the same.
    pub fn unfinished(&self) -> Vec<String> {
        let known = Outline::read(&self.state).unwrap_or_default().addresses;
        let begun = self.begun.keys();
        begun
            .filter(|address| !known.contains(*address))
            .cloned()
            .collect()
    }

    /// Returns one sentence on [`Self::unfinished`]; `None` if everything is known.
    pub fn warning(&self) -> Option<String> {
        let unfinished = self.unfinished();
        (!unfinished.is_empty()).then(|| {
            format!(
                "resources whose creation had begun may exist; check these by hand: {}",
                unfinished.join(", ")
            )
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let head = serde_json::to_vec(self).expect("an entry has a JSON form");
        let length = u32::try_from(head.len()).expect("an entry without its state is small");
        let mut bytes = Vec::with_capacity(4 + head.len() + self.state.len());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&self.state);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (head, state) = rest.split_at_checked(length)?;
        let entry: Self = serde_json::from_slice(head).ok()?;
        Some(Self {
            state: Bytes::copy_from_slice(state),
            ..entry
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn entry() -> Entry {
        let build = WorkspaceBuild {
            state: Bytes::from_static(
                br#"{"resources":[{"mode":"managed","type":"a","name":"known","instances":[{}]}]}"#,
            ),
            ..WorkspaceBuild::default()
        };
        let mut entry = Entry::new(
            JobId(Uuid::from_u128(1)),
            &Identity {
                server: "https://coder.example/".to_owned(),
                name: "ada-1".to_owned(),
            },
            &build,
            Timestamp::UNIX_EPOCH,
        );
        entry.begun.insert("a.known".to_owned(), Begun::Created);
        entry.begun.insert("a.lost".to_owned(), Begun::Running);
        entry
    }

    #[test]
    fn an_entry_survives_its_form_on_disk() {
        let entry = entry();

        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Some(entry));
        for length in 0..bytes.len() - 80 {
            assert_eq!(Entry::decode(&bytes[..length]), None, "{length}");
        }
    }

    #[test]
    fn an_entry_of_the_first_version_is_read() {
        let old = r#"{"job":"00000000-0000-0000-0000-000000000001","daemon":"ada-1","server":"https://coder.example/",
            "build":"b","transition":"start","workspace":"dev","owner":"ann","workspace_id":"w",
            "began_at":"1970-01-01T00:00:00Z","updated_at":"1970-01-01T00:00:00Z","dirs":[],"begun":{},"refused":null}"#;
        let length = u32::try_from(old.len()).unwrap().to_be_bytes();
        let bytes = [&length[..], old.as_bytes(), b"{}"].concat();

        let entry = Entry::decode(&bytes).unwrap();

        assert_eq!((&entry.state[..], entry.base), (&b"{}"[..], None));
        assert!(entry.is_pending() && !entry.is_kept());
    }

    #[test]
    fn what_the_state_does_not_know_is_named() {
        assert_eq!(entry().unfinished(), ["a.lost"]);
        assert!(entry().warning().unwrap().ends_with("by hand: a.lost"));
    }
}
