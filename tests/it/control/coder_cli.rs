//! What the commands of Coder's CLI ask for every day: templates, workspaces, states, daemons and jobs.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use outpost::{
    control::Storage,
    job::{CompletedJob, CompletedWork, DryRunResult, Work},
    provision::JobSource as _,
    secret::Secret,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Lab,
    agents::{lab_with_agent, take},
    built,
    coder_wire::request_with_body,
    imported, resource,
    tailnet::somebody,
    workspace_request,
};

/// Somebody with a token.
struct Cli<'a> {
    lab: &'a Lab,
    token: Secret,
}

impl<'a> Cli<'a> {
    fn admin(lab: &'a Lab) -> Self {
        let token = lab.server.admin_token().clone();
        Self { lab, token }
    }

    /// An answer's status and what it carries.
    async fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
        let headers = [
            ("Coder-Session-Token", self.token.expose()),
            ("Content-Type", kind),
            ("Connection", "close"),
        ];
        let address = self.lab.server.address();
        let path = format!("/api/v2/{path}");
        let answer = request_with_body(address, method, &path, &headers, body).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, body) = self
            .ask(method, path, "application/json", &body.to_string())
            .await;
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    #[track_caller]
    fn get(&self, path: &str) -> impl Future<Output = Value> {
        let path = path.to_owned();
        async move {
            let (status, body) = self.ask("GET", &path, "", "").await;
            assert_eq!(status, 200, "{path}: {body}");
            serde_json::from_str(&body).unwrap()
        }
    }

    /// A version that was sent as the CLI sends it, of a new template if `template` is nil.
    async fn version(&self, template: &Value, archive: &str) -> Value {
        let (status, file) = self
            .ask("POST", "files", "application/x-tar", archive)
            .await;
        assert_eq!(status, 201, "{file}");
        let file: Value = serde_json::from_str(&file).unwrap();
        let asked = json!({
            "message": "first",
            "template_id": template,
            "storage_method": "file",
            "file_id": file["hash"],
            "provisioner": "terraform",
            "tags": null,
            "user_variable_values": [{ "name": "region", "value": "eu" }],
        });
        let path = "organizations/default/templateversions";
        let (status, version) = self.send("POST", path, asked).await;
        assert_eq!(status, 201, "{version}");
        version
    }
}

