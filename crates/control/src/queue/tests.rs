use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::{DaemonId, Task, UserId, VersionId};

const ORGANIZATION: OrganizationId = OrganizationId(Uuid::nil());

fn tags(given: &[(&str, &str)]) -> Tags {
    tags_of(None, given)
}

fn tags_of(user: Option<UserId>, given: &[(&str, &str)]) -> Tags {
    let given = given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Tags::from_given(user, given).unwrap()
}

fn daemon(name: &str, tags: Tags) -> Daemon {
    Daemon {
        id: DaemonId::random(),
        organization_id: ORGANIZATION,
        holder: crate::model::Holder::Shared,
        name: name.to_owned(),
        tags,
        provisioners: vec!["terraform".to_owned()],
        version: String::new(),
        api_version: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        last_seen_at: Timestamp::UNIX_EPOCH,
        state_id: String::new(),
    }
}

fn waiting(id: u128, second: i64, prebuild: bool, tags: Tags) -> Waiting {
    Waiting {
        id: JobId(Uuid::from_u128(id)),
        organization_id: ORGANIZATION,
        provisioner: "terraform".to_owned(),
        tags,
        prebuild,
        created_at: Timestamp::from_second(second).unwrap(),
    }
}

fn running(started: Option<i64>) -> JobRecord {
    let at = |second| Timestamp::from_second(second).unwrap();
    JobRecord {
        id: JobId(Uuid::nil()),
        organization_id: ORGANIZATION,
        initiator_id: UserId(Uuid::nil()),
        task: Task::TemplateImport {
            version_id: VersionId(Uuid::nil()),
        },
        provisioner: "terraform".to_owned(),
        tags: Tags::default(),
        prebuild: false,
        created_at: at(0),
        updated_at: at(0),
        heard: outpost_process::uptime::Uptime::default(),
        started_at: started.map(at),
        canceled_at: None,
        completed_at: None,
        worker: None,
        worker_name: String::new(),
        subject: String::new(),
        error: String::new(),
        error_code: None,
        log_truncated: false,
        ended_by: None,
    }
}

#[test]
fn tags_without_a_value_are_dropped_and_the_scope_is_never_missing() {
    let tags = tags(&[("region", ""), ("scope", "galaxy"), ("owner", "somebody")]);

    assert!(tags.are_plain());
    assert_eq!(tags, Tags::default());
}

#[test]
fn a_user_scoped_tag_set_has_the_caller_as_owner_whatever_was_given() {
    let user = UserId::random();

    let tags = tags_of(Some(user), &[("scope", "user"), ("owner", "somebody")]);

    assert_eq!(tags.owner(), user.to_string());
}

#[test]
fn a_nul_in_a_tag_is_refused() {
    let given = BTreeMap::from([("a".to_owned(), "b\0".to_owned())]);

    assert_eq!(Tags::from_given(None, given), Err(BadTag("a".to_owned())));
}

// The rows follow the table in Coder's documentation of provisioner tags.
#[test]
fn a_daemon_takes_what_its_tags_contain_and_untagged_jobs_only_if_untagged() {
    let user = UserId::random();
    let other = UserId::random();
    let of =
        |user, more: &[(&str, &str)]| tags_of(Some(user), &[&[("scope", "user")], more].concat());
    let gpu = [("gpu", "yes")];
    let both = [("gpu", "yes"), ("region", "eu")];
    let cases = [
        (tags(&[]), tags(&[]), true),
        (tags(&gpu), tags(&[]), false),
        (tags(&[]), tags(&gpu), false),
        (tags(&gpu), tags(&gpu), true),
        (tags(&both), tags(&gpu), true),
        (tags(&gpu), tags(&both), false),
        (tags(&[("gpu", "no")]), tags(&gpu), false),
        (of(user, &[]), of(user, &[]), true),
        (of(user, &gpu), of(user, &[]), true),
        (of(user, &[]), of(other, &[]), false),
        (of(user, &[]), tags(&[]), false),
        (tags(&gpu), of(user, &gpu), false),
    ];
    for (daemon, job, expected) in cases {
        assert_eq!(daemon.satisfy(&job), expected, "daemon {daemon}, job {job}");
    }
}

#[test]
fn people_come_before_pools_and_older_jobs_before_newer_ones() {
    let jobs = [
        waiting(1, 10, true, Tags::default()),
        waiting(2, 30, false, Tags::default()),
        waiting(3, 20, false, Tags::default()),
        waiting(4, 5, false, tags(&[("gpu", "yes")])),
    ];
    let daemon = daemon("a", Tags::default());

    assert_eq!(pick(&jobs, &daemon), Some(&jobs[2]));
    assert_eq!(pick(&jobs[..1], &daemon), Some(&jobs[0]));
    assert_eq!(pick(&jobs[3..], &daemon), None);
    let places: Vec<_> = jobs.iter().map(|job| position(&jobs, job.id)).collect();
    assert_eq!(places, [4, 3, 2, 1]);
    assert_eq!(position(&jobs, JobId(Uuid::from_u128(9))), 0);
}

#[test]
fn jobs_of_another_organization_or_provisioner_are_left_alone() {
    let mut job = waiting(1, 1, false, Tags::default());
    let daemon = daemon("a", Tags::default());

    job.organization_id = OrganizationId::random();
    assert!(!job.suits(&daemon));
    job.organization_id = ORGANIZATION;
    job.provisioner = "echo".to_owned();
    assert!(!job.suits(&daemon));
}

