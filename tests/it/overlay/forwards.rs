//! Connections through a session, in both directions.

use std::{os::unix::net::UnixListener as StdUnixListener, path::Path, process::Stdio};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    process::Child,
    time::timeout,
};

use super::lab::{self, Lab, has_ssh, text};
use crate::{
    control::{PATIENCE, kill::free_address},
    support::{skip::skipped, wait::until},
};

/// Answers with what it hears, in capitals, until it hears no more.
async fn answer(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    let said = heard.to_uppercase();
    stream.write_all(said.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    port
}

fn echo_at(path: &Path) {
    let listener = StdUnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
}

/// What is answered; empty if the connection is cut.
async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
    let asking = async {
        let _ = stream.write_all(b"hello").await;
        let _ = stream.shutdown().await;
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said).await;
        said
    };
    timeout(PATIENCE, asking).await.unwrap()
}

/// A client that holds these forwards, once it does.
async fn holding(lab: &Lab, words: &[&str]) -> Child {
    let mut command = lab.open("ssh").await;
    command
        .args(["-o", "ExitOnForwardFailure=yes"])
        .args(words)
        .args(["dev.outpost", "echo up; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut up = [0; 3];
    let stdout = child.stdout.as_mut().unwrap();
    timeout(PATIENCE, stdout.read_exact(&mut up))
        .await
        .unwrap()
        .unwrap();
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_from_the_client_to_what_the_agent_sees() {
    if !has_ssh() {
        return;
    }
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let (there, here) = (echo().await, free_address());
    let (socket, end) = (lab.path("there.sock"), lab.path("here.sock"));
    echo_at(&socket);

    let tcp = format!("{here}:localhost:{there}");
    let unix = format!("{}:{}", end.display(), socket.display());
    let _client = holding(&lab, &["-L", &tcp, "-L", &unix]).await;
    for _ in 0..3 {
        let stream = TcpStream::connect(here).await.unwrap();
        assert_eq!(ask(stream).await, "HELLO");
        let stream = UnixStream::connect(&end).await.unwrap();
        assert_eq!(ask(stream).await, "HELLO");
    }

    let mut through = lab.open("ssh").await;
    let to = format!("localhost:{there}");
    through
        .args(["-W", &to, "dev.outpost"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut through = through.spawn().unwrap();
    let mut stdin = through.stdin.take().unwrap();
    stdin.write_all(b"w").await.unwrap();
    drop(stdin);
    let output = timeout(PATIENCE, through.wait_with_output()).await;
    assert_eq!(text(&output.unwrap().unwrap().stdout), "W");

    let nobody = free_address();
    let (nobody, loud) = (nobody.to_string(), "LogLevel=INFO");
    let refused = lab.ssh(&["-o", loud, "-W", &nobody, "dev.outpost"]).await;
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(said.contains("connect failed"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_through_a_forwarded_connection_both_ways_at_once() {
    if !has_ssh() {
        return;
    }
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, here) = (there.local_addr().unwrap().port(), free_address());
    tokio::spawn(async move {
        let (mut stream, _) = there.accept().await.unwrap();
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let _client = holding(&lab, &["-L", &format!("{here}:localhost:{port}")]).await;

    let mut stream = TcpStream::connect(here).await.unwrap();
    let (mut from, mut to) = stream.split();
    let sent = vec![7; 32 << 20];
    let mut back = Vec::new();
    let sending = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let both = async { tokio::join!(sending, from.read_to_end(&mut back)) };
    timeout(PATIENCE, both).await.unwrap().1.unwrap();

    assert!(back == sent, "{} bytes came back", back.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_from_the_agent_to_what_the_client_sees() {
    if !has_ssh() {
        return;
    }
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let (here, there) = (echo().await, free_address());
    let (socket, end) = (lab.path("here.sock"), running.home.join("there.sock"));
    echo_at(&socket);

    let tcp = format!("{there}:localhost:{here}");
    let unix = format!("{}:{}", end.display(), socket.display());
    let client = holding(&lab, &["-R", &tcp, "-R", &unix]).await;
    for _ in 0..3 {
        let stream = TcpStream::connect(there).await.unwrap();
        assert_eq!(ask(stream).await, "HELLO");
        let stream = UnixStream::connect(&end).await.unwrap();
        assert_eq!(ask(stream).await, "HELLO");
    }
    let taken = lab
        .ssh(&[
            "-o",
            "ExitOnForwardFailure=yes",
            "-R",
            &tcp,
            "dev.outpost",
            "true",
        ])
        .await;
    assert!(!taken.status.success(), "a port is taken once");

    // The client's end is the end of what it listens to.
    let ended = timeout(PATIENCE, client.wait_with_output()).await;
    assert!(ended.unwrap().unwrap().status.success());
    let is_gone = async || TcpStream::connect(there).await.is_err() && !end.exists();
    until("nobody listens for the client", is_gone).await;

    // Port 0 is one that the agent chooses and tells.
    let chosen = format!("0:localhost:{here}");
    let mut command = lab.open("ssh").await;
    command.args(["-v", "-R", &chosen, "dev.outpost", "true"]);
    let told = lab::text(&lab::ended(command).await.stderr);
    assert!(told.contains("Allocated port"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_refuses_each_direction_by_itself() {
    if !has_ssh() {
        return;
    }
    let there = echo().await;
    for (setting, local, remote) in [
        ("CODER_AGENT_BLOCK_LOCAL_PORT_FORWARDING", false, true),
        ("CODER_AGENT_BLOCK_REVERSE_PORT_FORWARDING", true, false),
    ] {
        let (lab, running) = Lab::with_agent(lab::agent("main"), &[(setting, "true")]).await;
        let to = format!("localhost:{there}");
        let loud = "LogLevel=INFO";
        let through = lab.ssh(&["-o", loud, "-W", &to, "dev.outpost"]).await;
        assert_eq!(through.status.success(), local, "{setting}");
        let said = text(&through.stderr);
        assert_eq!(said.contains("prohibited"), !local, "{setting}: {said}");
        let socket = lab.path("there.sock");
        echo_at(&socket);
        let end = lab.path("here.sock");
        let unix = format!("{}:{}", end.display(), socket.display());
        let _client = holding(&lab, &["-L", &unix]).await;
        let stream = UnixStream::connect(&end).await.unwrap();
        let expected = if local { "HELLO" } else { "" };
        assert_eq!(ask(stream).await, expected, "{setting}");

        let port = format!("{}:localhost:{there}", free_address());
        let path = format!(
            "{}:localhost:{there}",
            running.home.join("r.sock").display()
        );
        for back in [port, path] {
            let wanted = [
                "-o",
                "ExitOnForwardFailure=yes",
                "-R",
                &back,
                "dev.outpost",
                "true",
            ];
            let reverse = lab.ssh(&wanted).await;
            assert_eq!(reverse.status.success(), remote, "{setting}: {back}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_s_keys_can_be_used_in_a_session_that_it_gave_them_to() {
    if !has_ssh() {
        return;
    }
    if which::which("ssh-agent").is_err() {
        return skipped("keys of ssh-agent", "it is not here");
    }
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let (socket, key) = (lab.path("agent.sock"), lab.path("key"));
    let mut keys = tokio::process::Command::new("ssh-agent");
    let mut keys = keys
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut made = tokio::process::Command::new("ssh-keygen");
    made.args(["-q", "-t", "ed25519", "-N", "", "-C", "of the desk", "-f"])
        .arg(&key);
    lab::succeed(made).await;
    until("ssh-agent has a socket", async || socket.exists()).await;
    let mut add = tokio::process::Command::new("ssh-add");
    add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket);
    lab::succeed(add).await;

    let mut with = lab.open("ssh").await;
    with.args(["-A", "dev.outpost", "ssh-add -l; echo $SSH_AUTH_SOCK"])
        .env("SSH_AUTH_SOCK", &socket);
    let said = lab::succeed(with).await;
    assert!(said.contains("of the desk"), "{said}");
    let path = said.lines().last().unwrap();
    assert!(!Path::new(path).exists(), "{path} is gone with its session");

    let without = lab.ssh(&["dev.outpost", "echo [$SSH_AUTH_SOCK]"]).await;
    assert_eq!(text(&without.stdout), "[]\n");
    keys.kill().await.unwrap();
}
