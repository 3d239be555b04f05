//! Clients that go to agents: what they hear of workspaces, where they may go, and how they come back.

use std::time::Instant;

use outpost::{
    connect,
    control::Storage,
    net::http,
    proto::{
        coder::tailnet::v2::{
            self as tailnet, CoordinateRequest, CoordinateResponse, WorkspaceUpdate,
            coordinate_request::{Tunnel, UpdateSelf},
            coordinate_response::peer_update::Kind,
            workspace::Status,
        },
        outpost::v1::{self as api},
    },
    provision::JobSource as _,
    secret::Secret,
    tailnet::coordination::LIMITS,
    transport::{
        drpc::{Call, CallError},
        yamux,
    },
};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Lab, PATIENCE,
    agents::{ask, build, built_with_agent, open, open_agent, place, take},
    built,
    coder_wire::knock,
    config, workspace_request,
};
use crate::support::fault_proxy::{Fault, FaultProxy};

const TAILNET: &str = "api/v2/tailnet";

type Stream = Call<yamux::Stream>;

async fn begin(connection: &yamux::Connection, method: &str) -> Stream {
    let stream = connection.open().unwrap();
    let method = format!("/coder.tailnet.v2.Tailnet/{method}");
    Call::begin(stream, &method, LIMITS).await.unwrap()
}

async fn follow(connection: &yamux::Connection, owner: &[u8]) -> Stream {
    let mut call = begin(connection, "WorkspaceUpdates").await;
    let request = tailnet::WorkspaceUpdatesRequest {
        workspace_owner_id: owner.to_vec().into(),
    };
    call.send(&request).await.unwrap();
    call.close_send().await.unwrap();
    call
}

async fn update(call: &mut Stream) -> WorkspaceUpdate {
    let update = timeout(PATIENCE, call.receive()).await.unwrap();
    update.unwrap().expect("the stream goes on")
}

/// The status in an update that tells of nothing else.
fn only_status(update: &WorkspaceUpdate) -> Status {
    assert!(update.upserted_agents.is_empty() && update.deleted_agents.is_empty());
    assert!(update.deleted_workspaces.is_empty());
    let [workspace] = &update.upserted_workspaces[..] else {
        panic!("{update:?}");
    };
    assert_eq!(workspace.name, "dev");
    workspace.status()
}

async fn user_id(lab: &mut Lab) -> Uuid {
    let me = lab.api.who_am_i(api::WhoAmIRequest {}).await.unwrap();
    me.into_inner().id.parse().unwrap()
}

/// Somebody who manages nothing, and their token.
pub async fn somebody(lab: &mut Lab, name: &str) -> Secret {
    let request = api::CreateUserRequest {
        name: name.to_owned(),
        budget: -1,
        ..Default::default()
    };
    lab.api.create_user(request).await.unwrap();
    let request = api::CreateTokenRequest {
        user: name.to_owned(),
        name: "test".to_owned(),
        ..Default::default()
    };
    let made = lab.api.create_token(request).await.unwrap().into_inner();
    Secret::new(made.value)
}