#[test]
fn a_running_job_is_lost_after_its_lease_and_a_waiting_one_after_the_pending_limit() {
    let (lease, pending) = (Duration::from_secs(300), Duration::from_secs(1800));
    let cases = [
        (running(Some(0)), 300, None),
        (running(Some(0)), 301, Some(Loss::Hung(lease))),
        (running(None), 1800, None),
        (running(None), 1801, Some(Loss::Unclaimed(pending))),
    ];
    for (job, silence, expected) in cases {
        let lost = loss(&job, lease, pending, Duration::from_secs(silence));
        assert_eq!(lost, expected, "{job:?} after {silence}");
    }
    let mut ended = running(Some(0));
    ended.completed_at = ended.started_at;
    let lost = loss(&ended, lease, pending, Duration::from_secs(99_999));
    assert_eq!(lost, None);
}

#[test]
fn an_explanation_names_each_daemon_and_the_rule_that_excludes_it() {
    let job = waiting(1, 0, false, tags(&[("gpu", "yes"), ("region", "eu")]));
    let mut elsewhere = daemon("elsewhere", tags(&[("gpu", "yes"), ("region", "us")]));
    elsewhere.last_seen_at = Timestamp::from_second(1000).unwrap();
    let daemons = [
        daemon("untagged", Tags::default()),
        elsewhere,
        daemon("asleep", tags(&[("gpu", "yes"), ("region", "eu")])),
    ];

    let now = Timestamp::from_second(1030).unwrap();
    let verdicts = explain(&job, &daemons, |_| false, Duration::from_secs(90), now);

    let texts: Vec<(&str, bool, Vec<String>)> = verdicts
        .iter()
        .map(|verdict| {
            let reasons = verdict.reasons.iter().map(ToString::to_string).collect();
            (verdict.daemon.as_str(), verdict.eligible, reasons)
        })
        .collect();
    let offline = "is offline: last seen 17m 10s ago";
    let expected = [
        ("asleep", true, vec![offline]),
        (
            "elsewhere",
            false,
            vec!["has the tag region=us, but the job requires region=eu"],
        ),
        (
            "untagged",
            false,
            vec!["lacks the tag gpu=yes", "lacks the tag region=eu", offline],
        ),
    ];
    let expected = expected.map(|(name, eligible, reasons)| {
        let reasons = reasons.into_iter().map(str::to_owned).collect();
        (name, eligible, reasons)
    });
    assert_eq!(texts, expected);
}

#[test]
fn an_untagged_job_is_explained_to_a_tagged_daemon() {
    let job = waiting(1, 0, false, Tags::default());
    let daemons = [daemon("a", tags(&[("gpu", "yes")]))];

    let verdicts = explain(
        &job,
        &daemons,
        |_| true,
        Duration::MAX,
        Timestamp::UNIX_EPOCH,
    );

    let reasons: Vec<_> = verdicts[0]
        .reasons
        .iter()
        .map(ToString::to_string)
        .collect();
    let tagged = "has tags (gpu=yes), but untagged jobs go to untagged daemons only";
    assert_eq!(reasons, [tagged, "is running another job"]);
}

fn some_tags() -> impl Strategy<Value = Tags> {
    let scope = prop_oneof![Just("user"), Just("organization"), Just("")];
    let more = proptest::collection::btree_map("[a-c]", "[xy]?", 0..3);
    (scope, more).prop_map(|(scope, mut given)| {
        given.insert("scope".to_owned(), scope.to_owned());
        Tags::from_given(Some(UserId(Uuid::nil())), given).unwrap()
    })
}

proptest! {
    #[test]
    fn a_daemon_that_is_not_excluded_by_a_rule_takes_the_job(job in some_tags(), has in some_tags()) {
        let job = waiting(1, 0, false, job);
        let daemon = daemon("a", has);

        let verdicts = explain(&job, std::slice::from_ref(&daemon), |_| false, Duration::MAX, Timestamp::UNIX_EPOCH);

        prop_assert_eq!(verdicts[0].eligible, job.suits(&daemon));
        prop_assert_eq!(verdicts[0].reasons.is_empty(), job.suits(&daemon));
    }

    #[test]
    fn applying_the_rules_twice_changes_nothing(tags in some_tags()) {
        let user = Some(UserId(Uuid::nil()));
        prop_assert_eq!(Tags::from_given(user, tags.as_map().clone()).unwrap(), tags);
    }

    #[test]
    fn every_job_is_picked_once_and_in_order(seconds in proptest::collection::vec((0_i64..5, any::<bool>()), 0..20)) {
        let mut left: Vec<_> = (0_u128..)
            .zip(&seconds)
            .map(|(id, (second, prebuild))| waiting(id, *second, *prebuild, Tags::default()))
            .collect();
        let daemon = daemon("a", Tags::default());
        let mut picked = Vec::new();
        while let Some(next) = pick(&left, &daemon).cloned() {
            left.retain(|job| job.id != next.id);
            picked.push(next.rank());
        }
        prop_assert!(left.is_empty());
        prop_assert!(picked.is_sorted());
        prop_assert_eq!(picked.len(), seconds.len());
    }
}
