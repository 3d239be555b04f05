//! What a browser sees of a served mirror.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use outpost::{
    mirror::{
        Digest, Generation, Store,
        generation::{GitRepository, Module, Provider, StaticFile},
        keys::SecretKey,
        serve::{Access, Server},
    },
    secret::Secret,
    stop::Stop,
};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::serve::sign;
use crate::sealed::package;

/// What somebody writes who wants a script in the page.
const HOSTILE: &str = "<script>alert('x')</script>\"&";

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: header::HeaderName) -> &str {
        let value = self.headers.get(&name);
        let value = value.unwrap_or_else(|| panic!("no `{name}`"));
        value.to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

async fn get(routes: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header("host", "mirror.example:7081");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = routes.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 64 << 20).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// As browsers ask.
const BROWSER: (&str, &str) = (
    "accept",
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
);
const PROGRAM: (&str, &str) = ("accept", "application/json");

async fn commit(store: &Store, generation: Generation) {
    let lock = store.lock(&Stop::new()).await.unwrap();
    let current = store.current().unwrap();
    store.commit(generation, current, &lock).unwrap();
}

fn store() -> (TempDir, Store) {
    outpost::net::install_crypto_provider();
    let dir = TempDir::new().unwrap();
    let store = Store::open(&dir.path().join("mirror")).unwrap();
    (dir, store)
}

fn provider(store: &Store, version: &str, is_signed: bool) -> Provider {
    let package = package(store, version);
    Provider {
        addr: "registry.terraform.io/acme/coder".parse().unwrap(),
        version: version.parse().unwrap(),
        protocols: vec!["6.0".to_owned()],
        signed: is_signed.then(|| sign(store, &package)),
        packages: vec![package],
    }
}

fn module(store: &Store, name: &str, version: &str) -> Module {
    Module {
        addr: format!("modules.example/acme/{name}/coder"),
        version: version.parse().unwrap(),
        archive: store.put(b"module").unwrap(),
        size: 6,
        origin: String::new(),
        dir: String::new(),
    }
}

#[tokio::test]
async fn a_browser_sees_what_there_is_and_nothing_that_runs_or_leads_outside() {
    let (_dir, store) = store();
    let refs = BTreeMap::from([("refs/tags/v7.1.0".to_owned(), "0123".repeat(10))]);
    let git = GitRepository {
        url: "https://git.example/acme/mods.git".to_owned(),
        refs,
        head: None,
        pack: store.put(b"pack").unwrap(),
        index: store.put(b"index").unwrap(),
    };
    let file = StaticFile {
        url: format!("https://files.example/{HOSTILE}"),
        content: store.put(b"file").unwrap(),
        size: 4,
    };
    let generation = Generation {
        providers: vec![
            provider(&store, "1.9.0", true),
            provider(&store, "1.10.0", false),
        ],
        modules: vec![module(&store, "hello", "1.2.0")],
        git: vec![git],
        files: vec![file],
        ..Generation::default()
    };
    commit(&store, generation).await;
    let routes = Server::new(store, Access::default()).router();
    for (kind, name) in [("provider", "registry.example/a/b"), ("git", HOSTILE)] {
        let report = serde_json::json!({ "missing": [{ "kind": kind, "name": name }] });
        let request = Request::post("/api/missing").body(Body::from(report.to_string()));
        let response = routes.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }

    let page = get(&routes, "/", &[BROWSER]).await;

    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(
        page.header(header::CONTENT_TYPE),
        "text/html; charset=utf-8"
    );
    let policy = page.header(header::CONTENT_SECURITY_POLICY);
    let (start, end) = (
        page.text.find("<style>").unwrap(),
        page.text.find("</style>").unwrap(),
    );
    let style = &page.text[start + "<style>".len()..end];
    let digest = STANDARD.encode(Digest::of(style.as_bytes()).0);
    let expected = format!("default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; ");
    assert!(policy.starts_with(&expected), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for part in [
        "Generation</dt><dd>1, made ",
        "registry.terraform.io/acme/coder <span class=note>1.10.0 · 2 versions",
        "modules.example/acme/hello/coder",
        "https://git.example/acme/mods.git",
        "<td>v7.1.0<td><code>01230123",
        "not signed",
        "registry.example/a/b",
        "2 items",
        "outpost provisioner start --mirror http://mirror.example:7081/",
        "host &quot;registry.terraform.io&quot;",
        "http://mirror.example:7081/v1/modules/modules.example/",
        "outpost mirror config http://mirror.example:7081/ --git-host git.example",
        "https://files.example/&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;",
    ] {
        assert!(page.text.contains(part), "{part}\n{}", page.text);
    }
    let newer = page.text.find(">1.10.0<").unwrap();
    let older = page.text.find(">1.9.0<").unwrap();
    assert!(newer < older, "the newest version comes first");
    for tag in page.text.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        for bad in [
            "script", "link", "form", "img", "iframe", " src=", " style=", " on",
        ] {
            assert!(!tag.contains(bad), "{tag}");
        }
    }
    for bad in ["javascript:", "@import", "url("] {
        assert!(!page.text.contains(bad), "{bad}");
    }
    for link in page.text.split("href=\"").skip(1) {
        assert!(
            link.starts_with("#missing\"") || link.starts_with("api/missing\""),
            "{link}"
        );
    }
}

#[tokio::test]
async fn a_program_gets_json_and_who_takes_either_the_page() {
    let (_dir, store) = store();
    let empty = Server::new(store.clone(), Access::default()).router();
    let before = get(&empty, "/", &[PROGRAM]).await.json();
    assert_eq!(
        (&before["generation"], &before["providers"]),
        (&Value::Null, &Value::from(Vec::<Value>::new()))
    );
    let page = get(&empty, "/", &[BROWSER]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("none yet"), "{}", page.text);

    let generation = Generation {
        providers: vec![provider(&store, "1.9.0", true)],
        modules: vec![module(&store, "hello", "1.2.0")],
        ..Generation::default()
    };
    commit(&store, generation).await;
    let json = get(&empty, "/", &[PROGRAM]).await;

    assert_eq!(json.header(header::CONTENT_TYPE), "application/json");
    let json = json.json();
    assert_eq!(json["generation"], 1, "a new generation is shown at once");
    assert_eq!(json["index"]["state"], "unsigned");
    let provider = &json["providers"][0];
    assert_eq!(provider["name"], "registry.terraform.io/acme/coder");
    assert_eq!(provider["versions"][0]["version"], "1.9.0");
    assert_eq!(provider["versions"][0]["signed"], true);
    assert!(
        provider["versions"][0]["platforms"][0]["bytes"]
            .as_u64()
            .unwrap()
            > 100
    );
    assert_eq!(json["modules"][0]["versions"][0]["bytes"], 6);
    for (accept, is_json) in [
        ("*/*", false),
        ("application/json, text/html;q=0.9", true),
        ("application/json;q=0.5, text/html", false),
        ("application/json, text/plain, */*", true),
    ] {
        let answer = get(&empty, "/", &[("accept", accept)]).await;
        let kind = answer.header(header::CONTENT_TYPE);
        assert_eq!(kind == "application/json", is_json, "{accept}");
    }
}

#[tokio::test]
async fn a_browser_without_a_token_is_asked_for_it_and_sees_nothing_else() {
    let (_dir, store) = store();
    let generation = Generation {
        modules: vec![module(&store, "hello", "1.2.0")],
        ..Generation::default()
    };
    commit(&store, generation).await;
    let access = Access::tokens(vec![Secret::new("0123456789abcdef")]);
    let routes = Server::new(store, access).router();

    let refused = get(&routes, "/", &[BROWSER]).await;

    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(
        refused
            .header(header::WWW_AUTHENTICATE)
            .starts_with("Basic ")
    );
    assert!(
        refused
            .header(header::CONTENT_SECURITY_POLICY)
            .starts_with("default-src 'none'")
    );
    assert!(
        refused.text.contains("token as the password"),
        "{}",
        refused.text
    );
    assert!(!refused.text.contains("hello"), "{}", refused.text);
    let program = get(&routes, "/", &[PROGRAM]).await;
    assert_eq!(program.status, StatusCode::UNAUTHORIZED);
    assert!(
        program.json()["errors"][0]
            .as_str()
            .unwrap()
            .contains("token")
    );

    let basic = format!("Basic {}", STANDARD.encode("me:0123456789abcdef"));
    let page = get(&routes, "/", &[BROWSER, ("authorization", &basic)]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("acme/hello"), "{}", page.text);
    assert!(page.text.contains("--mirror-token-file"), "{}", page.text);
    assert!(!page.text.contains("0123456789abcdef"), "{}", page.text);
}

#[tokio::test]
async fn a_page_of_many_thousand_versions_is_bounded_and_says_what_it_leaves_out() {
    let (_dir, store) = store();
    let mut modules = Vec::new();
    for number in 0..5000 {
        modules.push(module(&store, "one", &format!("1.{number}.0")));
        modules.push(module(
            &store,
            &format!("m{number:04}{}", "x".repeat(200)),
            "1.0.0",
        ));
    }
    commit(
        &store,
        Generation {
            modules,
            ..Generation::default()
        },
    )
    .await;
    let routes = Server::new(store, Access::default()).router();

    let page = get(&routes, "/", &[BROWSER]).await;
    let json = get(&routes, "/", &[PROGRAM]).await.json();

    assert!(page.text.len() < 1 << 20, "{}", page.text.len());
    assert!(page.text.contains("5001 <") || page.text.contains(">5001</span>"));
    let more = page.text.matches("more, which the JSON has").count();
    assert!(more >= 1, "{more}");
    let modules = json["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 5001);
    let one = modules
        .iter()
        .find(|it| it["name"] == "modules.example/acme/one/coder");
    assert_eq!(one.unwrap()["versions"].as_array().unwrap().len(), 5000);
}

#[tokio::test]
async fn the_page_says_who_signed_the_index_and_whether_that_is_trusted() {
    let (_dir, store) = store();
    commit(
        &store,
        Generation {
            modules: vec![module(&store, "hello", "1.2.0")],
            ..Generation::default()
        },
    )
    .await;
    let key = SecretKey::generate().unwrap();
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.sign_inventory(1, &key, &lock).unwrap();
    drop(lock);
    let server = |store: &Store| Server::new(store.clone(), Access::default()).router();
    let id = key.public().id.to_string();

    let untrusted = get(&server(&store), "/", &[PROGRAM]).await.json();
    assert_eq!(
        untrusted["index"],
        serde_json::json!({ "state": "untrusted", "keys": [id] })
    );
    let records = serde_json::json!({ "keys": [key.public().to_string()], "threshold": 1 });
    std::fs::write(store.dir().join("imports.json"), records.to_string()).unwrap();
    let page = get(&server(&store), "/", &[BROWSER]).await;
    let trusted = format!("<span class=good>trusted</span>: its index is signed by {id}");
    assert!(page.text.contains(&trusted), "{}", page.text);

    std::fs::write(store.index_path(1), "{}").unwrap();
    let page = get(&server(&store), "/", &[BROWSER]).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        page.text.contains("the mirror cannot be read"),
        "{}",
        page.text
    );
}
