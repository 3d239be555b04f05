//! Detection of a client's version of HTTP by its first bytes.
//!
//! HTTP/2 begins with 24 fixed bytes, whether or not TLS has negotiated it. Reading them here puts a time limit on
//! them, which the server library does not.

use std::io;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, Chain, Join, ReadHalf, WriteHalf, join, split,
};

// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Stream whose first bytes were read already, and are returned again.
pub(super) type Rewound<S> = Join<Chain<io::Cursor<Vec<u8>>, ReadHalf<S>>, WriteHalf<S>>;

/// Reads until it is clear which version the client speaks.
pub(super) async fn read<S>(stream: S) -> io::Result<(Protocol, Rewound<S>)>
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, writer) = split(stream);
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let wanted = (PREFACE.len() - first.len()) as u64;
        if (&mut reader).take(wanted).read_buf(&mut first).await? == 0 {
            break;
        }
    }
    let protocol = if first == PREFACE {
        Protocol::Http2
    } else {
        Protocol::Http1
    };
    let rewound = io::Cursor::new(first).chain(reader);
    Ok((protocol, join(rewound, writer)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn read_in(pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64);
        let reading = tokio::spawn(async {
            let (protocol, mut stream) = read(server).await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            (protocol, all)
        });
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(client);
        reading.await.unwrap()
    }

    #[tokio::test]
    async fn the_preface_in_any_pieces_means_http2_and_is_not_lost() {
        let (head, tail) = PREFACE.split_at(5);

        let whole = read_in(&[PREFACE, b"more"]).await;
        assert_eq!(whole, (Protocol::Http2, [PREFACE, &b"more"[..]].concat()));
        assert_eq!(
            read_in(&[head, tail]).await,
            (Protocol::Http2, PREFACE.to_vec())
        );
    }

    #[tokio::test]
    async fn anything_else_means_http1_and_is_not_lost() {
        for request in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/1.1", b"P", b""] {
            assert_eq!(
                read_in(&[request]).await,
                (Protocol::Http1, request.to_vec())
            );
        }
    }
}