#[tokio::test]
async fn whoever_follows_their_workspaces_hears_of_all_and_then_of_what_is_new() {
    let mut lab = Lab::start(Storage::Memory).await;
    let (daemon, token) = (lab.daemon("daemon"), lab.server.admin_token().clone());
    lab.import(&daemon).await;
    let owner = user_id(&mut lab).await;
    let connection = open(&lab, TAILNET, &[], &token).await.unwrap();
    let mut first = follow(&connection, owner.as_bytes()).await;
    assert_eq!(update(&mut first).await, WorkspaceUpdate::default());

    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    assert_eq!(only_status(&update(&mut first).await), Status::Pending);
    let job = take(&daemon).await;
    assert_eq!(only_status(&update(&mut first).await), Status::Starting);
    let agent_token = Secret::new(Uuid::new_v4().to_string());
    let done = built_with_agent(&job, &agent_token);
    daemon.complete(done).await.unwrap();
    let started = update(&mut first).await;
    assert_eq!(started.upserted_workspaces[0].status(), Status::Running);
    let [agent] = &started.upserted_agents[..] else {
        panic!("{started:?}");
    };
    assert_eq!(agent.name, "main");
    assert_eq!(agent.workspace_id, started.upserted_workspaces[0].id);
    // Whoever comes now hears the same at once.
    let mut second = follow(&connection, owner.as_bytes()).await;
    assert_eq!(update(&mut second).await, started);

    // An agent that comes and goes changes nothing in it, so that there is no update until the next build.
    drop(open_agent(&lab, &agent_token).await);
    build(&mut lab, "dev", "stop").await;
    for follower in [&mut first, &mut second] {
        assert_eq!(only_status(&update(follower).await), Status::Pending);
    }
    let job = take(&daemon).await;
    assert_eq!(only_status(&update(&mut first).await), Status::Stopping);
    daemon.complete(built(&job)).await.unwrap();
    let stopped = update(&mut first).await;
    assert_eq!(stopped.upserted_workspaces[0].status(), Status::Stopped);
    assert_eq!(stopped.deleted_agents, std::slice::from_ref(agent));

    let again = build(&mut lab, "dev", "start").await;
    update(&mut first).await;
    place(&daemon, again).await;
    let started = loop {
        let update = update(&mut first).await;
        if !update.upserted_agents.is_empty() {
            break update;
        }
    };
    build(&mut lab, "dev", "destroy").await;
    assert_eq!(only_status(&update(&mut first).await), Status::Pending);
    let job = take(&daemon).await;
    assert_eq!(only_status(&update(&mut first).await), Status::Deleting);
    daemon.complete(built(&job)).await.unwrap();
    let deleted = update(&mut first).await;
    assert_eq!(deleted.deleted_workspaces[0].id, agent.workspace_id);
    assert_eq!(deleted.deleted_agents, started.upserted_agents);
    assert!(deleted.upserted_workspaces.is_empty());

    // A server that stops ends the stream in an orderly way.
    drop(second);
    lab.server.shutdown().await;
    let end: Result<Option<WorkspaceUpdate>, CallError> =
        timeout(PATIENCE, first.receive()).await.unwrap();
    assert!(matches!(end, Ok(None) | Err(CallError::Lost(_))), "{end:?}");
}

#[tokio::test]
async fn nobody_hears_of_workspaces_that_are_not_theirs_nor_gets_into_them() {
    let mut lab = Lab::start(Storage::Memory).await;
    let (daemon, token) = (lab.daemon("daemon"), lab.server.admin_token().clone());
    lab.import(&daemon).await;
    let made = lab.api.create_workspace(workspace_request("dev")).await;
    let placed = place(&daemon, made.unwrap().into_inner().latest_build.unwrap()).await;
    let owner = user_id(&mut lab).await;
    let stranger = somebody(&mut lab, "eve").await;
    let connection = open(&lab, TAILNET, &[], &token).await.unwrap();
    let snapshot = update(&mut follow(&connection, owner.as_bytes()).await).await;
    let agent = Uuid::from_slice(&snapshot.upserted_agents[0].id).unwrap();

    let foreign = open(&lab, TAILNET, &[], &stranger).await.unwrap();
    let mut followed = follow(&foreign, owner.as_bytes()).await;
    assert_eq!(update(&mut followed).await, WorkspaceUpdate::default());
    let mut malformed = follow(&connection, b"admin").await;
    let refused: Result<Option<WorkspaceUpdate>, CallError> = malformed.receive().await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "workspace_owner_id is not a UUID"
    );

    // An agent's own connection has neither.
    let its = open_agent(&lab, &placed.token).await;
    for method in ["WorkspaceUpdates", "RefreshResumeToken"] {
        let method = format!("/coder.tailnet.v2.Tailnet/{method}");
        let request = tailnet::RefreshResumeTokenRequest {};
        let asked: Result<tailnet::RefreshResumeTokenResponse, _> =
            ask(&its, &method, &request).await;
        let error = asked.unwrap_err().to_string();
        assert!(error.contains("unknown rpc"), "{error}");
    }

    let mut refused = begin(&foreign, "Coordinate").await;
    refused.send(&to(agent)).await.unwrap();
    let answer: CoordinateResponse = refused.receive().await.unwrap().unwrap();
    assert_eq!(
        answer.error,
        "authorization: you may not reach this agent, or it does not exist"
    );
    let end: Option<CoordinateResponse> = refused.receive().await.unwrap();
    assert!(end.is_none());

    // Whoever may act for the owner gets in, and is told where the agent is.
    let mut of_agent = begin(&its, "Coordinate").await;
    of_agent.send(&is_now()).await.unwrap();
    let mut admitted = begin(&connection, "Coordinate").await;
    admitted.send(&to(agent)).await.unwrap();
    let answer: CoordinateResponse = timeout(PATIENCE, admitted.receive())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(answer.peer_updates[0].id, agent.as_bytes().as_slice());
}

fn to(agent: Uuid) -> CoordinateRequest {
    let id = agent.as_bytes().to_vec().into();
    CoordinateRequest {
        add_tunnel: Some(Tunnel { id }),
        ..CoordinateRequest::default()
    }
}

