//! Permissions to change users, tokens, daemons and names, and the effects of such changes.

use outpost_base::job::{Agent, AgentAuth};

use super::*;

impl Lab {
    async fn user(&self, name: &str) -> Caller {
        let new = NewUser {
            name: name.to_owned(),
            email: String::new(),
            full_name: String::new(),
            admin: false,
            budget: None,
        };
        Caller::inside(self.plane.create_user(&self.caller, new).await.unwrap())
    }

    async fn workspace_of(&self, owner: &Caller) -> Workspace {
        let template = self.template("demo").await;
        let version = self.plane.version(&template, "").await.unwrap();
        let request = WorkspaceRequest {
            name: "dev".to_owned(),
            owner: String::new(),
            parameters: Vec::new(),
            preset: String::new(),
            log_level: String::new(),
        };
        let made = self
            .plane
            .create_workspace(owner, &template, &version, request);
        made.await.unwrap()
    }

    async fn template(&self, name: &str) -> crate::model::Template {
        let organization = self.plane.organization("").await.unwrap().id;
        self.plane.template(organization, name).await.unwrap()
    }
}

fn is_forbidden<T>(result: &Result<T, RequestError>) -> bool {
    matches!(result, Err(RequestError::Forbidden(_)))
}

fn is_not_found<T>(result: &Result<T, RequestError>) -> bool {
    matches!(result, Err(RequestError::NotFound { .. }))
}