fn id(of: &Value) -> String {
    of["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_template_is_sent_named_listed_fetched_and_deleted() {
    let lab = Lab::start(Storage::Memory).await;
    let (daemon, cli) = (lab.daemon("one"), Cli::admin(&lab));
    let nil = json!(Uuid::nil());

    let version = cli.version(&nil, "an archive").await;
    assert_eq!(version["template_id"], Value::Null);
    assert_eq!(version["job"]["status"], "pending");
    assert_eq!(version["job"]["queue_position"], 1);
    assert_eq!(cli.get("templates").await, json!([]));
    let job = take(&daemon).await;
    daemon.complete(imported(job.id)).await.unwrap();
    let path = format!("templateversions/{}", id(&version));
    let shown = cli.get(&path).await;
    assert_eq!(shown["job"]["status"], "succeeded");
    let parameters = cli.get(&format!("{path}/rich-parameters")).await;
    assert_eq!(parameters[0]["name"], "size");
    assert_eq!(parameters[0]["type"], "number");
    let resources = cli.get(&format!("{path}/resources")).await;
    let transitions = resources.as_array().unwrap().iter();
    let transitions: Vec<_> = transitions
        .map(|it| it["workspace_transition"].clone())
        .collect();
    assert_eq!(transitions, ["start", "start", "stop"]);

    let name = json!({ "name": "small", "template_version_id": id(&version) });
    let path = "organizations/default/templates";
    let (status, template) = cli.send("POST", path, name.clone()).await;
    assert_eq!(status, 201, "{template}");
    assert_eq!(template["active_version_id"], version["id"]);
    let (status, again) = cli.send("POST", path, name).await;
    assert_eq!(status, 409, "{again}");
    let listed = cli.get("templates?q=exact_name%3A%22small%22").await;
    assert_eq!(
        (listed.as_array().unwrap().len(), id(&listed[0])),
        (1, id(&template))
    );
    assert_eq!(cli.get("templates?q=exact_name%3Asma").await, json!([]));
    assert_eq!(id(&cli.get(&format!("{path}/small")).await), id(&template));

    // A further version becomes active when somebody says so.
    let second = cli.version(&template["id"], "another archive").await;
    let job = take(&daemon).await;
    daemon.complete(imported(job.id)).await.unwrap();
    let path = format!("templates/{}", id(&template));
    let active = cli.get(&path).await["active_version_id"].clone();
    assert_eq!(active, version["id"]);
    let versions = cli.get(&format!("{path}/versions")).await;
    assert_eq!(
        (id(&versions[0]), id(&versions[1])),
        (id(&second), id(&version))
    );
    let chosen = json!({ "id": id(&second) });
    let (status, _) = cli.send("PATCH", &format!("{path}/versions"), chosen).await;
    assert_eq!(status, 200);
    assert_eq!(cli.get(&path).await["active_version_id"], second["id"]);
    let named = format!("{path}/versions/{}", second["name"].as_str().unwrap());
    let file = cli.get(&named).await["job"]["file_id"].clone();
    let file = format!("files/{}", file.as_str().unwrap());
    assert_eq!(
        cli.ask("GET", &file, "", "").await,
        (200, "another archive".to_owned())
    );
    let (status, why) = cli.ask("GET", &format!("{file}?format=zip"), "", "").await;
    assert!(status == 400 && why.contains("tar archives only"), "{why}");

    let (status, _) = cli.send("DELETE", &path, json!(null)).await;
    assert_eq!(status, 200);
    assert_eq!(cli.get("templates").await, json!([]));
}

#[tokio::test]
async fn a_workspace_is_planned_created_stopped_and_deleted() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("one");
    lab.import(&daemon).await;
    let cli = Cli::admin(&lab);
    let template = cli.get("templates").await[0].clone();
    let version = template["active_version_id"].clone();
    let answers = json!([{ "name": "size", "value": "7" }]);

    let path = format!("templateversions/{}/dry-run", version.as_str().unwrap());
    let asked = json!({ "workspace_name": "dev", "rich_parameter_values": answers });
    let (status, planned) = cli.send("POST", &path, asked).await;
    assert_eq!(status, 201, "{planned}");
    let path = format!("{path}/{}", id(&planned));
    let matched = cli.get(&format!("{path}/matched-provisioners")).await;
    assert_eq!(
        (&matched["count"], &matched["available"]),
        (&json!(1), &json!(1))
    );
    let job = take(&daemon).await;
    assert!(matches!(job.work, Work::TemplateDryRun(_)), "{job:?}");
    let result = DryRunResult {
        resources: vec![resource("a.vm")],
        ..DryRunResult::default()
    };
    let result = CompletedWork::TemplateDryRun(result);
    daemon
        .complete(CompletedJob { id: job.id, result })
        .await
        .unwrap();
    assert_eq!(cli.get(&path).await["status"], "succeeded");
    let resources = cli.get(&format!("{path}/resources")).await;
    assert_eq!(resources[0]["type"], "null_resource");

    let asked = |further: Value| {
        let mut asked = json!({
            "name": "dev",
            "template_version_id": version,
            "rich_parameter_values": answers,
            "automatic_updates": "never",
        });
        let further = further.as_object().unwrap().clone();
        asked.as_object_mut().unwrap().extend(further);
        asked
    };
    let path = "users/me/workspaces";
    for (further, why) in [
        (json!({ "ttl_ms": 3600 }), "does not support schedules"),
        (
            json!({ "automatic_updates": "always" }),
            "does not update workspaces automatically",
        ),
        (
            json!({ "template_version_preset_id": Uuid::new_v4() }),
            "not found",
        ),
    ] {
        let (status, refused) = cli.send("POST", path, asked(further)).await;
        assert!((400..500).contains(&status), "{refused}");
        assert!(
            refused["message"].as_str().unwrap().contains(why),
            "{refused}"
        );
    }
    let (status, workspace) = cli.send("POST", path, asked(json!({}))).await;
    assert_eq!(status, 201, "{workspace}");
    assert_eq!(workspace["latest_build"]["status"], "pending");
    let job = take(&daemon).await;
    daemon.complete(built(&job)).await.unwrap();

    let found = cli
        .get("workspaces?q=owner%3Ame+name%3Ade+status%3Arunning")
        .await;
    assert_eq!(
        (&found["count"], id(&found["workspaces"][0])),
        (&json!(1), id(&workspace))
    );
    assert_eq!(cli.get("workspaces?q=status%3Astopped").await["count"], 0);
    let builds = format!("workspaces/{}/builds", id(&workspace));
    let first = cli.get(&builds).await[0].clone();
    let parameters = format!("workspacebuilds/{}/parameters", id(&first));
    assert_eq!(cli.get(&parameters).await, answers);
    for (asked, why) in [
        (
            json!({ "transition": "delete", "orphan": true }),
            "omit --orphan",
        ),
        (
            json!({ "transition": "hover" }),
            "is not one of start, stop, delete",
        ),
    ] {
        let (status, refused) = cli.send("POST", &builds, asked).await;
        assert_eq!(status, 400);
        assert!(
            refused["message"].as_str().unwrap().contains(why),
            "{refused}"
        );
    }
    for (transition, status) in [
        ("stop", "stopped"),
        ("start", "running"),
        ("delete", "deleted"),
    ] {
        let asked = json!({ "transition": transition, "template_version_id": Uuid::nil() });
        let (code, build) = cli.send("POST", &builds, asked).await;
        assert_eq!(code, 201, "{build}");
        let job = take(&daemon).await;
        daemon.complete(built(&job)).await.unwrap();
        let build = cli.get(&format!("workspacebuilds/{}", id(&build))).await;
        assert_eq!(build["status"], status);
    }
}