fn is_now() -> CoordinateRequest {
    let node = Some(tailnet::Node {
        preferred_derp: 999,
        ..tailnet::Node::default()
    });
    CoordinateRequest {
        update_self: Some(UpdateSelf { node }),
        ..CoordinateRequest::default()
    }
}

async fn resume_token(connection: &yamux::Connection) -> String {
    let request = tailnet::RefreshResumeTokenRequest {};
    let method = "/coder.tailnet.v2.Tailnet/RefreshResumeToken";
    let answer: tailnet::RefreshResumeTokenResponse =
        ask(connection, method, &request).await.unwrap();
    assert_eq!(answer.refresh_in.unwrap().seconds, 12 * 60 * 60);
    answer.token
}

/// The id under which an agent hears of a client that comes to it.
async fn heard_of(of_agent: &mut Stream, connection: &yamux::Connection, agent: Uuid) -> Uuid {
    let mut call = begin(connection, "Coordinate").await;
    call.send(&to(agent)).await.unwrap();
    call.send(&is_now()).await.unwrap();
    next(of_agent, Kind::Node).await
}

/// What an agent hears next that is of this kind: of whom.
async fn next(of_agent: &mut Stream, kind: Kind) -> Uuid {
    loop {
        let answer = timeout(PATIENCE, of_agent.receive()).await.unwrap();
        let answer: CoordinateResponse = answer.unwrap().unwrap();
        let mut updates = answer.peer_updates.iter();
        if let Some(update) = updates.find(|update| update.kind() == kind) {
            return Uuid::from_slice(&update.id).unwrap();
        }
    }
}

/// What a dial with this token is answered.
async fn with_token(
    lab: &Lab,
    path: &str,
    token: &Secret,
    resume: &str,
) -> Result<yamux::Connection, outpost::transport::coder::DialError> {
    open(lab, path, &[("resume_token", resume)], token).await
}

#[tokio::test]
async fn a_client_comes_back_under_its_id_and_nobody_else_does() {
    let temp = tempfile::tempdir().unwrap();
    let storage = Storage::Directory(temp.path().to_owned());
    let mut lab = Lab::start(storage.clone()).await;
    let (daemon, token) = (lab.daemon("daemon"), lab.server.admin_token().clone());
    lab.import(&daemon).await;
    let made = lab.api.create_workspace(workspace_request("dev")).await;
    let placed = place(&daemon, made.unwrap().into_inner().latest_build.unwrap()).await;
    let stranger = somebody(&mut lab, "eve").await;
    let owner = user_id(&mut lab).await;
    let connection = open(&lab, TAILNET, &[], &token).await.unwrap();
    let snapshot = update(&mut follow(&connection, owner.as_bytes()).await).await;
    let agent = Uuid::from_slice(&snapshot.upserted_agents[0].id).unwrap();
    let its = open_agent(&lab, &placed.token).await;
    let mut of_agent = begin(&its, "Coordinate").await;
    of_agent.send(&is_now()).await.unwrap();

    let id = heard_of(&mut of_agent, &connection, agent).await;
    let resume = resume_token(&connection).await;
    drop(connection);
    let path = format!("api/v2/workspaceagents/{agent}/coordinate");
    for path in [TAILNET, &path] {
        let again = with_token(&lab, path, &token, &resume).await.unwrap();
        assert_eq!(heard_of(&mut of_agent, &again, agent).await, id, "{path}");
        drop(again);
    }
    let other = open(&lab, TAILNET, &[], &token).await.unwrap();
    assert_ne!(heard_of(&mut of_agent, &other, agent).await, id);

    let mut changed = resume.clone();
    changed.replace_range(40..41, if &resume[40..41] == "A" { "B" } else { "A" });
    for (token, resume) in [
        (&stranger, &*resume),
        (&token, &changed),
        (&token, "no token"),
    ] {
        let error = with_token(&lab, TAILNET, token, resume)
            .await
            .err()
            .unwrap();
        assert!(error.is_resume_token(), "{error}");
        assert!(!error.to_string().contains(&resume[..8]), "{error}");
    }

    // The server's key outlasts the server.
    lab.server.shutdown().await;
    let lab = Lab::start(storage).await;
    let its = open_agent(&lab, &placed.token).await;
    let mut of_agent = begin(&its, "Coordinate").await;
    of_agent.send(&is_now()).await.unwrap();
    let again = with_token(&lab, TAILNET, &token, &resume).await.unwrap();
    assert_eq!(heard_of(&mut of_agent, &again, agent).await, id);

    // A server with another key cannot tell, and lets the client in as somebody new.
    let without = Lab::start(Storage::Memory).await;
    let token = without.server.admin_token().clone();
    let connection = with_token(&without, TAILNET, &token, &resume).await;
    assert!(connection.is_ok());
}

