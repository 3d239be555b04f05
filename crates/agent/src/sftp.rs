//! SFTP server: files over SSH, as the user that we run as. Names pass as the bytes that they are.

mod listing;
mod wire;

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{self, SeekFrom},
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use bytes::Bytes;
use nix::{
    fcntl::AT_FDCWD,
    sys::{
        stat::{UtimensatFlags, utimensat},
        statvfs::statvfs,
        time::TimeSpec,
    },
};
use tokio::{
    fs::{self, File, OpenOptions, ReadDir},
    io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWrite, AsyncWriteExt as _},
};
use tracing::debug;

use self::wire::{Answer, Attributes, Code, Entry, Handle, OpenFlags, Request};

/// Number of files and directories that are open at the same time.
const MAX_OPEN: usize = 256;
/// Longest read in bytes.
const MAX_READ: usize = 256 << 10;
/// Number of a directory's entries in one response.
const MAX_ENTRIES: usize = 128;
/// Longest request in bytes: clients write up to 255 KiB at a time.
const MAX_PACKET: usize = 320 << 10;
/// Limits that clients are told: bytes of a packet, a read and a write as in OpenSSH, and open files.
const LIMITS: [u64; 4] = [256 << 10, 255 << 10, 255 << 10, MAX_OPEN as u64];

/// Serves files until the client has no more requests. Relative paths begin at `directory`.
pub(super) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, directory: PathBuf) {
    let mut files = Files {
        directory,
        open: HashMap::new(),
        next: 0,
    };
    if let Err(error) = answer_all(&mut stream, &mut files).await {
        debug!(%error, "SFTP session failed");
    }
}

async fn answer_all(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    files: &mut Files,
) -> io::Result<()> {
    loop {
        let length = match stream.read_u32().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => usize::try_from(length?).unwrap_or(usize::MAX),
        };
        if length > MAX_PACKET {
            let why = format!("a request of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut packet = vec![0; length];
        stream.read_exact(&mut packet).await?;
        let Some((id, request)) = Request::parse(Bytes::from(packet)) else {
            let why = "a request without an id";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        };
        let answer = match request {
            Some(request) => files.answer(request).await.unwrap_or_else(failure),
            None => Answer::Status(Code::BadMessage, "the request is cut off".to_owned()),
        };
        stream.write_all(&answer.encode(id)).await?;
        stream.flush().await?;
    }
}

fn failure(error: io::Error) -> Answer {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NoSuchFile,
        io::ErrorKind::PermissionDenied => Code::PermissionDenied,
        io::ErrorKind::UnexpectedEof => Code::Eof,
        io::ErrorKind::Unsupported => Code::Unsupported,
        _ => Code::Failure,
    };
    Answer::Status(code, error.to_string())
}

fn done() -> Answer {
    Answer::Status(Code::Ok, "Ok".to_owned())
}

enum Opened {
    File(File),
    Directory(ReadDir),
}

struct Files {
    directory: PathBuf,
    open: HashMap<Handle, Opened>,
    next: Handle,
}

