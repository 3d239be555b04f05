//! Decision of a job about states that earlier jobs of its workspace left in the journal. Pure.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

use bytes::Bytes;
use outpost_base::{
    job::JobId,
    rules::state::{KeptState, Outline},
};

use super::journal::Entry;

/// State that a job runs on, and the fate of the entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// State to run on in place of the server's.
    pub(super) state: Option<Bytes>,
    /// Jobs whose entries are useless once the server has the end of this one.
    pub(super) supersedes: Vec<JobId>,
    /// Jobs whose entries a person must look at, with the reasons.
    pub(super) overtaken: Vec<(JobId, String)>,
    /// Lines for the log of the job.
    pub(super) lines: Vec<String>,
}

/// Two states of which neither may be dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "nothing was planned: the daemon keeps a state of this workspace from job {job} (serial {kept}) that the server \
     never received and that has diverged from the server's state (serial {given}); a build on either one would lose track of resources in the other. On the daemon's host, `outpost recover show {job}` lists the resources in the kept state, and `--state` \
     prints it: merge the two and run `coder state push`, or destroy by hand the resources that only the kept state has; then run \
     `outpost recover forget {job}` and build again"
)]
pub(super) struct Conflict {
    job: JobId,
    kept: u64,
    given: u64,
}

/// Decides on `entries`, on which no daemon is working, for a job that got the state `given` from the server.
///
/// The newest state that continues the server's wins. One that the server accepted after it may have given the job up
/// is in the server's history, so that it never needs a person.
///
/// # Errors
/// [`Conflict`] names the first entry that has diverged from the server's state.
pub(super) fn choose(given: &Bytes, mut entries: Vec<Entry>) -> Result<Choice, Conflict> {
    entries.sort_by_key(|entry| serial(&entry.state));
    let mut choice = Choice::default();
    for entry in entries {
        let current = choice.state.as_ref().unwrap_or(given);
        let kept_state = Outline::read(&entry.state).map_or(KeptState::Known, |kept| {
            kept.kept_state(current, entry.base)
        });
        let job = entry.job;
        match kept_state {
            KeptState::Newer => {
                choice.lines.push(used(&entry, current));
                choice.state = Some(entry.state.clone());
                choice.supersedes.push(job);
            }
            KeptState::Known => choice.supersedes.push(job),
            KeptState::Overtaken(missing) => {
                let reason = overtaken(&entry, current, &missing);
                choice.lines.push(format!("job {job}: {reason}"));
                match entry.taken_late_at {
                    Some(_) => choice.supersedes.push(job),
                    None => choice.overtaken.push((job, reason)),
                }
            }
            KeptState::Conflict => {
                return Err(Conflict {
                    job,
                    kept: serial(&entry.state),
                    given: serial(current),
                });
            }
        }
        let warning = entry.warning();
        choice
            .lines
            .extend(warning.map(|text| format!("job {job}: {text}")));
    }
    Ok(choice)
}

fn serial(state: &[u8]) -> u64 {
    Outline::read(state).unwrap_or_default().serial
}

fn used(entry: &Entry, given: &[u8]) -> String {
    let given = match given.is_empty() {
        true => "no state".to_owned(),
        false => format!("serial {}", serial(given)),
    };
    let (job, began, serial) = (entry.job, entry.began_at, serial(&entry.state));
    format!(
        "using the state (serial {serial}) of job {job} from {began:.0}, which this daemon kept: the server sent {given}"
    )
}

fn overtaken(entry: &Entry, given: &[u8], missing: &[String]) -> String {
    let (given, kept, missing) = (serial(given), serial(&entry.state), missing.join(", "));
    format!(
        "the server's state (serial {given}) is newer than the one that the daemon kept (serial {kept}) but lacks \
         {missing}: unless these were destroyed in the meantime they still exist; check them by hand"
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use outpost_base::job::WorkspaceBuild;
    use outpost_provision::Identity;
    use uuid::Uuid;

    use super::*;
    use crate::journal::Begun;

    fn entry(number: u128, state: String) -> Entry {
        let identity = Identity {
            server: String::new(),
            name: "ada".to_owned(),
        };
        let job = JobId(Uuid::from_u128(number));
        let build = WorkspaceBuild::default();
        Entry {
            state: state.into(),
            refused: Some("job already completed".to_owned()),
            ..Entry::new(job, &identity, &build, Timestamp::UNIX_EPOCH)
        }
    }

    fn state(lineage: &str, serial: u64, name: &str) -> String {
        format!(
            r#"{{"lineage":"{lineage}","serial":{serial},"resources":[{{"type":"x","name":"{name}","instances":[{{}}]}}]}}"#
        )
    }

    fn id(number: u128) -> JobId {
        JobId(Uuid::from_u128(number))
    }

    #[test]
    fn the_newest_of_several_is_run_on_and_all_are_superseded() {
        let (old, new) = (state("l", 4, "a"), state("l", 6, "a"));
        let entries = vec![entry(2, new.clone()), entry(1, old)];

        let choice = choose(&state("l", 1, "a").into(), entries).unwrap();

        assert_eq!(choice.state, Some(new.into()));
        assert_eq!(choice.supersedes, [id(1), id(2)]);
        assert!(
            choice.lines[1].contains("the server sent serial 4"),
            "{:?}",
            choice.lines
        );
    }

    #[test]
    fn without_a_state_of_the_server_the_kept_one_counts() {
        let kept = state("l", 4, "a");

        let choice = choose(&Bytes::new(), vec![entry(1, kept.clone())]).unwrap();

        assert_eq!(choice.state, Some(kept.into()));
        assert!(choice.lines[0].ends_with("the server sent no state"));
    }

    #[test]
    fn an_overtaken_one_stays_until_a_person_has_looked_unless_the_server_has_it_in_its_history() {
        let given: Bytes = state("l", 7, "b").into();
        let kept = entry(1, state("l", 4, "a"));
        let late = Entry {
            taken_late_at: Some(Timestamp::UNIX_EPOCH),
            ..kept.clone()
        };

        let kept = choose(&given, vec![kept]).unwrap();
        let late = choose(&given, vec![late]).unwrap();

        assert_eq!((kept.state, kept.supersedes.as_slice()), (None, &[][..]));
        assert!(kept.overtaken[0].1.contains("lacks x.a"));
        assert_eq!((late.supersedes, late.overtaken), (vec![id(1)], vec![]));
        assert_eq!(late.lines.len(), 1, "it is said all the same");
    }

    #[test]
    fn another_line_is_a_conflict_that_says_what_to_do() {
        let kept = entry(1, state("l", 4, "a"));

        let conflict = choose(&state("other", 9, "b").into(), vec![kept]).unwrap_err();

        let text = conflict.to_string();
        assert!(text.contains(&format!("outpost recover forget {}", id(1))));
    }

    #[test]
    fn what_was_begun_and_is_not_known_is_named_even_without_a_state() {
        let mut kept = entry(1, String::new());
        kept.begun.insert("x.lost".to_owned(), Begun::Running);

        let choice = choose(&Bytes::new(), vec![kept]).unwrap();

        assert_eq!((choice.state, choice.supersedes), (None, vec![id(1)]));
        assert!(choice.lines[0].ends_with("by hand: x.lost"));
    }
}
