//! Pushes to a coderd: a server with its routes for templates, which notes what it is asked.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{get, patch, post},
};
use serde_json::{Value, json};

use super::{AGENT, Bench, PROVIDERS};

/// What a server was asked, and how its import ends.
struct Coderd {
    asked: Mutex<Vec<(String, Value)>>,
    has_template: bool,
    import_status: &'static str,
}

impl Coderd {
    fn note(&self, what: &str, body: Value) {
        self.asked.lock().unwrap().push((what.to_owned(), body));
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(what, _)| what.clone()).collect()
    }

    fn body(&self, what: &str) -> Value {
        let asked = self.asked.lock().unwrap();
        let found = asked.iter().find(|(asked, _)| asked == what);
        found
            .unwrap_or_else(|| panic!("no {what}: {asked:?}"))
            .1
            .clone()
    }

    fn version(&self, status: &str) -> Value {
        let error = if status == "failed" {
            "missing values"
        } else {
            ""
        };
        let code = if status == "failed" {
            "REQUIRED_TEMPLATE_VARIABLES"
        } else {
            ""
        };
        json!({"id": "v1", "name": "calm_fox1", "job": {"status": status, "error": error, "error_code": code, "file_id": "f1"}})
    }
}

/// Serves a coderd, and returns its URL.
fn serve(coderd: &Arc<Coderd>) -> String {
    type Shared = State<Arc<Coderd>>;
    let upload = |State(it): Shared, headers: HeaderMap, body: Bytes| async move {
        assert_eq!(headers["content-type"], "application/x-tar");
        assert_eq!(headers["coder-session-token"], "secret");
        it.note("upload", body.len().into());
        (StatusCode::CREATED, Json(json!({"hash": "f1"})))
    };
    let template = |State(it): Shared, Path(name): Path<String>| async move {
        match it.has_template {
            true => (
                StatusCode::OK,
                Json(json!({"id": "t1", "name": name, "active_version_id": "v0"})),
            ),
            false => (
                StatusCode::NOT_FOUND,
                Json(
                    json!({"message": "Resource not found or you do not have access to this resource"}),
                ),
            ),
        }
    };
    let create_version = |State(it): Shared, Json(body): Json<Value>| async move {
        it.note("version", body);
        (StatusCode::CREATED, Json(it.version("pending")))
    };
    let create_template = |State(it): Shared, Json(body): Json<Value>| async move {
        it.note("template", body);
        (
            StatusCode::CREATED,
            Json(json!({"id": "t1", "active_version_id": "v1"})),
        )
    };
    let activate = |State(it): Shared, Json(body): Json<Value>| async move {
        it.note("activate", body);
        Json(json!({"message": "Updated the active template version!"}))
    };
    let one = |State(it): Shared| async move { Json(it.version(it.import_status)) };
    let logs = || async {
        Json(
            json!([{"id": 7, "created_at": "2026-01-01T00:00:00Z", "log_source": "provisioner", "log_level": "info", "stage": "Planning", "output": "a line of the log"}]),
        )
    };
    let routes = Router::new()
        .route(
            "/api/v2/buildinfo",
            get(|| async {
                Json(json!({"version": "v2.39.0+abc", "provisioner_api_version": "1.20"}))
            }),
        )
        .route("/api/v2/files", post(upload))
        .route(
            "/api/v2/organizations/default/templates/{name}",
            get(template),
        )
        .route(
            "/api/v2/organizations/default/templates",
            post(create_template),
        )
        .route(
            "/api/v2/organizations/default/templateversions",
            post(create_version),
        )
        .route("/api/v2/templateversions/v1", get(one))
        .route("/api/v2/templateversions/v1/logs", get(logs))
        .route("/api/v2/templates/t1/versions", patch(activate))
        .with_state(Arc::clone(coderd));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
    });
    url
}

fn coderd(has_template: bool, import_status: &'static str) -> Arc<Coderd> {
    Arc::new(Coderd {
        asked: Mutex::default(),
        has_template,
        import_status,
    })
}

fn push(coderd: &Arc<Coderd>, template: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let bench = Bench::new(&[("t/main.tf", template)]);
    bench.write("token", "secret\n");
    let url = serve(coderd);
    let arguments = [
        "push",
        "docker",
        "t",
        "--url",
        &url,
        "--token-file",
        "token",
        "--output",
        "json",
    ];
    let output = bench.run(&[&arguments, options].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

const WITH_VARIABLE: &str = "variable \"zone\" {}\n";

#[test]
fn a_new_version_of_a_template_of_a_coderd_is_imported_and_activated() {
    let coderd = coderd(true, "succeeded");

    let options = [
        "--variable",
        "zone=a",
        "--message",
        "why",
        "--version",
        "v7",
        "--tag",
        "cluster=a",
        "--activate",
    ];
    let (code, stdout, stderr) = push(&coderd, WITH_VARIABLE, &options);

    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(coderd.asked(), ["upload", "version", "activate"]);
    let version = coderd.body("version");
    assert_eq!(
        (&version["template_id"], &version["file_id"]),
        (&"t1".into(), &"f1".into())
    );
    assert_eq!(
        (&version["name"], &version["message"]),
        (&"v7".into(), &"why".into())
    );
    assert_eq!(
        version["user_variable_values"],
        json!([{"name": "zone", "value": "a"}])
    );
    assert_eq!(version["tags"], json!({"cluster": "a"}));
    assert_eq!(
        (&version["provisioner"], &version["storage_method"]),
        (&"terraform".into(), &"file".into())
    );
    assert_eq!(coderd.body("activate"), json!({"id": "v1"}));
    let pushed: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&pushed[0]["version"], &pushed[0]["active"]),
        (&"calm_fox1".into(), &true.into())
    );
    assert!(stderr.contains("a line of the log"), "{stderr}");
}

#[test]
fn the_first_version_of_a_template_makes_the_template() {
    let coderd = coderd(false, "succeeded");

    let (code, _, stderr) = push(&coderd, WITH_VARIABLE, &[]);

    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(coderd.asked(), ["upload", "version", "template"]);
    assert_eq!(coderd.body("version")["template_id"], Value::Null);
    assert_eq!(
        coderd.body("template"),
        json!({"name": "docker", "template_version_id": "v1"})
    );
    let (code, _, stderr) = push(&coderd, WITH_VARIABLE, &["--inactive"]);
    assert_eq!(code, Some(2), "{stderr}");
}

#[test]
fn an_import_that_fails_activates_nothing_and_says_why() {
    let coderd = coderd(true, "failed");

    let (code, _, stderr) = push(&coderd, WITH_VARIABLE, &[]);

    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("missing values") && stderr.contains("--variable"),
        "{stderr}"
    );
    assert_eq!(coderd.asked(), ["upload", "version"]);
}

#[test]
fn a_template_with_an_error_is_not_pushed_if_it_is_checked_first() {
    let coderd = coderd(true, "succeeded");
    let wrong = [PROVIDERS, &AGENT.replace("amd64", "sparc")].concat();

    let (code, stdout, stderr) = push(&coderd, &wrong, &["--check"]);

    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("agent-arch-mismatch") && stdout.is_empty(),
        "{stderr}"
    );
    assert_eq!(coderd.asked(), Vec::<String>::new());
}
