//! Tests that watchers of a connection learn of its end in time, although nobody calls.

use outpost_base::secret::Secret;
use outpost_net::http;
use tokio::{
    io::{AsyncReadExt, DuplexStream, duplex},
    time::Instant,
};

use super::*;
use crate::auth::Credential;

struct Psk;

impl CredentialSource for Psk {
    fn credential(&self) -> Result<Credential, String> {
        Ok(Credential::Psk(Secret::new("psk")))
    }
}

/// Creates a source with a connection, and returns the other end of that.
fn connected() -> (CoderSource, DuplexStream, watch::Receiver<bool>) {
    let url = "http://coder.example.com".parse().unwrap();
    let client = Client::new(http::Config::new(url)).unwrap();
    let target = Target {
        organization: None,
        name: "host".to_owned(),
        tags: [].into(),
    };
    let source = CoderSource::new(client, target, Arc::new(Psk));
    let (ours, server) = duplex(64 * 1024);
    source.hold(ours);
    let connected = source.connected().unwrap();
    assert!(*connected.borrow());
    (source, server, connected)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_closes_is_noticed_at_once_though_nobody_calls() {
    let (_source, server, mut connected) = connected();
    let begun = Instant::now();

    drop(server);

    connected.wait_for(|is| !is).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_after_forty_seconds_though_nobody_calls() {
    let (_source, _server, mut connected) = connected();
    let begun = Instant::now();

    connected.wait_for(|is| !is).await.unwrap();

    assert_eq!(begun.elapsed().as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_while_a_job_is_waited_for() {
    let (source, _server, mut connected) = connected();
    let begun = Instant::now();

    let error = source.unary_within::<_, provisionerd::Empty>(
        TERMINAL_TIMEOUT,
        "CompleteJob",
        &provisionerd::Empty {},
    );

    assert!(matches!(error.await, Err(SourceError::Lost(_))));
    assert!(!*connected.borrow_and_update());
    assert_eq!(begun.elapsed().as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_old_connection_does_not_count_for_the_new_one() {
    let (source, old, mut connected) = connected();
    let (ours, mut new) = duplex(64 * 1024);
    source.hold(ours);

    drop(old);

    // By the ping of the new connection, the end of the old one has been handled.
    new.read_u8().await.unwrap();
    assert!(*connected.borrow_and_update());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_dropped_closes_its_connection() {
    let (source, mut server, _) = connected();

    drop(source);

    let mut rest = Vec::new();
    let begun = Instant::now();
    server.read_to_end(&mut rest).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_about_a_withdrawn_question_is_left() {
    let (source, far, connected) = connected();
    let config = yamux::Config::default();
    let (_server, mut questions) = yamux::Connection::start(far, yamux::Role::Server, config);
    let stop = Stop::new();

    let withdraw = async {
        let question = questions.accept().await.unwrap();
        stop.drain();
        question
    };
    let (answer, _question) = tokio::join!(source.acquire(&stop), withdraw);

    assert!(matches!(answer, Err(SourceError::Lost(_))), "{answer:?}");
    assert!(!*connected.borrow());
}
