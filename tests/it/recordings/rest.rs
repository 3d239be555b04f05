//! What a real server answered over plain HTTP, played to our own client.

use std::{net::SocketAddr, sync::Arc};

use outpost::{
    connect::Server,
    net::http::{Client, Config, read_limited},
    secret::Secret,
    tailnet::DerpMap,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use uuid::Uuid;

use super::{PATIENCE, Raw, head_length};

/// A question and its answer, as they were; the body of the answer without its encoding.
struct Exchange {
    method: String,
    path: String,
    answer: Vec<u8>,
    body: Vec<u8>,
}

/// All exchanges of one connection; nothing is left over, but the last answer may be missing or broken off.
fn exchanges(raw: &Raw) -> Vec<Exchange> {
    let (mut client, mut server) = (&raw.client[..], &raw.server[..]);
    let mut all = Vec::new();
    while !client.is_empty() {
        let (head, asked) = message(client);
        let words: Vec<&str> = head.lines().next().unwrap().split(' ').collect();
        let [method, path, "HTTP/1.1"] = words[..] else {
            panic!("{words:?}");
        };
        client = &client[asked.length..];
        if server.is_empty() {
            assert!(client.is_empty(), "{path} was never answered");
            break;
        }
        let (_, answered) = message(server);
        all.push(Exchange {
            method: method.to_owned(),
            path: path.split('?').next().unwrap().to_owned(),
            answer: server[..answered.length].to_vec(),
            body: answered.body,
        });
        server = &server[answered.length..];
    }
    assert!(server.is_empty(), "an answer to nothing is left over");
    all
}

struct Message {
    length: usize,
    body: Vec<u8>,
}

/// The head of the first message of `bytes`, and the message.
fn message(bytes: &[u8]) -> (String, Message) {
    let head_bytes = head_length(bytes);
    let head = String::from_utf8(bytes[..head_bytes].to_vec()).unwrap();
    let lower = head.to_ascii_lowercase();
    let rest = &bytes[head_bytes..];
    let (length, body) = match lower.split_once("\r\ncontent-length: ") {
        Some((_, after)) => {
            let length: usize = after.split("\r\n").next().unwrap().parse().unwrap();
            (length, rest[..length].to_vec())
        }
        None if lower.contains("\r\ntransfer-encoding: chunked\r\n") => chunks(rest),
        None => (0, Vec::new()),
    };
    let length = head_bytes + length;
    (head, Message { length, body })
}

/// How long the chunks are with all that is around them, and what is in them.
fn chunks(mut rest: &[u8]) -> (usize, Vec<u8>) {
    let (all, mut body) = (rest.len(), Vec::new());
    while let Some(end) = rest.windows(2).position(|it| it == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let (data, after) = rest[end + 2..].split_at(size);
        body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n").unwrap();
        if size == 0 {
            break;
        }
    }
    (all - rest.len(), body)
}

/// Answers each question by its path as the recorded server did.
async fn replay(recorded: Vec<Exchange>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let recorded = Arc::new(recorded);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(answer(socket, recorded.clone()));
        }
    });
    (address, tasks)
}

async fn answer(mut socket: TcpStream, recorded: Arc<Vec<Exchange>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = socket.read_u8().await else {
                return;
            };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().split('?').next().unwrap();
        let found = recorded.iter().find(|it| it.path == path);
        let answer = found.map_or(
            &b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..],
            |it| &it.answer,
        );
        if socket.write_all(answer).await.is_err() {
            return;
        }
    }
}

fn client(address: SocketAddr) -> Client {
    let url = format!("http://{address}").parse().unwrap();
    Client::new(Config::new(url)).unwrap()
}

#[tokio::test]
async fn what_a_server_says_of_a_workspace_and_its_agent_is_read_by_who_goes_there() {
    let Some(raw) = Raw::open("client-rest-ssh.jsonl") else {
        return;
    };
    let recorded = exchanges(&raw);
    let mut agent = Uuid::nil();
    for exchange in &recorded {
        let path: Vec<&str> = exchange.path.split('/').skip(3).collect();
        match (exchange.method.as_str(), &path[..]) {
            ("GET", ["users", "me", "workspace", "wire"]) => {}
            ("GET", ["workspaceagents", id]) => agent = id.parse().unwrap(),
            ("GET", ["workspaceagents", _, "connection"]) => {
                let info: Value = serde_json::from_slice(&exchange.body).unwrap();
                let map: DerpMap = serde_json::from_value(info["derp_map"].clone()).unwrap();
                assert_eq!(serde_json::to_value(map).unwrap(), info["derp_map"]);
            }
            // Only its own command line asks for these, to warn and to count.
            ("GET", ["appearance"] | ["templateversions", _])
            | ("POST", ["workspaces", _, "usage"]) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(recorded.len() >= 6);
    let (address, _tasks) = replay(recorded).await;
    let server = Server::new(client(address), Secret::new("a token"));

    let workspace = timeout(PATIENCE, server.workspace("wire")).await.unwrap();
    let workspace = workspace.unwrap();
    assert_eq!(
        (&*workspace.name, &*workspace.owner_name),
        ("wire", "testuser")
    );
    assert_eq!(workspace.latest_build.status, "running");
    let found = workspace.agent("").unwrap();
    assert_eq!((found.id, &*found.status), (agent, "connected"));
    let asked = timeout(PATIENCE, server.agent(agent))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((asked.id, asked.name), (agent, found.name));
    assert_eq!(asked.lifecycle_state, "ready");
    let conn = timeout(PATIENCE, server.dial_agent(agent)).await.unwrap();
    drop(conn.unwrap());
}

#[tokio::test]
async fn plain_answers_to_agents_are_read_by_our_client() {
    for (name, path, expected) in [
        (
            "agent-reinit.jsonl",
            "/api/v2/workspaceagents/me/reinit",
            "event: ping\n\n",
        ),
        ("derp-latency-check.jsonl", "/derp/latency-check", ""),
    ] {
        let Some(raw) = Raw::open(name) else { return };
        let mut recorded = exchanges(&raw);
        assert_eq!(recorded.len(), 1);
        assert_eq!((&*recorded[0].method, &*recorded[0].path), ("GET", path));
        assert_eq!(recorded[0].body, expected.as_bytes());
        // The one that goes on for ever was broken off by the recording.
        if !expected.is_empty() {
            recorded[0].answer.extend_from_slice(b"0\r\n\r\n");
        }
        let (address, _tasks) = replay(recorded).await;
        let client = client(address);

        let (url, headers) = (client.endpoint(&path[1..]), client.headers().await.unwrap());
        let answer = timeout(PATIENCE, client.get(&url, &headers));
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(read_limited(answer, 1 << 10).await, expected.as_bytes());
    }
}