fn conflict<T: std::fmt::Debug>(result: Result<T, RequestError>) -> String {
    match result.unwrap_err() {
        RequestError::Conflict(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_member_administers_nothing() {
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    let member = lab.user("amy").await;
    let plane = &lab.plane;
    let template = lab.template("demo").await;

    assert!(is_forbidden(&plane.set_admin(&member, "amy", true).await));
    assert!(is_forbidden(&plane.delete_user(&member, "admin").await));
    assert!(is_forbidden(
        &plane.delete_daemon(&member, "", "daemon").await
    ));
    assert!(is_forbidden(
        &plane.rename_template(&member, &template, "other").await
    ));
    assert!(is_forbidden(
        &plane.pull_state(&member, &workspace, 0).await
    ));
    assert!(is_forbidden(
        &plane.push_state(&member, &workspace, b"{}").await
    ));
    let (token, _) = plane
        .create_token(&lab.caller, "", "of-the-admin", None)
        .await
        .unwrap();
    let id = token.id.to_string();
    assert!(is_not_found(&plane.token(&member, &id).await));
    assert!(is_not_found(&plane.token(&member, "of-the-admin").await));
    assert!(is_not_found(&plane.revoke_token(&member, &id).await));
}

#[tokio::test]
async fn there_is_always_an_administrator() {
    let lab = Lab::new().await;
    lab.user("amy").await;

    let own = lab.plane.set_admin(&lab.caller, "admin", false).await;
    assert!(conflict(own).contains("your own role"));
    let own = lab.plane.delete_user(&lab.caller, "admin").await;
    assert!(conflict(own).contains("delete yourself"));

    let amy = lab.plane.set_admin(&lab.caller, "amy", true).await.unwrap();
    let amy = Caller::inside(amy);
    let admin = lab.plane.set_admin(&amy, "admin", false).await.unwrap();
    assert!(!admin.admin);
}

#[tokio::test]
async fn a_user_with_workspaces_stays_and_a_deleted_one_leaves_only_a_name() {
    let lab = Lab::new().await;
    lab.import().await;
    let member = lab.user("amy").await;
    let (_, value) = lab
        .plane
        .create_token(&member, "", "laptop", None)
        .await
        .unwrap();
    let made = lab.workspace_of(&member).await;
    let job = lab.take().await.unwrap();
    lab.complete(job.id, built("one")).await.unwrap();
    let refused = lab.plane.delete_user(&lab.caller, "amy").await;
    assert!(conflict(refused).contains("such as `dev`"));

    lab.build(&made, Transition::Destroy).await.unwrap();
    let job = lab.take().await.unwrap();
    lab.complete(job.id, built("")).await.unwrap();
    lab.plane.delete_user(&lab.caller, "amy").await.unwrap();

    assert!(lab.plane.authenticate(&value).await.is_err());
    assert!(lab.plane.user("amy").await.is_err());
    let ever = lab.plane.store().users_ever().await.unwrap();
    assert!(ever.iter().any(|user| user.name == "amy (deleted)"));
    lab.user("amy").await;
}

#[tokio::test]
async fn the_first_use_of_a_token_is_audited_once_however_many_requests_come_with_it() {
    let lab = Lab::new().await;
    let amy = lab.user("amy").await;
    let token = lab.plane.create_token(&amy, "", "laptop", None);
    let (_, value) = token.await.unwrap();

    let requests = (0..50).map(|_| lab.plane.authenticate(&value));
    for known in futures::future::join_all(requests).await {
        known.unwrap();
    }

    assert_eq!(lab.audited("token.login").await.len(), 1);
}

#[tokio::test]
async fn a_suspended_user_and_the_agents_of_their_workspaces_are_refused_until_activated() {
    let lab = Lab::new().await;
    lab.import().await;
    let amy = lab.user("amy").await;
    let (_, value) = lab
        .plane
        .create_token(&amy, "", "laptop", None)
        .await
        .unwrap();
    lab.workspace_of(&amy).await;
    let job = lab.take().await.unwrap();
    let agent_token = Secret::new(uuid::Uuid::new_v4().to_string());
    let agent = Agent {
        name: "main".to_owned(),
        auth: AgentAuth::Token(agent_token.expose().to_owned()),
        ..Agent::default()
    };
    let made = BuildResult {
        state: Bytes::from_static(b"one"),
        resources: vec![Resource {
            agents: vec![agent],
            ..resource("a.vm")
        }],
        ..BuildResult::default()
    };
    let made = CompletedWork::WorkspaceBuild(made);
    lab.complete(job.id, made).await.unwrap();
    assert!(lab.plane.agent_by_token(&agent_token).await.is_ok());
    let own = lab.plane.set_suspended(&lab.caller, "admin", true).await;
    assert!(conflict(own).contains("suspend yourself"));
    assert!(is_forbidden(
        &lab.plane.set_suspended(&amy, "admin", true).await
    ));

    lab.plane
        .set_suspended(&lab.caller, "amy", true)
        .await
        .unwrap();
    match lab.plane.authenticate(&value).await {
        Err(RequestError::Suspended) => {}
        other => panic!("{other:?}"),
    }
    assert!(lab.plane.agent_by_token(&agent_token).await.is_err());

    lab.plane
        .set_suspended(&lab.caller, "amy", false)
        .await
        .unwrap();
    assert!(lab.plane.authenticate(&value).await.is_ok());
    assert!(lab.plane.agent_by_token(&agent_token).await.is_ok());
}

#[tokio::test]
async fn an_organization_is_deleted_once_nothing_is_in_it_and_its_name_is_free_again() {
    let lab = Lab::new().await;
    let plane = &lab.plane;
    lab.import().await;
    plane.create_organization(&lab.caller, "lab").await.unwrap();
    let key = plane
        .create_key(&lab.caller, "lab", "west", BTreeMap::new())
        .await;
    key.unwrap();
    let member = lab.user("amy").await;

    assert!(is_forbidden(
        &plane.delete_organization(&member, "lab").await
    ));
    let default = plane.delete_organization(&lab.caller, "").await;
    assert!(conflict(default).contains("default organization"));
    plane.delete_organization(&lab.caller, "lab").await.unwrap();

    assert!(is_not_found(
        &plane.delete_organization(&lab.caller, "lab").await
    ));
    assert!(plane.store().keys().await.unwrap().is_empty());
    let ever = plane.store().organizations_ever().await.unwrap();
    assert!(ever.iter().any(|it| it.name == "lab (deleted)"));
    plane.create_organization(&lab.caller, "lab").await.unwrap();
}

#[tokio::test]
async fn a_rotated_token_keeps_its_id_and_lifetime_and_its_old_value_is_refused() {
    let lab = Lab::new().await;
    let minute = Duration::from_secs(60);
    let (token, old) = lab
        .plane
        .create_token(&lab.caller, "", "laptop", Some(minute))
        .await
        .unwrap();
    lab.pass(Duration::from_secs(30));
    let new = crate::tokens::generate();

    let found = lab.plane.token(&lab.caller, "laptop").await.unwrap();
    let rotated = lab.plane.rotate_token(&lab.caller, found, &new);
    assert_eq!(rotated.await.unwrap().id, token.id);

    assert!(lab.plane.authenticate(&old).await.is_err());
    lab.pass(Duration::from_secs(59));
    assert!(lab.plane.authenticate(&new).await.is_ok());
    lab.pass(Duration::from_secs(1));
    assert!(lab.plane.authenticate(&new).await.is_err());
}

#[tokio::test]
async fn only_a_daemon_that_is_offline_and_idle_is_forgotten() {
    let lab = Lab::new().await;
    lab.import().await;
    lab.create_workspace().await.unwrap();
    let job = lab.take().await.unwrap();
    let delete = async || lab.plane.delete_daemon(&lab.caller, "", "daemon").await;

    assert!(conflict(delete().await).contains("not offline"));
    lab.pass(lab.plane.limits().offline + Duration::from_secs(1));
    assert!(conflict(delete().await).contains(&job.id.to_string()));
    lab.complete(job.id, built("one")).await.unwrap();
    lab.pass(lab.plane.limits().offline + Duration::from_secs(1));
    delete().await.unwrap();

    assert!(is_not_found(&delete().await));
    assert!(lab.plane.store().daemons().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_changes_between_builds_and_only_to_a_free_one() {
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    let rename = async |name: &'static str| {
        lab.plane
            .rename_workspace(&lab.caller, &workspace, name)
            .await
    };

    assert!(matches!(rename("a b").await, Err(RequestError::Invalid(_))));
    lab.build(&workspace, Transition::Stop).await.unwrap();
    assert!(conflict(rename("other").await).contains("in progress"));
    let job = lab.take().await.unwrap();
    lab.complete(job.id, built("two")).await.unwrap();
    assert_eq!(rename("other").await.unwrap().name, "other");

    lab.create_workspace().await.unwrap();
    assert!(conflict(rename("dev").await).contains("already has a workspace `dev`"));
}

#[tokio::test]
async fn an_id_may_be_cut_short_while_it_is_unique_and_visible() {
    let lab = Lab::new().await;
    let (_, job) = lab.started("one").await;
    let member = lab.user("amy").await;
    let id = job.to_string();

    for named in [&id, &id[..8], &id.to_uppercase()[..13]] {
        let found = lab.plane.job_id(&lab.caller, named).await;
        assert_eq!(found.unwrap(), job, "{named}");
    }
    assert!(is_not_found(&lab.plane.job_id(&lab.caller, &id[..3]).await));
    assert!(is_not_found(&lab.plane.job_id(&lab.caller, "zzzz").await));
    assert!(is_not_found(&lab.plane.job_id(&member, &id[..8]).await));
}

#[tokio::test]
async fn a_value_for_a_variable_that_the_template_lacks_is_refused_by_name() {
    let lab = Lab::new().await;
    lab.queue_version(version("demo")).await;
    let job = lab.take().await.unwrap();
    let value = |name: &str| VariableValue {
        name: name.to_owned(),
        value: Secret::new("x"),
        sensitive: false,
    };
    let update = JobUpdate {
        template_variables: vec![TemplateVariable {
            name: "region".to_owned(),
            ..TemplateVariable::default()
        }],
        user_variables: vec![value("region"), value("regoin")],
        ..JobUpdate::heartbeat(job.id)
    };

    let refused = lab.plane.update_job(&lab.daemon, update).await.unwrap_err();

    assert_eq!(
        refused.to_string(),
        "the template has no variable `regoin`, only: region"
    );
}

#[tokio::test]
async fn a_build_that_was_cancelled_is_so_although_its_engine_ended_with_an_error() {
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    lab.build(&workspace, Transition::Stop).await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.plane.cancel_job(&lab.caller, job).await.unwrap();
    lab.fail(job, Some("two")).await.unwrap();

    let ended = lab.job(job).await;
    assert_eq!(ended.status(), JobStatus::Cancelled);
    assert!(!ended.error.is_empty());
    assert_eq!(lab.state(&workspace).await, "two");
    for (status, count) in [(JobStatus::Cancelled, 1), (JobStatus::Failed, 0)] {
        let filter = JobFilter {
            statuses: vec![status],
            limit: 10,
            ..JobFilter::default()
        };
        let listed = lab.plane.jobs(&lab.caller, filter).await.unwrap();
        assert_eq!(listed.len(), count, "{status}");
    }
}

#[tokio::test]
async fn whoever_was_let_in_goes_when_their_token_or_their_rights_end() {
    let lab = Lab::new().await;
    let enter = async |name: &str, lifetime| {
        let user = match lab.plane.user(name).await {
            Ok(user) => Caller::inside(user),
            Err(_) => lab.user(name).await,
        };
        let made = lab.plane.create_token(&user, "", "laptop", lifetime).await;
        let (token, value) = made.unwrap();
        (token, lab.plane.authenticate(&value).await.unwrap())
    };
    let plane = &lab.plane;

    let (token, revoked) = enter("amy", None).await;
    let (_, beside) = enter("bob", None).await;
    plane
        .revoke_token(&lab.caller, &token.id.to_string())
        .await
        .unwrap();
    assert!(revoked.access.is_revoked() && !beside.access.is_revoked());

    let (token, rotated) = enter("amy", None).await;
    let value = crate::tokens::generate();
    plane.rotate_token(&rotated, token, &value).await.unwrap();
    assert!(rotated.access.is_revoked());
    let again = plane.authenticate(&value).await.unwrap();
    assert!(!again.access.is_revoked());

    plane.set_suspended(&lab.caller, "amy", true).await.unwrap();
    assert!(again.access.is_revoked());

    plane.set_admin(&lab.caller, "bob", true).await.unwrap();
    assert!(!beside.access.is_revoked());
    plane.set_admin(&lab.caller, "bob", false).await.unwrap();
    assert!(beside.access.is_revoked());

    let (_, short) = enter("bob", Some(Duration::from_secs(60))).await;
    plane.revoke_expired();
    assert!(!short.access.is_revoked());
    lab.pass(Duration::from_secs(60));
    plane.revoke_expired();
    assert!(short.access.is_revoked());

    let (_, deleted) = enter("cid", None).await;
    plane.delete_user(&lab.caller, "cid").await.unwrap();
    assert!(deleted.access.is_revoked());
}
