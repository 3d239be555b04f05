//! Carries the calls of one daemon to the real server and back, but for those that are to go wrong.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use outpost::transport::{
    drpc::wire::{Kind, Reader, Writer},
    yamux::{Connection, Incoming, Stream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    task::JoinSet,
};

use super::{Fault, Faults};

/// Larger than any packet here.
const PACKET_BYTES: usize = 64 << 20;

/// Time for half an answer to get on its way before the connection ends.
const HALF_WAY: Duration = Duration::from_millis(50);

/// Why a connection ends.
struct Cut;

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Self
    }
}

pub async fn run(
    daemon: Connection,
    mut incoming: Incoming,
    upstream: Connection,
    faults: Arc<Faults>,
) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            () = daemon.closed() => return,
            () = upstream.closed() => return,
            Some(ended) = calls.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(Cut)) | Err(_) => return,
            },
            Some(stream) = incoming.accept() => {
                let Ok(server) = upstream.open() else { return };
                calls.spawn(carry(stream, server, faults.clone()));
            }
        }
    }
}

async fn carry(mut daemon: Stream, mut server: Stream, faults: Arc<Faults>) -> Result<(), Cut> {
    let Some((begun, method)) = first(&mut daemon, |kind| kind == Kind::Invoke).await else {
        return Ok(()); // The daemon changed its mind.
    };
    let method = String::from_utf8(method).unwrap();
    let fault = faults.take(method.rsplit('/').next().unwrap());
    match fault {
        Some(Fault::BeforeRequest) => return Err(Cut),
        Some(Fault::Refuse(why)) => {
            fail(&mut daemon, why).await?;
            // The rest of the question is not worth a broken stream.
            tokio::io::copy(&mut daemon, &mut tokio::io::sink()).await?;
            return Ok(());
        }
        Some(Fault::AfterRequest | Fault::MidAnswer) | None => {}
    }
    server.write_all(&begun).await?;
    let Some(fault) = fault else {
        // Either side may break off, which is no business of others.
        let _ = copy_bidirectional(&mut daemon, &mut server).await;
        return Ok(());
    };
    let (mut asks, mut tells) = tokio::io::split(daemon);
    let (mut answers, mut hears) = tokio::io::split(server);
    let answer = tokio::select! {
        answer = first(&mut answers, |kind| matches!(kind, Kind::Message | Kind::Error)) => answer,
        // The daemon has nothing more to ask, or nobody to ask.
        _ = async { tokio::io::copy(&mut asks, &mut hears).await?; std::future::pending::<io::Result<()>>().await } => None,
    };
    let (answer, message) = answer.ok_or(Cut)?;
    if fault == Fault::MidAnswer {
        // A packet has a head of four bytes at least, so that this is never all of it.
        tells.write_all(&answer[..2 + message.len() / 2]).await?;
        tokio::time::sleep(HALF_WAY).await;
    }
    Err(Cut)
}

/// All bytes up to the end of the first packet of a kind, and that packet.
async fn first(
    stream: &mut (impl AsyncRead + Unpin),
    wanted: impl Fn(Kind) -> bool,
) -> Option<(BytesMut, Vec<u8>)> {
    let mut reader = Reader::new(PACKET_BYTES);
    let mut bytes = BytesMut::new();
    loop {
        let before = bytes.len();
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        reader.push(&bytes[before..]);
        while let Some(packet) = reader.next_packet().ok()? {
            if wanted(packet.kind) {
                return Some((bytes, packet.data.to_vec()));
            }
        }
    }
}

async fn fail(stream: &mut (impl tokio::io::AsyncWrite + Unpin), why: &str) -> io::Result<()> {
    let data = [&[0; 8], why.as_bytes()].concat();
    let mut out = BytesMut::new();
    Writer::default().write(Kind::Error, &data, &mut out);
    stream.write_all(&out).await?;
    stream.shutdown().await
}
