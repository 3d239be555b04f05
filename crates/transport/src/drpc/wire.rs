//! Frames and packets. A packet is the unit that a call sends; it travels in one or more frames. Pure.
//!
//! # Source
//! storj/drpc `drpcwire/{packet,reader,split}.go`; Coder limits a packet to 4 MiB.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Payload of one frame that we send, in bytes.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// First stream of a connection, and the only one of a connection for a single call.
const FIRST_STREAM: u64 = 1;

/// Kind of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Name of the method to call.
    Invoke = 1,
    /// Message of the call.
    Message = 2,
    /// Failure of the call: an 8-byte code and a text.
    Error = 3,
    /// Cancellation by the caller.
    Cancel = 4,
    /// End of the whole call.
    Close = 5,
    /// End of the sender's messages.
    CloseSend = 6,
    /// Names and values that precede the method.
    Metadata = 7,
}

/// Complete packet of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Kind of the packet.
    pub kind: Kind,
    /// Payload of the packet.
    pub data: Bytes,
}

/// Reasons why bytes are not valid packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A number of more than 64 bits.
    #[error("number is too long")]
    LongVarint,
    /// An unknown kind that is not marked as one to skip.
    #[error("packet of unknown kind {0}")]
    UnknownKind(u8),
    /// Frames in an impossible order.
    #[error("frame out of order")]
    OutOfOrder,
    /// A message with so many fields that it would take many times its size in memory.
    #[error("message has more than {limit} fields")]
    TooManyFields {
        /// Largest number of fields.
        limit: usize,
    },
    /// A packet that exceeds the limit.
    #[error("packet is over the limit of {limit} bytes")]
    TooLarge {
        /// Limit in bytes for a packet.
        limit: usize,
    },
}

/// Encoder of packets of one direction, of one call at a time.
#[derive(Debug)]
pub struct Writer {
    stream: u64,
    last_message: u64,
}

/// Creates a writer for the first call of a connection.
impl Default for Writer {
    fn default() -> Self {
        Self {
            stream: FIRST_STREAM,
            last_message: 0,
        }
    }
}

impl Writer {
    /// Turns to the call on another stream; each numbers its packets from 1.
    pub fn turn_to(&mut self, stream: u64) {
        *self = Self {
            stream,
            last_message: 0,
        };
    }

    /// Appends a packet to `out`.
    pub fn write(&mut self, kind: Kind, data: &[u8], out: &mut BytesMut) {
        self.last_message += 1;
        let mut rest = data;
        loop {
            let (frame, more) = rest.split_at(rest.len().min(MAX_FRAME_BYTES));
            let control = if kind == Kind::Cancel { 0x80 } else { 0 };
            out.put_u8(control | (kind as u8) << 1 | u8::from(more.is_empty()));
            put_varint(self.stream, out);
            put_varint(self.last_message, out);
            put_varint(frame.len() as u64, out);
            out.extend_from_slice(frame);
            if more.is_empty() {
                return;
            }
            rest = more;
        }
    }
}

/// Decoder that assembles packets from the bytes of one direction.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    buffer: BytesMut,
    current: Option<(u64, u64)>,
    is_done: bool,
    payload: BytesMut,
}

impl Reader {
    /// Creates a reader that refuses packets of more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: BytesMut::new(),
            current: None,
            is_done: false,
            payload: BytesMut::new(),
        }
    }

    /// Adds bytes, in pieces of any size. Call [`Self::next_packet`] until it has no more before the next piece.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next packet; `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`WireError`], after which the reader is of no use.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, WireError> {
        loop {
            let Some(frame) = self.next_frame()? else {
                return Ok(None);
            };
            let id = (frame.stream, frame.message);
            match self.current {
                Some(current) if id < current || (id == current && self.is_done) => {
                    return Err(WireError::OutOfOrder);
                }
                Some(current) if id == current => {}
                Some(_) | None => self.payload.clear(), // A higher id drops what was not finished.
            }
            (self.current, self.is_done) = (Some(id), frame.is_done);
            if self.payload.len() + frame.data.len() > self.limit {
                return Err(WireError::TooLarge { limit: self.limit });
            }
            self.payload.extend_from_slice(&frame.data);
            if !frame.is_done {
                continue;
            }
            let data = self.payload.split().freeze();
            match frame.kind {
                Some(kind) => return Ok(Some(Packet { kind, data })),
                None if frame.is_control => {}
                None => return Err(WireError::UnknownKind(frame.kind_number)),
            }
        }
    }

    /// Id of the stream that the last packet belongs to; a peer numbers its calls upwards.
    pub fn stream(&self) -> u64 {
        self.current.map_or(FIRST_STREAM, |(stream, _)| stream)
    }

    /// Number of bytes of an unfinished packet that have arrived.
    pub fn unfinished_bytes(&self) -> usize {
        self.buffer.len() + self.payload.len()
    }

    /// Returns whether bytes of an unfinished packet have arrived.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty() || (!self.is_done && self.current.is_some())
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let mut at: &[u8] = &self.buffer;
        let Some((&control, rest)) = at.split_first() else {
            return Ok(None);
        };
        at = rest;
        let mut numbers = [0; 3];
        for number in &mut numbers {
            match take_varint(&mut at)? {
                Some(value) => *number = value,
                None => return Ok(None),
            }
        }
        let [stream, message, length] = numbers;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.limit);
        let length = length.ok_or(WireError::TooLarge { limit: self.limit })?;
        if at.len() < length {
            return Ok(None);
        }
        let header_length = self.buffer.len() - at.len();
        self.buffer.advance(header_length);
        let kind_number = control >> 1 & 0x3f;
        Ok(Some(Frame {
            kind: kind_of(kind_number),
            kind_number,
            is_done: control & 1 != 0,
            is_control: control & 0x80 != 0,
            stream,
            message,
            data: self.buffer.split_to(length).freeze(),
        }))
    }
}

struct Frame {
    kind: Option<Kind>,
    kind_number: u8,
    is_done: bool,
    is_control: bool,
    stream: u64,
    message: u64,
    data: Bytes,
}

fn kind_of(number: u8) -> Option<Kind> {
    Some(match number {
        1 => Kind::Invoke,
        2 => Kind::Message,
        3 => Kind::Error,
        4 => Kind::Cancel,
        5 => Kind::Close,
        6 => Kind::CloseSend,
        7 => Kind::Metadata,
        _ => return None,
    })
}

fn put_varint(mut value: u64, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Counts the fields at the top level of a protobuf message, as far as it can be read.
pub(super) fn fields(mut message: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some(key)) = take_varint(&mut message) {
        let length = match key & 7 {
            0 => take_varint(&mut message).map(|value| value.map(|_| 0)),
            1 => Ok(Some(8)),
            2 => take_varint(&mut message),
            5 => Ok(Some(4)),
            // The ends of a group, whose fields count as if they were at the top.
            3 | 4 => Ok(Some(0)),
            _ => return count,
        };
        count += 1;
        let Ok(Some(length)) = length else {
            return count;
        };
        let rest = usize::try_from(length)
            .ok()
            .and_then(|it| message.get(it..));
        let Some(rest) = rest else {
            return count;
        };
        message = rest;
    }
    count
}

/// Removes a number from the front of `bytes`; `None` if it is incomplete.
fn take_varint(bytes: &mut &[u8]) -> Result<Option<u64>, WireError> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 10 || (index == 9 && bits > 1) {
            return Err(WireError::LongVarint);
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(Some(value));
        }
    }
    Ok(None)
}
