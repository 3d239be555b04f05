//! Client of a DERP relay that reconnects by itself.
//!
//! # Source
//! coder/tailscale `derp/derphttp/derphttp_client.go`: which way is tried when, and how long.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::BytesMut;
use outpost_base::secret::Secret;
use outpost_net::{back_off::BackOff, http, websocket};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use super::{
    connection::{Reader, invalid, write},
    frame::{self, Frame},
};
use crate::{derp_map::RelayNode, dial::SESSION_TOKEN, key::Private};

/// Longest time until a relay has accepted us.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence after which a relay counts as away: two of its keep-alives are missing.
const READ: Duration = Duration::from_secs(125);
/// Silence after which a relay is pinged, and then again each time that half of it has passed.
const ASK: Duration = Duration::from_secs(20);
/// Number of unanswered pings after which a relay that answers pings counts as away. A connection that a firewall
/// dropped silently is noticed this way long before a keep-alive is missing.
const UNANSWERED: u32 = 2;
const WRITE: Duration = Duration::from_secs(10);
/// Number of frames that wait to be sent: further ones are dropped, as on any network.
pub const QUEUE: usize = 1024;
/// Number of frames that are written together.
const BATCH: usize = 48;
/// Time without packets from our side after which a relay other than the home relay is disconnected.
const IDLE: Duration = Duration::from_secs(60);

/// Settings for dialling relays, which are those for the server: its trust, proxies and headers.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Client for the HTTP requests.
    pub http: http::Client,
    /// Set once an attempt showed that only a WebSocket gets through, as behind some load balancers.
    pub by_websocket: Arc<AtomicBool>,
    /// Token for the server's own relay, which serves those it knows; empty for none. No other host gets it.
    pub token: Arc<Mutex<Secret>>,
}

impl Dial {
    fn token(&self) -> Option<HeaderValue> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let mut value = HeaderValue::from_str(token.expose()).ok()?;
        value.set_sensitive(true);
        (!value.is_empty()).then_some(value)
    }
}

/// News from the client of a region.
#[derive(Debug)]
pub struct Heard {
    /// Region of the client.
    pub region: i32,
    /// Number of the client: one that was replaced may still have news to deliver.
    pub number: u64,
    /// Content of the news.
    pub what: News,
}

/// News of the connection to a relay.
#[derive(Debug)]
pub enum News {
    /// The connection is established.
    Connected,
    /// The connection was lost; it is dialled again if the relay is home.
    Lost,
    /// The connection failed; it is tried again.
    Failed,
    /// The relay answered the first ping on this connection after this time.
    Answered(Duration),
    /// Frames from the relay, as many as were read at once.
    Frames(Vec<Frame>),
}

/// A stream of bytes in both directions.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Client of one region's relays.
pub struct Client {
    /// Id of the region.
    pub region: i32,
    /// Number that is unique among the clients of a node.
    pub number: u64,
    /// Relays of the region, in the order in which they are tried.
    pub relays: Vec<RelayNode>,
    /// Set if this is the home relay: then the connection is kept. Sending a [`Frame::Preferred`] changes it.
    pub(crate) is_home: AtomicBool,
    /// Private key of our node.
    pub private: Private,
    /// Settings for dialling the relays.
    pub dial: Dial,
}

impl Client {
    /// Connects, and reconnects whenever it must, until `outgoing` ends, or nothing was sent for a while to a relay
    /// that is not home.
    pub async fn run(self, mut outgoing: mpsc::Receiver<Frame>, heard: mpsc::Sender<Heard>) {
        let mut back_off = BackOff::default();
        let mut stood_at = Instant::now();
        loop {
            back_off.wait().await;
            let connected = timeout(CONNECT, self.connect()).await;
            let ended = match connected.unwrap_or_else(|late| Err(late.into())) {
                Ok((reader, writer)) => {
                    if !self.tell(News::Connected, &heard).await {
                        return;
                    }
                    let ended = self.speak(reader, writer, &mut outgoing, &heard).await;
                    stood_at = Instant::now();
                    if !self.tell(News::Lost, &heard).await {
                        return;
                    }
                    ended
                }
                Err(error) => {
                    if !self.tell(News::Failed, &heard).await {
                        return;
                    }
                    Err(error)
                }
            };
            match ended {
                Ok(()) => return,
                Err(error) => debug!(region = self.region, %error, "cannot connect to the relay"),
            }
            let is_wanted = self.is_home.load(Ordering::Relaxed) || stood_at.elapsed() < IDLE;
            if !is_wanted || outgoing.is_closed() && outgoing.is_empty() {
                return;
            }
        }
    }

    /// Delivers news, and returns whether they were received.
    async fn tell(&self, what: News, heard: &mpsc::Sender<Heard>) -> bool {
        let (region, number) = (self.region, self.number);
        let news = Heard {
            region,
            number,
            what,
        };
        heard.send(news).await.is_ok()
    }