#[tokio::test]
async fn what_may_work_a_moment_later_is_never_an_error_that_clients_give_up_at() {
    let lab = Lab::with(config(
        Storage::Memory,
        &outpost::control::tokens::generate(),
    ))
    .await;
    let id = Uuid::new_v4();
    let agent = [("Coder-Session-Token", &*Uuid::new_v4().to_string())];
    let token = lab.server.admin_token().expose();
    let person = [("Coder-Session-Token", token)];
    lab.server.plane().store().close().await;

    let rpc = "/api/v2/workspaceagents/me/rpc?version=2.0".to_owned();
    let answer = knock(lab.server.address(), &rpc, &agent).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for path in [
        "/api/v2/tailnet?version=2.3".to_owned(),
        "/api/v2/workspaceagents/connection".to_owned(),
        format!("/api/v2/workspaceagents/{id}"),
        format!("/api/v2/workspaceagents/{id}/connection"),
        format!("/api/v2/workspaceagents/{id}/coordinate?version=2.0"),
        format!("/api/v2/workspaceagents/{id}/logs"),
        format!("/api/v2/workspaceagents/{id}/logs?follow"),
        "/api/v2/users/me".to_owned(),
        "/api/v2/users/me/workspace/dev".to_owned(),
        "/api/v2/workspaces".to_owned(),
        format!("/api/v2/workspaces/{id}"),
        format!("/api/v2/workspaces/{id}/watch"),
        format!("/api/v2/templateversions/{id}"),
        format!("/api/v2/workspacebuilds/{id}"),
        format!("/api/v2/workspacebuilds/{id}/logs?follow"),
    ] {
        let answer = knock(lab.server.address(), &path, &person).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
        assert!(answer.contains("retry-after: 1"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn our_own_client_keeps_its_id_when_its_connection_breaks() {
    let mut lab = Lab::start(Storage::Memory).await;
    let (daemon, token) = (lab.daemon("daemon"), lab.server.admin_token().clone());
    lab.import(&daemon).await;
    let made = lab.api.create_workspace(workspace_request("dev")).await;
    let placed = place(&daemon, made.unwrap().into_inner().latest_build.unwrap()).await;
    let owner = user_id(&mut lab).await;
    let connection = open(&lab, TAILNET, &[], &token).await.unwrap();
    let snapshot = update(&mut follow(&connection, owner.as_bytes()).await).await;
    let agent = Uuid::from_slice(&snapshot.upserted_agents[0].id).unwrap();
    let its = open_agent(&lab, &placed.token).await;
    let mut of_agent = begin(&its, "Coordinate").await;
    of_agent.send(&is_now()).await.unwrap();
    let proxy = FaultProxy::start(lab.server.address());
    let client = http::Client::new(http::Config::new(proxy.url())).unwrap();
    let server = connect::Server::new(client, token);
    let _conn = server.dial_agent(agent).await.unwrap();

    let mut id = next(&mut of_agent, Kind::Node).await;
    // The agent may hear of the client before that has its token; without one it would have another id each time.
    let begun = Instant::now();
    loop {
        proxy.set(Fault::Rst);
        while next(&mut of_agent, Kind::Lost).await != id {}
        proxy.set(Fault::None);
        let again = next(&mut of_agent, Kind::Node).await;
        if again == id {
            break;
        }
        id = again;
        assert!(
            begun.elapsed() < PATIENCE,
            "the client comes back as somebody else each time"
        );
    }
}

#[tokio::test]
async fn an_agent_has_so_many_connections_and_gets_another_one_when_one_ends() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("daemon");
    lab.import(&daemon).await;
    let made = lab.api.create_workspace(workspace_request("dev")).await;
    let placed = place(&daemon, made.unwrap().into_inner().latest_build.unwrap()).await;
    let path = "api/v2/workspaceagents/me/rpc";
    let mut held = Vec::new();

    let refused = loop {
        match open(&lab, path, &[], &placed.token).await {
            Ok(connection) => held.push(connection),
            Err(error) => break error,
        }
        assert!(held.len() <= 64, "there is no end to them");
    };

    // Not one of those at which clients give up.
    assert!(!refused.is_final(), "{refused}");
    assert!(refused.to_string().contains("429"), "{refused}");
    drop(held.pop());
    let again = async {
        while open(&lab, path, &[], &placed.token).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}
