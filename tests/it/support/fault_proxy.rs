//! A TCP proxy between a daemon and its server, which fails on demand in the ways in which networks do.
//!
//! It lives on a thread of its own, so that tests with and without a runtime can use it, and its clock is the real
//! one. A fault holds until the next one is set; [`Fault::None`] ends it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::Runtime,
    sync::watch,
};

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It carries everything.
    None,
    /// It carries this many bytes at a time to the daemon, with a pause after each: a daemon or a line that is slow.
    Slow(usize),
    /// Connections end with a FIN and new ones are refused: the server's process is gone.
    Fin,
    /// Connections are reset, and so is each new one: a middlebox forgot them.
    Rst,
    /// Nothing is carried, and nobody is told. Connections made meanwhile are taken and wait. Afterwards everything
    /// goes on, as it does after TCP's own repetitions.
    BlackHole,
    /// Questions reach the server, answers do not reach the daemon.
    NoAnswers,
}

impl Fault {
    fn breaks(self) -> bool {
        matches!(self, Self::Fin | Self::Rst)
    }

    fn carries(self, direction: Direction) -> bool {
        match self {
            Self::None | Self::Slow(_) => true,
            Self::NoAnswers => direction == Direction::Questions,
            Self::Fin | Self::Rst | Self::BlackHole => false,
        }
    }

    /// Bytes to carry at a time.
    fn chunk(self, direction: Direction) -> usize {
        match self {
            Self::Slow(bytes) if direction == Direction::Answers => bytes,
            _ => CHUNK_BYTES,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// From the daemon to the server.
    Questions,
    /// From the server to the daemon.
    Answers,
}

const CHUNK_BYTES: usize = 64 * 1024;

/// The pause after each piece of a slow line.
const PAUSE: Duration = Duration::from_millis(10);

/// The proxy. Dropping it ends it with all its connections.
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    upstream: watch::Sender<SocketAddr>,
    connections: watch::Sender<usize>,
    runtime: Option<Runtime>,
}

impl FaultProxy {
    /// A proxy at a port of its own that carries everything to `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, upstream) = (
            watch::Sender::new(Fault::None),
            watch::Sender::new(upstream),
        );
        let connections = watch::Sender::new(0);
        runtime.spawn(listen(
            listener,
            fault.subscribe(),
            upstream.subscribe(),
            connections.clone(),
        ));
        Self {
            address,
            fault,
            upstream,
            connections,
            runtime: Some(runtime),
        }
    }

    /// Where the daemon is to dial, as a URL.
    pub fn url(&self) -> url::Url {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// Sets what goes wrong from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Sends new connections to another server, such as one that came back on another port.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
    }

    /// How many connections it has carried or refused with a reset, to wait for the next one.
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.connections.subscribe()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(
    listener: std::net::TcpListener,
    mut fault: watch::Receiver<Fault>,
    upstream: watch::Receiver<SocketAddr>,
    connections: watch::Sender<usize>,
) {
    let address = listener.local_addr().unwrap();
    let mut listener = TcpListener::from_std(listener).unwrap();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = until(&mut fault, |fault| fault == Fault::Fin) => {
                drop(listener);
                if until(&mut fault, |fault| fault != Fault::Fin).await.is_none() {
                    return;
                }
                listener = TcpListener::bind(address).await.unwrap();
                continue;
            }
        };
        let Ok((client, _)) = accepted else { continue };
        connections.send_modify(|count| *count += 1);
        let (fault, upstream) = (fault.clone(), *upstream.borrow());
        tokio::spawn(carry(client, upstream, fault));
    }
}

/// Waits for a fault; `None` once the proxy is dropped.
async fn until(
    fault: &mut watch::Receiver<Fault>,
    wanted: impl Fn(Fault) -> bool,
) -> Option<Fault> {
    Some(*fault.wait_for(|fault| wanted(*fault)).await.ok()?)
}