    async fn connect(
        &self,
    ) -> io::Result<(Reader<impl AsyncRead + Unpin>, impl AsyncWrite + Unpin)> {
        let mut last = invalid("the region has no relay");
        let mut relays = self.relays.iter();
        let io = loop {
            let Some(relay) = relays.next() else {
                return Err(last);
            };
            match self.dial_one(relay).await {
                Ok(io) => break io,
                Err(error) => last = error,
            }
        };
        let (reader, mut writer) = tokio::io::split(io);
        let mut reader = Reader::new(reader);
        let Some(Frame::ServerKey(relay)) = reader.next().await? else {
            return Err(invalid("relay sent no key"));
        };
        let info = frame::client_info(&self.private, relay);
        write(&mut writer, &info).await?;
        // The relay has registered us once it sends this: packets for us before that are lost.
        let Some(Frame::ServerInfo(_)) = reader.next().await? else {
            return Err(invalid("relay did not accept this client"));
        };
        if self.is_home.load(Ordering::Relaxed) {
            write(&mut writer, &Frame::Preferred(true)).await?;
        }
        Ok((reader, writer))
    }

    async fn dial_one(&self, relay: &RelayNode) -> io::Result<Box<dyn Io>> {
        let url = relay.url().ok_or_else(|| invalid("relay has no address"))?;
        let mut headers = self.dial.http.headers().await.map_err(io::Error::other)?;
        // Only the server's own relay may see the token.
        if self.dial.http.url().origin() == url.origin()
            && let Some(token) = self.dial.token()
        {
            headers.insert(SESSION_TOKEN, token);
        }
        if self.dial.by_websocket.load(Ordering::Relaxed) {
            let socket = websocket::connect(&self.dial.http, &url, headers, Some("derp")).await;
            return Ok(Box::new(socket.map_err(io::Error::other)?));
        }
        upgrade_headers(&mut headers);
        let response = self.dial.http.get(&url, &headers).await;
        let response = response.map_err(io::Error::other)?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                let upgraded = response.upgrade().await.map_err(io::Error::other)?;
                Ok(Box::new(upgraded))
            }
            status => {
                let is_too_often = status == StatusCode::TOO_MANY_REQUESTS;
                if status.is_client_error() && !is_too_often {
                    // Some load balancers refuse all upgrades except WebSockets, so use one from now on.
                    self.dial.by_websocket.store(true, Ordering::Relaxed);
                }
                Err(invalid(format!("{url} answered {status}")))
            }
        }
    }

    async fn speak<R, W>(
        &self,
        mut reader: Reader<R>,
        mut writer: W,
        outgoing: &mut mpsc::Receiver<Frame>,
        heard: &mpsc::Sender<Heard>,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // The reader must not wait for the writer, or both sides may deadlock.
        let (own, mut control) = mpsc::channel(8);
        let reading = async {
            let mut watch = Watch::default();
            // A relay that answers this ping also answers during silence. The time to the answer is the latency.
            let asked = question();
            let mut first = Some((asked, Instant::now()));
            drop(own.try_send(Frame::Ping(asked)));
            loop {
                let read = match timeout(watch.patience(), reader.next()).await {
                    Ok(read) => read?,
                    Err(late) if watch.is_over() => return Err(late.into()),
                    Err(_) => {
                        drop(own.try_send(Frame::Ping(question())));
                        continue;
                    }
                };
                watch.heard();
                let (mut next, mut frames, mut took) = (read, Vec::new(), None);
                if next.is_none() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                while let Some(frame) = next {
                    match frame {
                        // A relay that sends pings faster than it reads gets fewer pongs.
                        Frame::Ping(data) => drop(own.try_send(Frame::Pong(data))),
                        Frame::Pong(answer) => {
                            watch.is_answered = true;
                            let first = first.take_if(|(asked, _)| *asked == answer);
                            took = first.map(|(_, at)| at.elapsed()).or(took);
                        }
                        Frame::Restarting(within, _) => {
                            debug!(within, "the relay announced a restart");
                        }
                        frame => frames.push(frame),
                    }
                    next = reader.ready()?;
                }
                if let Some(took) = took
                    && !self.tell(News::Answered(took), heard).await
                {
                    return Ok(());
                }
                if !self.tell(News::Frames(frames), heard).await {
                    return Ok(());
                }
            }
        };
        let writing = async {
            let (mut bytes, mut frames) = (BytesMut::new(), Vec::new());
            let mut idle_at = Instant::now() + IDLE;
            loop {
                let idle = async {
                    match self.is_home.load(Ordering::Relaxed) {
                        true => std::future::pending().await,
                        false => sleep_until(idle_at).await,
                    }
                };
                tokio::select! {
                    biased;
                    // Pings and pongs first: the peer measures us by them.
                    Some(frame) = control.recv() => frame.encode(&mut bytes),
                    count = outgoing.recv_many(&mut frames, BATCH) => {
                        if count == 0 {
                            return Ok(());
                        }
                        idle_at = Instant::now() + IDLE;
                    }
                    () = idle => return Ok(()),
                }
                for frame in frames.drain(..) {
                    if let Frame::Preferred(is_home) = frame {
                        self.is_home.store(is_home, Ordering::Relaxed);
                    }
                    frame.encode(&mut bytes);
                }
                timeout(WRITE, async {
                    writer.write_all(&bytes).await?;
                    writer.flush().await
                })
                .await??;
                bytes.clear();
            }
        };
        tokio::select! {
            ended = reading => ended,
            ended = writing => ended,
        }
    }
}

