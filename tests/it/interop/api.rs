//! What a person asks of coderd, over its HTTP API.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use url::Url;

use super::PATIENCE;

/// coderd tells the end of a job on no channel that is simpler than asking again.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Api {
    client: reqwest::Client,
    url: Url,
    token: String,
}

/// An imported version and its template.
pub(super) struct Version {
    pub(super) id: String,
}

impl Api {
    pub(super) fn new(url: Url, token: String) -> Self {
        Self {
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            url,
            token,
        }
    }

    pub(super) fn token(&self) -> String {
        self.token.clone()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        kind: &str,
    ) -> (StatusCode, Value) {
        let url = self.url.join(&format!("api/v2/{path}")).unwrap();
        let request = self
            .client
            .request(method, url)
            .header("coder-session-token", &self.token)
            .header("content-type", kind)
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let bytes = response.bytes().await.unwrap();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, value) = self
            .send(Method::GET, path, Vec::new(), "application/json")
            .await;
        assert!(status.is_success(), "GET {path}: {status} {value}");
        value
    }

    /// Whether the server has what `path` names.
    pub(super) async fn has(&self, path: &str) -> bool {
        let (status, value) = self
            .send(Method::GET, path, Vec::new(), "application/json")
            .await;
        assert!(
            status.is_success() || status == StatusCode::NOT_FOUND,
            "GET {path}: {status} {value}"
        );
        status.is_success()
    }

    pub(super) async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let bytes = serde_json::to_vec(&body).unwrap();
        let (status, value) = self.send(method, path, bytes, "application/json").await;
        assert!(status.is_success(), "{path}: {status} {value}");
        value
    }

    /// Asks until `is_done`, and gives the last answer.
    pub(super) async fn until(&self, path: &str, is_done: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.get(path).await;
            if is_done(&value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{path} stays as {value}");
            sleep(PAUSE).await;
        }
    }

    /// Uploads `main_tf` and begins its import with the tags.
    pub(super) async fn import(&self, main_tf: &str, tags: Value) -> Version {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in [("main.tf", main_tf), ("README.md", "# A test\n")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, text.as_bytes())
                .unwrap();
        }
        let archive = archive.into_inner().unwrap();
        let (status, file) = self
            .send(Method::POST, "files", archive, "application/x-tar")
            .await;
        assert!(status.is_success(), "{status} {file}");
        let body = json!({
            "storage_method": "file",
            "file_id": file["hash"],
            "provisioner": "terraform",
            "tags": tags,
            "user_variable_values": [{ "name": "greeting", "value": "hello" }],
        });
        let path = "organizations/default/templateversions";
        let version = self.ask(Method::POST, path, body).await;
        Version {
            id: text(&version["id"]),
        }
    }

    pub(super) async fn ended_import(&self, version: &str) -> Value {
        let path = format!("templateversions/{version}");
        self.until(&path, |version| is_over(&version["job"])).await["job"].clone()
    }

    /// Makes a template of the version and returns its id.
    pub(super) async fn template(&self, version: &Version, name: &str) -> String {
        let body = json!({ "name": short(name), "template_version_id": version.id });
        let made = self
            .ask(Method::POST, "organizations/default/templates", body)
            .await;
        text(&made["id"])
    }

    /// Creates a workspace; its id and that of its first build.
    pub(super) async fn create(
        &self,
        template: &str,
        name: &str,
        seconds: u32,
    ) -> (String, String) {
        let body = json!({
            "template_id": template,
            "name": short(name),
            "rich_parameter_values": [{ "name": "seconds", "value": seconds.to_string() }],
        });
        let made = self.ask(Method::POST, "users/me/workspaces", body).await;
        (text(&made["id"]), text(&made["latest_build"]["id"]))
    }

    /// Begins a build and returns its id.
    pub(super) async fn build(&self, workspace: &str, transition: &str) -> String {
        let body = json!({ "transition": transition });
        let path = format!("workspaces/{workspace}/builds");
        text(&self.ask(Method::POST, &path, body).await["id"])
    }

    pub(super) async fn ended_build(&self, build: &str) -> Value {
        let path = format!("workspacebuilds/{build}");
        self.until(&path, |build| is_over(&build["job"])).await
    }

    /// Waits until a line of the build's log has `text`.
    pub(super) async fn logged(&self, build: &str, text: &str) {
        let path = format!("workspacebuilds/{build}/logs?after=0");
        self.until(&path, |lines| has_line(lines, text)).await;
    }

    pub(super) async fn cancel(&self, build: &str) {
        let path = format!("workspacebuilds/{build}/cancel");
        self.ask(Method::PATCH, &path, Value::Null).await;
    }

    /// Builds, and expects success.
    pub(super) async fn succeed(&self, workspace: &str, transition: &str) -> Value {
        let build = self.build(workspace, transition).await;
        let build = self.ended_build(&build).await;
        assert_eq!(build["job"]["status"], "succeeded", "{transition}: {build}");
        build
    }
}

pub(super) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

pub(super) fn has_line(lines: &Value, text: &str) -> bool {
    let lines = lines.as_array().into_iter().flatten();
    lines
        .filter_map(|line| line["output"].as_str())
        .any(|line| line.contains(text))
}

/// Names have 32 characters at most.
fn short(name: &str) -> &str {
    &name[..name.len().min(32)]
}

fn is_over(job: &Value) -> bool {
    matches!(
        job["status"].as_str(),
        Some("succeeded" | "failed" | "canceled")
    )
}
