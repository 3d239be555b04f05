use std::os::unix::{fs::MetadataExt as _, net::UnixListener as StdListener};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    client::{Client, SocketError},
    *,
};

/// An agent's socket in a directory of its own.
struct Lab {
    _directory: TempDir,
    path: PathBuf,
    stop: Stop,
}

impl Lab {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("new/agent.sock");
        let socket = Socket::open(&path).await.unwrap();
        assert_eq!(socket.path(), path);
        let stop = Stop::new();
        tokio::spawn(socket.serve(Arc::default(), stop.clone()));
        Self {
            _directory: directory,
            path,
            stop,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.path.clone())
    }
}

fn words<T: std::fmt::Debug>(result: Result<T, SocketError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn scripts_order_themselves_through_the_socket() {
    let lab = Lab::start().await;
    let client = lab.client();

    client.ping().await.unwrap();
    client.want("install", "pre_install").await.unwrap();
    assert!(!client.is_ready("install").await.unwrap());
    assert_eq!(
        words(client.start("install").await),
        "cannot start unit \"install\": unit not ready"
    );
    client.start("pre_install").await.unwrap();
    client.complete("pre_install").await.unwrap();
    client.start("install").await.unwrap();

    let status = client.status("install").await.unwrap();
    assert_eq!((status.status.as_str(), status.is_ready), ("started", true));
    let json = serde_json::to_string(&status.dependencies).unwrap();
    assert_eq!(
        json,
        r#"[{"depends_on":"pre_install","required_status":"completed","current_status":"completed","is_satisfied":true}]"#
    );
    let names = client.list().await.unwrap().into_iter();
    let names: Vec<_> = names.map(|it| it.unit_name + " " + &it.status).collect();
    assert_eq!(names, ["install started", "pre_install completed"]);
}

#[tokio::test]
async fn refusals_have_the_reference_s_words() {
    let lab = Lab::start().await;
    let client = lab.client();
    client.start("a").await.unwrap();

    for (answer, expected) in [
        (
            client.start("a").await,
            "cannot start unit \"a\": checking status for unit \"a\": same status already set",
        ),
        (
            client.start("").await,
            "SyncStart: registering unit \"\": unit name is required",
        ),
        (
            client.complete("b").await,
            "cannot complete unit \"b\": unit \"b\" must be registered first: unit not found",
        ),
        (
            client.want("a", "a").await,
            "cannot add dependency: adding edge for unit \"a\": failed to add dependency\nadding edge (a -> a): cycle detected",
        ),
    ] {
        assert_eq!(words(answer), expected);
    }
    assert_eq!(
        words(client.status("").await),
        "cannot check readiness: unit ID cannot be empty: unit name is required"
    );
    let unknown = client.status("c").await.unwrap();
    assert_eq!((unknown.status.as_str(), unknown.is_ready), ("", true));
}

/// Go's client keeps its connection, and numbers its calls upwards.
#[tokio::test]
async fn calls_of_a_go_client_are_answered_on_one_connection() {
    const PING: &str = "/coder.agentsocket.v1.AgentSocket/Ping";
    const READY: &str = "/coder.agentsocket.v1.AgentSocket/SyncReady";
    let lab = Lab::start().await;
    let mut stream = UnixStream::connect(&lab.path).await.unwrap();
    let frame = |kind: u8, stream: u8, packet: u8, data: &[u8]| {
        [&[kind << 1 | 1, stream, packet, data.len() as u8], data].concat()
    };

    let ping = [
        frame(1, 1, 1, PING.as_bytes()),
        frame(2, 1, 2, b""),
        frame(6, 1, 3, b""),
    ];
    stream.write_all(&ping.concat()).await.unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(hex::encode(answer), "050101000d010200");

    let ready = [
        frame(5, 1, 4, b""),
        frame(7, 2, 1, b""),
        frame(1, 2, 2, READY.as_bytes()),
        frame(2, 2, 3, b"\x0a\x01a"),
        frame(6, 2, 4, b""),
    ];
    stream.write_all(&ready.concat()).await.unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(hex::encode(answer), "0502010208010d020200");

    let unknown = [
        frame(1, 3, 1, b"/coder.agentsocket.v1.AgentSocket/ResyncContext"),
        frame(2, 3, 2, b""),
        frame(6, 3, 3, b""),
    ];
    stream.write_all(&unknown.concat()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(hex::encode(&head[..3]), "070301");
    assert_eq!(head[4..], UNIMPLEMENTED.to_be_bytes());
}

#[tokio::test]
async fn an_app_s_status_needs_the_server() {
    let lab = Lab::start().await;
    let stream = UnixStream::connect(&lab.path).await.unwrap();
    let asked = UpdateAppStatusRequest::default();
    let method = format!("{SERVICE}UpdateAppStatus");

    let answer: Result<UpdateAppStatusResponse, _> =
        outpost_transport::drpc::Call::unary(stream, &method, &asked, LIMITS).await;

    let error = answer.unwrap_err().to_string();
    assert_eq!(error, "agent not connected to coderd");
}

#[tokio::test]
async fn the_socket_is_its_owner_s_alone_and_goes_with_the_agent() {
    let lab = Lab::start().await;
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&lab.path), 0o600);
    assert_eq!(mode(lab.path.parent().unwrap()), 0o700);

    lab.stop.drain();
    while lab.path.exists() {
        tokio::task::yield_now().await;
    }

    let error = lab.client().ping().await.unwrap_err();
    assert!(matches!(error, SocketError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dead_agent_s_socket_is_replaced_and_nothing_else_is() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("agent.sock");
    drop(StdListener::bind(&path).unwrap());

    let first = Socket::open(&path).await.unwrap();
    assert_eq!(first.path(), path);

    // A second agent finds the first, and listens elsewhere.
    let own = std::env::temp_dir().join(format!("coder-agent-{}.sock", std::process::id()));
    let second = Socket::open(&path).await.unwrap();
    assert_eq!(second.path(), own);
    drop(second);

    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let third = Socket::open(&file).await.unwrap();
    assert_eq!(third.path(), own);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}