/// Carries one connection until it ends or a fault breaks it.
async fn carry(mut client: TcpStream, upstream: SocketAddr, mut fault: watch::Receiver<Fault>) {
    let mut breaking = fault.clone();
    until(&mut fault, |fault| fault != Fault::BlackHole).await;
    // A server that is not there looks like one whose process is gone.
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        return;
    };
    let how = {
        let ((questions, to_client), (answers, to_server)) = (client.split(), server.split());
        let both = async {
            tokio::join!(
                pump(questions, to_server, Direction::Questions, fault.clone()),
                pump(answers, to_client, Direction::Answers, fault.clone())
            )
        };
        tokio::select! {
            biased;
            how = until(&mut breaking, Fault::breaks) => how.unwrap_or(Fault::Fin),
            _ = both => Fault::None,
        }
    };
    for mut stream in [client, server] {
        match how {
            Fault::Rst => stream.set_zero_linger().unwrap(),
            // The other end may be gone already, which is what is wanted.
            _ => drop(stream.shutdown().await),
        }
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut fault: watch::Receiver<Fault>,
) -> Option<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let chunk = fault.borrow().chunk(direction);
        let length = from.read(&mut buffer[..chunk]).await.ok()?;
        // What was read while the fault began is not carried either, and neither is an end.
        let now = until(&mut fault, |fault| fault.carries(direction)).await?;
        if length == 0 {
            return to.shutdown().await.ok();
        }
        to.write_all(&buffer[..length]).await.ok()?;
        if let (Fault::Slow(_), Direction::Answers) = (now, direction) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);
    /// Long enough for a byte to cross loopback, short enough to wait for one that never does.
    const MOMENT: Duration = Duration::from_millis(300);

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        address
    }

    async fn dial(proxy: &FaultProxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        stream.write_u8(7).await?;
        tokio::time::timeout(PATIENCE, stream.read_u8())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_fin_ends_connections_and_refuses_new_ones_until_it_is_over() {
        let proxy = FaultProxy::start(echo().await);
        let mut stream = dial(&proxy).await;
        assert_eq!(ask(&mut stream).await.unwrap(), 7);

        proxy.set(Fault::Fin);

        let end = stream.read_u8().await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        let refused = async {
            while TcpStream::connect(proxy.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.unwrap();

        proxy.set(Fault::None);
        let again = async {
            loop {
                if let Ok(stream) = TcpStream::connect(proxy.address).await {
                    return stream;
                }
            }
        };
        let mut again = tokio::time::timeout(PATIENCE, again).await.unwrap();
        assert_eq!(ask(&mut again).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one_also_by_new_connections() {
        let proxy = FaultProxy::start(echo().await);
        let mut stream = dial(&proxy).await;
        assert_eq!(ask(&mut stream).await.unwrap(), 7);

        proxy.set(Fault::Rst);

        let end = stream.read_u8().await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        // The reset may come before the connection counts as made.
        let end = match TcpStream::connect(proxy.address).await {
            Ok(mut stream) => stream.read_u8().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        assert_eq!(*proxy.connections().borrow(), 2);
    }

    #[tokio::test]
    async fn a_black_hole_says_nothing_and_loses_nothing() {
        let proxy = FaultProxy::start(echo().await);
        let mut stream = dial(&proxy).await;
        assert_eq!(ask(&mut stream).await.unwrap(), 7);

        proxy.set(Fault::BlackHole);
        stream.write_u8(8).await.unwrap();
        let mut new = dial(&proxy).await;
        new.write_u8(9).await.unwrap();
        assert!(
            tokio::time::timeout(MOMENT, stream.read_u8())
                .await
                .is_err()
        );
        assert!(tokio::time::timeout(MOMENT, new.read_u8()).await.is_err());

        proxy.set(Fault::None);
        assert_eq!(stream.read_u8().await.unwrap(), 8);
        assert_eq!(new.read_u8().await.unwrap(), 9);
    }

    #[tokio::test]
    async fn without_answers_questions_still_arrive() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = FaultProxy::start(listener.local_addr().unwrap());
        let mut daemon = dial(&proxy).await;
        let (mut server, _) = listener.accept().await.unwrap();

        proxy.set(Fault::NoAnswers);
        daemon.write_u8(7).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 7);
        server.write_u8(8).await.unwrap();

        assert!(
            tokio::time::timeout(MOMENT, daemon.read_u8())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_slow_line_carries_everything_and_a_redirect_counts_for_new_connections() {
        let proxy = FaultProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        proxy.redirect(echo().await);
        proxy.set(Fault::Slow(1000));
        let mut stream = dial(&proxy).await;
        let sent: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();

        let begun = std::time::Instant::now();
        stream.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        stream.read_exact(&mut received).await.unwrap();

        assert_eq!(received, sent);
        assert!(
            begun.elapsed() >= 9 * PAUSE,
            "ten pieces with pauses between"
        );
        assert!(proxy.url().as_str().starts_with("http://127.0.0.1:"));
    }
}