/// Silence of a relay, and whether it answers pings.
#[derive(Default)]
struct Watch {
    asked: u32,
    waited: Duration,
    is_answered: bool,
}

impl Watch {
    /// Returns how long to wait for the next frame.
    fn patience(&self) -> Duration {
        if self.asked == 0 { ASK } else { ASK / 2 }
    }

    /// Records that the wait passed without a frame, and returns whether the relay counts as away.
    fn is_over(&mut self) -> bool {
        self.waited += self.patience();
        let is_over = self.waited >= READ || self.is_answered && self.asked >= UNANSWERED;
        self.asked += 1;
        is_over
    }

    fn heard(&mut self) {
        (self.asked, self.waited) = (0, Duration::ZERO);
    }
}

fn question() -> [u8; 8] {
    rand::random()
}

fn upgrade_headers(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("DERP"));
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex, split};

    use super::*;

    fn client(is_home: bool) -> Client {
        let url = "http://127.0.0.1:1".parse().unwrap();
        Client {
            region: 1,
            number: 1,
            relays: Vec::new(),
            is_home: is_home.into(),
            private: Private::generate(),
            dial: Dial {
                http: http::Client::new(http::Config::new(url)).unwrap(),
                by_websocket: Arc::default(),
                token: Arc::default(),
            },
        }
    }

    /// Sends frames until the client hangs up, or for a minute longer than its patience; the other end receives
    /// nothing.
    async fn speaks_on(client: &Client, mut outgoing: mpsc::Receiver<Frame>) -> bool {
        let (here, _there): (_, DuplexStream) = duplex(4096);
        let (reader, writer) = split(here);
        let (heard, _news) = mpsc::channel(8);
        let speaking = client.speak(Reader::new(reader), writer, &mut outgoing, &heard);
        timeout(IDLE + IDLE / 2, speaking).await.is_err()
    }

    /// Plays a relay that answers `answers` pings, and is silent then; returns how long the client put up with that.
    async fn bears(answers: usize) -> Duration {
        let (here, there): (_, DuplexStream) = duplex(4096);
        let (reader, writer) = split(here);
        let (heard, mut news) = mpsc::channel(8);
        let (_frames, mut outgoing) = mpsc::channel(8);
        let relay = async {
            let (reader, mut writer) = split(there);
            let mut reader = Reader::new(reader);
            let (mut left, mut silent_since) = (answers, Instant::now());
            while let Some(frame) = reader.next().await.unwrap() {
                if let Frame::Ping(data) = frame
                    && left > 0
                {
                    (left, silent_since) = (left - 1, Instant::now());
                    write(&mut writer, &Frame::Pong(data)).await.unwrap();
                }
            }
            silent_since.elapsed()
        };
        let client = client(true);
        let speaking = async {
            let ended = client.speak(Reader::new(reader), writer, &mut outgoing, &heard);
            assert_eq!(ended.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(heard);
        };
        let hearing = async { while news.recv().await.is_some() {} };
        let (borne, ..) = tokio::join!(relay, speaking, hearing);
        borne
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_falls_silent_is_left_within_a_minute_if_it_answered_before() {
        for answers in [1, 2, 5] {
            let borne = bears(answers).await;
            assert!(borne <= Duration::from_secs(45), "{answers}: {borne:?}");
            assert!(borne >= Duration::from_secs(40), "{answers}: {borne:?}");
        }
        // One that never answers has its keep-alives.
        assert!(bears(0).await >= Duration::from_secs(120));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_is_kept_while_it_is_home_and_no_longer() {
        for (is_home, becomes) in [(false, None), (false, Some(true)), (true, Some(false))] {
            let (frames, outgoing) = mpsc::channel(8);
            if let Some(becomes) = becomes {
                frames.send(Frame::Preferred(becomes)).await.unwrap();
            }

            let is_kept = speaks_on(&client(is_home), outgoing).await;

            assert_eq!(is_kept, becomes == Some(true), "{is_home} {becomes:?}");
        }
    }
}