#[tokio::test]
async fn a_workspace_is_renamed_between_its_builds() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("one");
    lab.import(&daemon).await;
    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let cli = Cli::admin(&lab);
    let workspace = cli.get("users/me/workspace/dev").await;
    let path = format!("workspaces/{}", id(&workspace));
    let (status, refused) = cli.send("PATCH", &path, json!({ "name": "new" })).await;
    assert_eq!(status, 409, "{refused}");
    let job = take(&daemon).await;
    daemon.complete(built(&job)).await.unwrap();

    let (status, _) = cli.send("PATCH", &path, json!({ "name": "new" })).await;

    assert_eq!(status, 204);
    let renamed = cli.get("users/me/workspace/new").await;
    assert_eq!(id(&renamed), id(&workspace));
    let (status, refused) = cli.send("PATCH", &path, json!({ "name": "-" })).await;
    assert_eq!(status, 400, "{refused}");
}

#[tokio::test]
async fn a_build_is_cancelled_and_found_by_its_number() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("one");
    lab.import(&daemon).await;
    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let cli = Cli::admin(&lab);
    let build = cli.get("users/me/workspace/dev/builds/1").await;

    let path = format!("workspacebuilds/{}/cancel", id(&build));
    let (status, _) = cli.send("PATCH", &path, json!(null)).await;

    assert_eq!(status, 200);
    let build = cli.get("users/me/workspace/dev/builds/1").await;
    assert_eq!(build["job"]["status"], "canceled");
    let (status, _) = cli.send("PATCH", &path, json!(null)).await;
    assert_eq!(status, 409);
}

fn state(serial: u32) -> String {
    json!({ "version": 4, "lineage": "l", "serial": serial, "resources": [] }).to_string()
}

