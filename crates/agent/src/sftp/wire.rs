//! Packets of SFTP version 3, without I/O. Names are bytes, as in file systems.
//!
//! # Source
//! draft-ietf-secsh-filexfer-02; OpenSSH `PROTOCOL`, section 4.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use bytes::{Buf as _, BufMut as _, Bytes};

/// Version of the protocol that we speak.
const VERSION: u32 = 3;
/// Number of extended attributes in one request; OpenSSH sends none.
const MAX_EXTENDED: u32 = 64;

/// Status code of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// Number of an open file.
pub(super) type Handle = u64;

/// Flags for opening a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFlags(u32);

impl OpenFlags {
    pub(super) const READ: Self = Self(0x01);
    pub(super) const WRITE: Self = Self(0x02);
    pub(super) const APPEND: Self = Self(0x04);
    pub(super) const CREATE: Self = Self(0x08);
    pub(super) const TRUNCATE: Self = Self(0x10);
    pub(super) const EXCLUDE: Self = Self(0x20);

    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

/// Attributes of a file, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// Ids of user and group.
    pub(super) owner: Option<(u32, u32)>,
    /// Permissions and type of the file.
    pub(super) mode: Option<u32>,
    /// Times of access and modification, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_EXTENDED: u32 = 1 << 31;

/// Request of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Init,
    Open(PathBuf, OpenFlags, Attributes),
    Close(Handle),
    Read(Handle, u64, u32),
    Write(Handle, u64, Bytes),
    LStat(PathBuf),
    FStat(Handle),
    SetStat(PathBuf, Attributes),
    FSetStat(Handle, Attributes),
    OpenDir(PathBuf),
    ReadDir(Handle),
    Remove(PathBuf),
    MkDir(PathBuf, Attributes),
    RmDir(PathBuf),
    RealPath(PathBuf),
    Stat(PathBuf),
    Rename(PathBuf, PathBuf),
    ReadLink(PathBuf),
    /// Symbolic link; the target comes first, as clients send it, whatever the draft says.
    Symlink(PathBuf, PathBuf),
    StatVfs(PathBuf),
    FSync(Handle),
    HardLink(PathBuf, PathBuf),
    Limits,
    /// A request that is not supported.
    Unknown,
}

/// Extensions of the draft that we support, with the versions that OpenSSH knows.
const EXTENSIONS: [(&str, &str); 5] = [
    ("hardlink@openssh.com", "1"),
    ("posix-rename@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("limits@openssh.com", "1"),
];

impl Request {
    /// Parses a packet without its length: its id, and the request unless that is malformed. `None` if it has no id.
    pub(super) fn parse(packet: Bytes) -> Option<(u32, Option<Self>)> {
        let mut fields = Fields(packet);
        let kind = fields.0.try_get_u8().ok()?;
        // The first packet has the version where others have their id.
        let id = fields.u32()?;
        Some((id, fields.request(kind)))
    }
}

struct Fields(Bytes);

impl Fields {
    fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    fn text(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.u32()?).ok()?;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn path(&mut self) -> Option<PathBuf> {
        Some(PathBuf::from(OsStr::from_bytes(&self.text()?)))
    }

    /// Reads a handle. One of another length than ours does not exist.
    fn handle(&mut self) -> Option<Handle> {
        let bytes = self.text()?;
        Some(bytes.as_ref().try_into().map_or(0, Handle::from_be_bytes))
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.u32()?;
        let has = |flag| flags & flag != 0;
        let mut found = Attributes::default();
        if has(HAS_SIZE) {
            found.size = Some(self.u64()?);
        }
        if has(HAS_OWNER) {
            found.owner = Some((self.u32()?, self.u32()?));
        }
        if has(HAS_MODE) {
            found.mode = Some(self.u32()?);
        }
        if has(HAS_TIMES) {
            found.times = Some((self.u32()?, self.u32()?));
        }
        if has(HAS_EXTENDED) {
            for _ in 0..self.u32()?.min(MAX_EXTENDED) {
                let _ = (self.text()?, self.text()?);
            }
        }
        Some(found)
    }

    fn request(&mut self, kind: u8) -> Option<Request> {
        Some(match kind {
            1 => Request::Init,
            3 => Request::Open(self.path()?, OpenFlags(self.u32()?), self.attributes()?),
            4 => Request::Close(self.handle()?),
            5 => Request::Read(self.handle()?, self.u64()?, self.u32()?),
            6 => Request::Write(self.handle()?, self.u64()?, self.text()?),
            7 => Request::LStat(self.path()?),
            8 => Request::FStat(self.handle()?),
            9 => Request::SetStat(self.path()?, self.attributes()?),
            10 => Request::FSetStat(self.handle()?, self.attributes()?),
            11 => Request::OpenDir(self.path()?),
            12 => Request::ReadDir(self.handle()?),
            13 => Request::Remove(self.path()?),
            14 => Request::MkDir(self.path()?, self.attributes()?),
            15 => Request::RmDir(self.path()?),
            16 => Request::RealPath(self.path()?),
            17 => Request::Stat(self.path()?),
            18 => Request::Rename(self.path()?, self.path()?),
            19 => Request::ReadLink(self.path()?),
            20 => Request::Symlink(self.path()?, self.path()?),
            200 => match self.text()?.as_ref() {
                b"hardlink@openssh.com" => Request::HardLink(self.path()?, self.path()?),
                b"posix-rename@openssh.com" => Request::Rename(self.path()?, self.path()?),
                b"fsync@openssh.com" => Request::FSync(self.handle()?),
                b"statvfs@openssh.com" => Request::StatVfs(self.path()?),
                b"limits@openssh.com" => Request::Limits,
                _ => Request::Unknown,
            },
            _ => Request::Unknown,
        })
    }
}

/// A file by its name, in a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// Line as in `ls -l`; empty outside of listings.
    pub(super) line: Vec<u8>,
    pub(super) attributes: Attributes,
}