impl Files {
    async fn answer(&mut self, request: Request) -> io::Result<Answer> {
        match request {
            Request::Init => return Ok(Answer::Version),
            Request::Limits => return Ok(Answer::Numbers(LIMITS.to_vec())),
            Request::Unknown => return Err(io::ErrorKind::Unsupported.into()),
            Request::Open(path, flags, attributes) => {
                let file = options(flags, &attributes).open(self.path(&path)).await?;
                return self.keep(Opened::File(file));
            }
            Request::OpenDir(path) => {
                let entries = fs::read_dir(self.path(&path)).await?;
                return self.keep(Opened::Directory(entries));
            }
            Request::Read(handle, offset, length) => {
                return self.read(handle, offset, length).await;
            }
            Request::ReadDir(handle) => return self.list(handle).await,
            Request::LStat(path) => {
                return Ok(attributes(&fs::symlink_metadata(self.path(&path)).await?));
            }
            Request::Stat(path) => return Ok(attributes(&fs::metadata(self.path(&path)).await?)),
            Request::FStat(handle) => return Ok(attributes(&self.file(handle)?.metadata().await?)),
            Request::RealPath(path) => return Ok(named(real_path(self.path(&path)).await?)),
            Request::ReadLink(path) => return Ok(named(fs::read_link(self.path(&path)).await?)),
            Request::StatVfs(path) => return room(&self.path(&path)),
            Request::Close(handle) => self.close(handle).await?,
            Request::Write(handle, offset, data) => self.write(handle, offset, &data).await?,
            Request::SetStat(path, attributes) => change(&self.path(&path), &attributes).await?,
            Request::FSetStat(handle, attributes) => {
                let number = self.file(handle)?.as_raw_fd();
                change(Path::new(&format!("/proc/self/fd/{number}")), &attributes).await?;
            }
            Request::FSync(handle) => self.file(handle)?.sync_all().await?,
            Request::Remove(path) => fs::remove_file(self.path(&path)).await?,
            Request::RmDir(path) => fs::remove_dir(self.path(&path)).await?,
            Request::MkDir(path, attributes) => {
                let mut builder = fs::DirBuilder::new();
                if let Some(mode) = attributes.mode {
                    builder.mode(mode & 0o7777);
                }
                builder.create(self.path(&path)).await?;
            }
            // Replaces an existing file, as OpenSSH's server does if a client requests that by an extension.
            Request::Rename(from, to) => fs::rename(self.path(&from), self.path(&to)).await?,
            Request::HardLink(from, to) => fs::hard_link(self.path(&from), self.path(&to)).await?,
            Request::Symlink(target, link) => fs::symlink(target, self.path(&link)).await?,
        }
        Ok(done())
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    fn keep(&mut self, opened: Opened) -> io::Result<Answer> {
        if self.open.len() >= MAX_OPEN {
            let why = format!("too many open files: the limit is {MAX_OPEN}");
            return Err(io::Error::other(why));
        }
        self.next += 1;
        self.open.insert(self.next, opened);
        Ok(Answer::Handle(self.next))
    }

    fn file(&mut self, handle: Handle) -> io::Result<&mut File> {
        match self.open.get_mut(&handle) {
            Some(Opened::File(file)) => Ok(file),
            Some(Opened::Directory(_)) | None => Err(io::Error::other("no file is open there")),
        }
    }

    async fn close(&mut self, handle: Handle) -> io::Result<()> {
        match self.open.remove(&handle) {
            Some(Opened::File(mut file)) => file.flush().await,
            Some(Opened::Directory(_)) => Ok(()),
            None => Err(io::Error::other("nothing is open there")),
        }
    }

    async fn read(&mut self, handle: Handle, offset: u64, length: u32) -> io::Result<Answer> {
        let file = self.file(handle)?;
        file.seek(SeekFrom::Start(offset)).await?;
        let length = usize::try_from(length).unwrap_or(MAX_READ).min(MAX_READ);
        let mut data = Vec::with_capacity(length);
        file.take(length as u64).read_to_end(&mut data).await?;
        match data.is_empty() && length > 0 {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(Answer::Data(data)),
        }
    }

    async fn write(&mut self, handle: Handle, offset: u64, data: &[u8]) -> io::Result<()> {
        let file = self.file(handle)?;
        file.seek(SeekFrom::Start(offset)).await?;
        file.write_all(data).await?;
        // Flushed here, so that an error belongs to the answer to this request, not to a later one.
        file.flush().await
    }

    async fn list(&mut self, handle: Handle) -> io::Result<Answer> {
        let Some(Opened::Directory(entries)) = self.open.get_mut(&handle) else {
            return Err(io::Error::other("no directory is open there"));
        };
        let mut found = Vec::new();
        while found.len() < MAX_ENTRIES
            && let Some(entry) = entries.next_entry().await?
        {
            // It may be gone by now.
            if let Ok(metadata) = fs::symlink_metadata(entry.path()).await {
                found.push(listing::entry(&entry.file_name(), &metadata));
            }
        }
        match found.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(Answer::Names(found)),
        }
    }
}

fn options(flags: OpenFlags, attributes: &Attributes) -> OpenOptions {
    let is_append = flags.has(OpenFlags::APPEND);
    let is_new = flags.has(OpenFlags::CREATE) && flags.has(OpenFlags::EXCLUDE);
    let mut options = OpenOptions::new();
    options
        .read(flags.has(OpenFlags::READ))
        .write(flags.has(OpenFlags::WRITE) && !is_append)
        .append(is_append)
        .create(flags.has(OpenFlags::CREATE))
        .truncate(flags.has(OpenFlags::TRUNCATE) && !is_append)
        .create_new(is_new);
    if let Some(mode) = attributes.mode {
        options.mode(mode & 0o7777);
    }
    options
}

fn attributes(metadata: &std::fs::Metadata) -> Answer {
    Answer::Attributes(listing::attributes(metadata))
}

fn named(path: PathBuf) -> Answer {
    let entry = Entry {
        name: OsString::from(path).into_vec(),
        ..Entry::default()
    };
    Answer::Names(vec![entry])
}

/// Resolves a path. A missing file has one, too, if the directory that would contain it exists.
async fn real_path(path: PathBuf) -> io::Result<PathBuf> {
    match (
        fs::canonicalize(&path).await,
        path.parent(),
        path.file_name(),
    ) {
        (Ok(real), ..) => Ok(real),
        (Err(_), Some(parent), Some(name)) => Ok(fs::canonicalize(parent).await?.join(name)),
        (Err(error), ..) => Err(error),
    }
}

async fn change(path: &Path, to: &Attributes) -> io::Result<()> {
    if let Some(size) = to.size {
        let file = OpenOptions::new().write(true).open(path).await?;
        file.set_len(size).await?;
    }
    if let Some(mode) = to.mode {
        let mode = std::fs::Permissions::from_mode(mode & 0o7777);
        fs::set_permissions(path, mode).await?;
    }
    if let Some((user, group)) = to.owner {
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
    }
    if let Some((accessed, modified)) = to.times {
        let at = |seconds: u32| TimeSpec::new(seconds.into(), 0);
        let (accessed, modified) = (at(accessed), at(modified));
        let follow = UtimensatFlags::FollowSymlink;
        utimensat(AT_FDCWD, path, &accessed, &modified, follow)?;
    }
    Ok(())
}

/// Returns the space of a file system, in the order of OpenSSH's `statvfs`.
fn room(path: &Path) -> io::Result<Answer> {
    let found = statvfs(path)?;
    Ok(Answer::Numbers(vec![
        found.block_size(),
        found.fragment_size(),
        found.blocks(),
        found.blocks_free(),
        found.blocks_available(),
        found.files(),
        found.files_free(),
        found.files_available(),
        found.filesystem_id(),
        found.flags().bits(),
        found.name_max(),
    ]))
}