#[tokio::test]
async fn a_state_is_pulled_and_pushed_and_a_newer_one_is_never_overwritten() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("one");
    lab.import(&daemon).await;
    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let job = take(&daemon).await;
    let mut done = built(&job);
    let CompletedWork::WorkspaceBuild(result) = &mut done.result else {
        unreachable!()
    };
    result.state = state(4).into();
    daemon.complete(done).await.unwrap();
    let cli = Cli::admin(&lab);
    let build = cli.get("users/me/workspace/dev").await["latest_build"].clone();
    let path = format!("workspacebuilds/{}/state", id(&build));
    assert_eq!(cli.ask("GET", &path, "", "").await, (200, state(4)));

    let push = async |state: String| {
        let state = json!({ "state": BASE64_STANDARD.encode(state) });
        cli.send("PUT", &path, state).await
    };
    assert_eq!(push(state(4)).await.0, 204, "the same again");
    assert_eq!(
        push(format!("{}\n", state(4))).await.0,
        204,
        "as the CLI prints it"
    );
    let (status, why) = push(state(3)).await;
    assert!(
        status == 409 && why["message"].as_str().unwrap().contains("newer"),
        "{why}"
    );
    assert_eq!(push(state(9)).await.0, 204);
    assert_eq!(cli.ask("GET", &path, "", "").await, (200, state(9)));

    // With a build, as the CLI does unless told otherwise; then only the latest build's state counts.
    let asked = json!({ "transition": "start", "state": BASE64_STANDARD.encode(state(12)) });
    let builds = format!(
        "workspaces/{}/builds",
        build["workspace_id"].as_str().unwrap()
    );
    let (status, made) = cli.send("POST", &builds, asked).await;
    assert_eq!(status, 201, "{made}");
    let job = take(&daemon).await;
    let Work::WorkspaceBuild(work) = &job.work else {
        panic!("{job:?}")
    };
    assert_eq!(work.state, state(12));
    daemon.complete(built(&job)).await.unwrap();
    let (status, why) = push(state(20)).await;
    assert!(
        status == 409 && why["message"].as_str().unwrap().contains("latest build"),
        "{why}"
    );
}

#[tokio::test]
async fn an_agent_s_ports_and_containers_are_asked_for_in_vain_but_without_an_error() {
    let (lab, _daemon, _placed) = lab_with_agent().await;
    let cli = Cli::admin(&lab);
    let workspace = cli.get("users/me/workspace/dev").await;
    let resources = workspace["latest_build"]["resources"]
        .as_array()
        .unwrap()
        .iter();
    let mut agents = resources.flat_map(|it| it["agents"].as_array().unwrap());
    let path = format!("workspaceagents/{}", id(agents.next().unwrap()));

    let ports = cli.get(&format!("{path}/listening-ports")).await;
    let containers = cli
        .get(&format!(
            "{path}/containers?label=devcontainer.local_folder"
        ))
        .await;

    assert_eq!(ports["ports"], json!([]));
    assert_eq!(containers["devcontainers"], json!([]));
}

#[tokio::test]
async fn daemons_and_jobs_are_listed() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("one");
    lab.import(&daemon).await;
    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let job = take(&daemon).await;
    let cli = Cli::admin(&lab);
    let organization = id(&cli.get("users/me/organizations").await[0]);
    assert_eq!(id(&cli.get("organizations/default").await), organization);

    let daemons = cli
        .get(&format!("organizations/{organization}/provisionerdaemons"))
        .await;
    assert_eq!(
        (&daemons[0]["name"], &daemons[0]["status"]),
        (&json!("one"), &json!("busy"))
    );
    assert_eq!(daemons[0]["current_job"]["id"], json!(job.id));
    assert_eq!(daemons[0]["current_job"]["template_name"], "demo");
    let path = format!("organizations/{organization}/provisionerjobs");
    let running = cli.get(&format!("{path}?status=running,pending")).await;
    assert_eq!(running.as_array().unwrap().len(), 1);
    assert_eq!(running[0]["type"], "workspace_build");
    assert_eq!(running[0]["metadata"]["workspace_name"], "dev");
    assert_eq!(running[0]["metadata"]["template_name"], "demo");
    assert_eq!(cli.get(&path).await.as_array().unwrap().len(), 2);
    assert_eq!(
        id(&cli.get(&format!("{path}/{}", job.id)).await),
        job.id.to_string()
    );
    let (status, why) = cli
        .send("GET", &format!("{path}?status=bored"), json!(null))
        .await;
    assert!(
        status == 400 && why["message"].as_str().unwrap().contains("bored"),
        "{why}"
    );
}