/// Response to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Version,
    Status(Code, String),
    Handle(Handle),
    Data(Vec<u8>),
    Names(Vec<Entry>),
    Attributes(Attributes),
    /// Numbers in the order of the extension's description.
    Numbers(Vec<u64>),
}

impl Answer {
    /// Encodes the whole packet, including its length.
    pub(super) fn encode(&self, id: u32) -> Vec<u8> {
        let mut out = Packet(vec![0; 4]);
        match self {
            Self::Version => {
                out.0.put_u8(2);
                out.0.put_u32(VERSION);
                for (name, version) in EXTENSIONS {
                    out.text(name.as_bytes());
                    out.text(version.as_bytes());
                }
            }
            Self::Status(code, text) => {
                out.begin(101, id);
                out.0.put_u32(*code as u32);
                out.text(text.as_bytes());
                out.text(b"en-US");
            }
            Self::Handle(handle) => {
                out.begin(102, id);
                out.text(&handle.to_be_bytes());
            }
            Self::Data(data) => {
                out.begin(103, id);
                out.text(data);
            }
            Self::Names(entries) => {
                out.begin(104, id);
                out.length(entries.len());
                for entry in entries {
                    out.text(&entry.name);
                    out.text(&entry.line);
                    out.attributes(&entry.attributes);
                }
            }
            Self::Attributes(attributes) => {
                out.begin(105, id);
                out.attributes(attributes);
            }
            Self::Numbers(numbers) => {
                out.begin(201, id);
                numbers.iter().for_each(|it| out.0.put_u64(*it));
            }
        }
        let mut packet = out.0;
        let length = u32::try_from(packet.len() - 4).expect("an answer is short");
        packet[..4].copy_from_slice(&length.to_be_bytes());
        packet
    }
}

struct Packet(Vec<u8>);

impl Packet {
    fn begin(&mut self, kind: u8, id: u32) {
        self.0.put_u8(kind);
        self.0.put_u32(id);
    }

    fn length(&mut self, length: usize) {
        self.0
            .put_u32(u32::try_from(length).expect("an answer is short"));
    }

    fn text(&mut self, text: &[u8]) {
        self.length(text.len());
        self.0.put_slice(text);
    }

    fn attributes(&mut self, of: &Attributes) {
        let flags = [
            (of.size.is_some(), HAS_SIZE),
            (of.owner.is_some(), HAS_OWNER),
            (of.mode.is_some(), HAS_MODE),
            (of.times.is_some(), HAS_TIMES),
        ];
        let flags = flags.into_iter().filter(|(has, _)| *has);
        self.0.put_u32(flags.fold(0, |all, (_, flag)| all | flag));
        if let Some(size) = of.size {
            self.0.put_u64(size);
        }
        let pairs = [of.owner, of.mode.map(|it| (it, 0)), of.times];
        for (at, (first, second)) in pairs
            .into_iter()
            .enumerate()
            .filter_map(|(at, it)| Some((at, it?)))
        {
            self.0.put_u32(first);
            if at != 1 {
                self.0.put_u32(second);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a packet of this kind with id 7, its strings with their lengths.
    fn packet(kind: u8, fields: &[&[u8]]) -> Bytes {
        let mut out = Packet(Vec::new());
        out.begin(kind, 7);
        fields.iter().for_each(|field| out.0.put_slice(field));
        out.0.into()
    }

    #[test]
    fn a_name_is_read_and_written_byte_by_byte() {
        let name = b"\0\0\0\x02\xff\xfe";
        let parsed = Request::parse(packet(17, &[name])).unwrap();
        let path = PathBuf::from(OsStr::from_bytes(b"\xff\xfe"));
        assert_eq!(parsed, (7, Some(Request::Stat(path))));

        let entry = Entry {
            name: b"\xff".to_vec(),
            ..Entry::default()
        };
        let written = Answer::Names(vec![entry]).encode(7);
        assert_eq!(
            hex::encode(written),
            "00000016680000000700000001\
            00000001ff0000000000000000"
        );
    }

    #[test]
    fn attributes_come_back_as_they_were() {
        let all = Attributes {
            size: Some(1),
            owner: Some((2, 3)),
            mode: Some(0o644),
            times: Some((4, 5)),
        };
        let some = Attributes {
            mode: Some(0o755),
            ..Attributes::default()
        };
        for attributes in [all, some, Attributes::default()] {
            let mut out = Packet(Vec::new());
            out.attributes(&attributes);
            assert_eq!(Fields(out.0.into()).attributes(), Some(attributes));
        }
    }

    #[test]
    fn what_is_cut_off_is_no_request_and_what_nobody_knows_is_unknown() {
        assert_eq!(Request::parse(Bytes::from_static(b"\x11\0\0")), None);
        let cut = packet(17, &[b"\0\0\0\x09ab"]);
        assert_eq!(Request::parse(cut), Some((7, None)));
        assert_eq!(
            Request::parse(packet(99, &[])),
            Some((7, Some(Request::Unknown)))
        );
        // A handle that we never issued is invalid.
        let foreign = Request::parse(packet(4, &[b"\0\0\0\x01x"]));
        assert_eq!(foreign, Some((7, Some(Request::Close(0)))));
    }

    #[test]
    fn the_first_answer_names_version_and_extensions() {
        let packet = Answer::Version.encode(0);
        assert_eq!(packet[4..9], [2, 0, 0, 0, 3]);
        let length = u32::from_be_bytes(packet[..4].try_into().unwrap());
        assert_eq!(length as usize, packet.len() - 4);
    }
}
