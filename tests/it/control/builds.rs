//! What Coder's clients ask while a workspace comes up, and once it is there.

use outpost::{
    control::Storage,
    job::{LogLevel, LogLine, LogSource},
    provision::{JobSource as _, JobUpdate},
    secret::Secret,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use super::{
    Lab, PATIENCE,
    agents::{self, build, follow, get, hear, lab_with_agent, place, take},
    coder_wire::{knock, request},
    tailnet::somebody,
    workspace_request,
};

/// Whoever watches a workspace.
struct Watching(Lines<BufReader<TcpStream>>);

impl Watching {
    async fn begin(lab: &Lab, workspace: &str) -> Self {
        let address = lab.server.address();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let token = lab.server.admin_token().expose();
        let head = format!(
            "GET /api/v2/workspaces/{workspace}/watch HTTP/1.1\r\nHost: {address}\r\nCoder-Session-Token: {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await.unwrap().unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        Self(lines)
    }

    /// The status of its build; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let lines = async {
            let mut event = String::new();
            while let Some(line) = self.0.next_line().await.unwrap() {
                if let Some(kind) = line.strip_prefix("event: ") {
                    event = kind.to_owned();
                }
                if let Some(data) = line.strip_prefix("data: ") {
                    assert_eq!(event, "data");
                    let workspace: Value = serde_json::from_str(data).unwrap();
                    let status = workspace["latest_build"]["status"].as_str();
                    return Some(status.unwrap().to_owned());
                }
            }
            None
        };
        timeout(PATIENCE, lines).await.unwrap()
    }

    async fn until(&mut self, status: &str) {
        while self.next().await.expect("an event") != status {}
    }
}

#[tokio::test]
async fn the_log_of_a_build_is_followed_line_by_line_until_it_has_ended() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("daemon");
    lab.import(&daemon).await;
    let made = lab.api.create_workspace(workspace_request("dev")).await;
    let made = made.unwrap().into_inner().latest_build.unwrap();
    let job = take(&daemon).await;
    let path = format!("/api/v2/workspacebuilds/{}/logs", made.id);
    let mut socket = follow(&lab, &path).await;
    let line = |output: &str| LogLine {
        source: LogSource::Provisioner,
        level: LogLevel::Info,
        created_at: job.created_at,
        stage: "Starting workspace".to_owned(),
        output: output.to_owned(),
    };
    let update = JobUpdate {
        logs: vec![line("one"), line("two")],
        ..JobUpdate::heartbeat(job.id)
    };
    daemon.update(update).await.unwrap();

    let first = hear(&mut socket).await.unwrap();
    assert_eq!(first["output"], "one");
    assert_eq!(first["log_source"], "provisioner");
    assert_eq!(first["log_level"], "info");
    assert_eq!(first["stage"], "Starting workspace");
    assert_eq!(hear(&mut socket).await.unwrap()["output"], "two");
    let described = get(&lab, &format!("/api/v2/workspacebuilds/{}", made.id)).await;
    assert_eq!(described["status"], "starting");
    assert_eq!(described["job"]["completed_at"], Value::Null);

    let token = Secret::new(Uuid::new_v4().to_string());
    let done = agents::built_with_agent(&job, &token);
    daemon.complete(done).await.unwrap();
    assert_eq!(hear(&mut socket).await, None);
    let described = get(&lab, &format!("/api/v2/workspacebuilds/{}", made.id)).await;
    assert_eq!(described["status"], "running");
    assert_eq!(described["resources"][0]["agents"][0]["name"], "main");
    let all = get(&lab, &path).await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    let after = get(&lab, &format!("{path}?after={}", first["id"])).await;
    assert_eq!(after[0]["output"], "two");
}

#[tokio::test]
async fn whoever_watches_a_workspace_sees_it_change_until_the_server_goes() {
    let (mut lab, daemon, _) = lab_with_agent().await;
    let found = get(&lab, "/api/v2/users/me/workspace/dev").await;
    let mut watching = Watching::begin(&lab, found["id"].as_str().unwrap()).await;
    assert_eq!(watching.next().await.as_deref(), Some("running"));

    build(&mut lab, "dev", "stop").await;
    watching.until("pending").await;
    let job = take(&daemon).await;
    watching.until("stopping").await;
    daemon.complete(super::built(&job)).await.unwrap();
    watching.until("stopped").await;
    let started = build(&mut lab, "dev", "start").await;
    place(&daemon, started).await;
    watching.until("running").await;

    timeout(PATIENCE, lab.server.shutdown()).await.unwrap();
    assert_eq!(watching.next().await, None);
}

#[tokio::test]
async fn what_leads_into_a_workspace_is_shown_to_its_owner_and_to_nobody_else() {
    let (mut lab, _daemon, placed) = lab_with_agent().await;
    let stranger = somebody(&mut lab, "mallory").await;
    let address = lab.server.address();
    let found = get(&lab, "/api/v2/users/me/workspace/dev").await;
    let id = found["id"].as_str().unwrap();
    assert_eq!(found["outdated"], false);
    assert_eq!(found["health"]["healthy"], false, "its agent is not there");
    let of_version = found["latest_build"]["template_version_id"].as_str();
    let of_version = format!("/api/v2/templateversions/{}", of_version.unwrap());
    let version = get(&lab, &of_version).await;
    assert_eq!(version["template_id"], found["template_id"]);
    assert_eq!(version["job"]["type"], "template_version_import");
    assert_eq!(version["job"]["status"], "succeeded");
    let appearance = knock(address, "/api/v2/appearance", &[]).await;
    assert!(appearance.starts_with("HTTP/1.1 200"), "{appearance}");

    let of_build = format!("/api/v2/workspacebuilds/{}", placed.build);
    let (log, watch) = (
        format!("{of_build}/logs"),
        format!("/api/v2/workspaces/{id}/watch"),
    );
    let usage = format!("/api/v2/workspaces/{id}/usage");
    let owner = [("Coder-Session-Token", lab.server.admin_token().expose())];
    let stranger = [("Coder-Session-Token", stranger.expose())];
    let used = request(address, "POST", &usage, &owner).await;
    assert!(used.starts_with("HTTP/1.1 204"), "{used}");
    for (method, path) in [
        ("GET", &of_build),
        ("GET", &log),
        ("GET", &watch),
        ("POST", &usage),
    ] {
        let refused = request(address, method, path, &stranger).await;
        assert!(refused.starts_with("HTTP/1.1 404"), "{path}: {refused}");
        let refused = request(address, method, path, &[]).await;
        assert!(refused.starts_with("HTTP/1.1 401"), "{path}: {refused}");
    }
    let refused = knock(address, &of_version, &[]).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
}