#[tokio::test]
async fn what_this_server_has_not_is_said_in_words() {
    let lab = Lab::start(Storage::Memory).await;
    let cli = Cli::admin(&lab);
    for (method, path, detail) in [
        ("GET", "users/me/secrets", "user secrets are not supported"),
        ("PUT", "workspaces/x/ttl", "schedules are not supported"),
        ("GET", "users/me/keys/tokens", "`outpost token`"),
        ("POST", "organizations", "`outpost organization`"),
        (
            "GET",
            "organizations/default/provisionerkeys",
            "`outpost provisioner key`",
        ),
        ("GET", "organizations/default/groups", "groups are not"),
        ("GET", "organizations/default/members", "`outpost user`"),
        ("PATCH", "templates/x/acl", "cannot be shared"),
        ("GET", "insights/daus", "outpost --help"),
    ] {
        let (status, body) = cli.send(method, path, json!({})).await;
        assert_eq!(status, 404, "{method} {path}");
        let message = format!("does not implement {method} /api/v2/{path} of Coder's API");
        assert!(
            body["message"].as_str().unwrap().contains(&message),
            "{body}"
        );
        assert!(body["detail"].as_str().unwrap().contains(detail), "{body}");
    }
}

#[tokio::test]
async fn others_may_neither_send_templates_nor_see_what_is_not_theirs() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("one");
    lab.import(&daemon).await;
    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let job = take(&daemon).await;
    daemon.complete(built(&job)).await.unwrap();
    let token = somebody(&mut lab, "ann").await;
    let admin = Cli::admin(&lab);
    let ann = Cli { lab: &lab, token };
    let workspace = admin.get("users/me/workspace/dev").await;
    let build = id(&workspace["latest_build"]);
    let file = workspace["latest_build"]["job"]["file_id"]
        .as_str()
        .unwrap()
        .to_owned();

    for (method, path, body) in [
        ("GET", format!("workspacebuilds/{build}/state"), json!(null)),
        (
            "PUT",
            format!("workspacebuilds/{build}/state"),
            json!({ "state": "" }),
        ),
        (
            "GET",
            format!("workspacebuilds/{build}/parameters"),
            json!(null),
        ),
        (
            "POST",
            format!("workspaces/{}/builds", id(&workspace)),
            json!({ "transition": "delete" }),
        ),
        ("GET", format!("files/{file}"), json!(null)),
        (
            "DELETE",
            format!("templates/{}", workspace["template_id"].as_str().unwrap()),
            json!(null),
        ),
        (
            "POST",
            "users/admin/workspaces".to_owned(),
            json!({ "name": "mine", "template_id": workspace["template_id"] }),
        ),
    ] {
        let (status, body) = ann.send(method, &path, body).await;
        assert_eq!(status, 404, "{method} {path}: {body}");
    }
    let (status, why) = ann.ask("POST", "files", "application/x-tar", "x").await;
    assert!(
        status == 404 && why.contains("needs an administrator"),
        "{why}"
    );
    assert_eq!(ann.get("workspaces").await["count"], 0);
    let stranger = Cli {
        lab: &lab,
        token: Secret::new("nobody"),
    };
    for path in [
        "files",
        "users/me/workspaces",
        "organizations/default/templateversions",
    ] {
        assert_eq!(
            stranger.send("POST", path, json!({})).await.0,
            401,
            "{path}"
        );
    }
}
