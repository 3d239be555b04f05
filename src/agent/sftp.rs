//! Files over SSH, as the user that we run as.

use std::{
    collections::HashMap,
    io::SeekFrom,
    os::unix::fs::PermissionsExt as _,
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
use russh_sftp::{
    de,
    extensions::{
        self, FsyncExtension, HardlinkExtension, LimitsExtension, Statvfs, StatvfsExtension,
    },
    protocol::{
        Attrs, Data, ExtendedReply, File as Entry, FileAttributes, Handle, Name, OpenFlags, Packet,
        Status, StatusCode, Version,
    },
    ser,
    server::{Config, Handler, StatusReply, run_with_config},
};
use tokio::{
    fs::{self, File, OpenOptions, ReadDir},
    io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::oneshot,
};

/// Files and directories that are open at a time.
const MAX_OPEN: usize = 256;
/// Bytes of one answer.
const MAX_READ: usize = 256 << 10;
/// Entries of a directory in one answer.
const MAX_ENTRIES: usize = 128;
/// Bytes of one request: clients write up to 255 KiB at a time.
const MAX_PACKET: u32 = 320 << 10;

/// What we do beyond the draft, with the versions that OpenSSH knows.
const EXTENSIONS: [(&str, &str); 5] = [
    (extensions::HARDLINK, "1"),
    (POSIX_RENAME, "1"),
    (extensions::FSYNC, "1"),
    (extensions::STATVFS, "2"),
    (extensions::LIMITS, "1"),
];
const POSIX_RENAME: &str = "posix-rename@openssh.com";
/// What clients are told that they may send and ask for at a time: OpenSSH's own bounds.
const LIMITS: LimitsExtension = LimitsExtension {
    max_packet_len: 256 << 10,
    max_read_len: 255 << 10,
    max_write_len: 255 << 10,
    max_open_handles: MAX_OPEN as u64,
};

/// Serves files until the client has no more to ask.
pub(super) async fn serve<S>(stream: S, directory: PathBuf)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ended, wait) = oneshot::channel();
    let files = Files {
        directory,
        open: HashMap::new(),
        next: 0,
        _ended: ended,
    };
    let config = Config {
        max_client_packet_len: MAX_PACKET,
    };
    run_with_config(stream, files, config).await;
    // The sender goes with the files.
    let _ = wait.await;
}

enum Opened {
    File(File),
    Directory(ReadDir),
}

struct Files {
    directory: PathBuf,
    open: HashMap<String, Opened>,
    next: u64,
    _ended: oneshot::Sender<()>,
}

/// What a client is told of a failure.
struct Failed(StatusReply);

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => StatusCode::NoSuchFile,
            std::io::ErrorKind::PermissionDenied => StatusCode::PermissionDenied,
            std::io::ErrorKind::UnexpectedEof => StatusCode::Eof,
            _ => StatusCode::Failure,
        };
        Self(StatusReply::new(code).with_message(error.to_string()))
    }
}

impl From<StatusCode> for Failed {
    fn from(code: StatusCode) -> Self {
        Self(code.into())
    }
}

impl From<Failed> for StatusReply {
    fn from(failed: Failed) -> Self {
        failed.0
    }
}

fn done(id: u32) -> Result<Status, Failed> {
    Ok(Status {
        id,
        status_code: StatusCode::Ok,
        error_message: "Ok".to_owned(),
        language_tag: "en-US".to_owned(),
    })
}

impl Files {
    fn path(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    fn keep(&mut self, id: u32, opened: Opened) -> Result<Handle, Failed> {
        if self.open.len() >= MAX_OPEN {
            return Err(StatusCode::Failure.into());
        }
        self.next += 1;
        let handle = self.next.to_string();
        self.open.insert(handle.clone(), opened);
        Ok(Handle { id, handle })
    }

    fn file(&mut self, handle: &str) -> Result<&mut File, Failed> {
        match self.open.get_mut(handle) {
            Some(Opened::File(file)) => Ok(file),
            Some(Opened::Directory(_)) | None => Err(StatusCode::BadMessage.into()),
        }
    }
}

fn attrs(id: u32, metadata: &std::fs::Metadata) -> Attrs {
    Attrs {
        id,
        attrs: FileAttributes::from(metadata),
    }
}

fn named(id: u32, path: &Path) -> Name {
    let name = path.display().to_string();
    Name {
        id,
        files: vec![Entry::dummy(name)],
    }
}

async fn change(path: &Path, attrs: &FileAttributes) -> Result<(), Failed> {
    if let Some(size) = attrs.size {
        OpenOptions::new()
            .write(true)
            .open(path)
            .await?
            .set_len(size)
            .await?;
    }
    if let Some(mode) = attrs.permissions {
        let mode = std::fs::Permissions::from_mode(mode & 0o7777);
        fs::set_permissions(path, mode).await?;
    }
    if attrs.uid.is_some() || attrs.gid.is_some() {
        std::os::unix::fs::chown(path, attrs.uid, attrs.gid)?;
    }
    if let (Some(accessed), Some(modified)) = (attrs.atime, attrs.mtime) {
        let at = |seconds: u32| TimeSpec::new(seconds.into(), 0);
        let (accessed, modified) = (at(accessed), at(modified));
        utimensat(
            AT_FDCWD,
            path,
            &accessed,
            &modified,
            UtimensatFlags::FollowSymlink,
        )
        .map_err(std::io::Error::from)?;
    }
    Ok(())
}

impl Handler for Files {
    type Error = Failed;

    fn unimplemented(&self) -> Failed {
        StatusCode::OpUnsupported.into()
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Result<Version, Failed> {
        let offered = EXTENSIONS.map(|(name, version)| (name.to_owned(), version.to_owned()));
        Ok(Version {
            extensions: offered.into(),
            ..Version::new()
        })
    }

    async fn open(
        &mut self,
        id: u32,
        filename: String,
        flags: OpenFlags,
        attrs: FileAttributes,
    ) -> Result<Handle, Failed> {
        let mut options = OpenOptions::new();
        options
            .read(flags.contains(OpenFlags::READ))
            .write(flags.contains(OpenFlags::WRITE) && !flags.contains(OpenFlags::APPEND))
            .append(flags.contains(OpenFlags::APPEND))
            .create(flags.contains(OpenFlags::CREATE))
            .truncate(flags.contains(OpenFlags::TRUNCATE) && !flags.contains(OpenFlags::APPEND))
            .create_new(flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUDE));
        if let Some(mode) = attrs.permissions {
            options.mode(mode & 0o7777);
        }
        let file = options.open(self.path(&filename)).await?;
        self.keep(id, Opened::File(file))
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, Failed> {
        match self.open.remove(&handle) {
            Some(Opened::File(mut file)) => file.flush().await?,
            Some(Opened::Directory(_)) => {}
            None => return Err(StatusCode::BadMessage.into()),
        }
        done(id)
    }

    async fn read(
        &mut self,
        id: u32,
        handle: String,
        offset: u64,
        len: u32,
    ) -> Result<Data, Failed> {
        let file = self.file(&handle)?;
        file.seek(SeekFrom::Start(offset)).await?;
        let length = usize::try_from(len).unwrap_or(MAX_READ).min(MAX_READ);
        let mut data = Vec::with_capacity(length);
        file.take(length as u64).read_to_end(&mut data).await?;
        match data.is_empty() && length > 0 {
            true => Err(StatusCode::Eof.into()),
            false => Ok(Data { id, data }),
        }
    }

    async fn write(
        &mut self,
        id: u32,
        handle: String,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<Status, Failed> {
        let file = self.file(&handle)?;
        file.seek(SeekFrom::Start(offset)).await?;
        file.write_all(&data).await?;
        // What fails is told with the request that it belongs to.
        file.flush().await?;
        done(id)
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, Failed> {
        Ok(attrs(id, &fs::symlink_metadata(self.path(&path)).await?))
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, Failed> {
        Ok(attrs(id, &fs::metadata(self.path(&path)).await?))
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, Failed> {
        Ok(attrs(id, &self.file(&handle)?.metadata().await?))
    }

    async fn setstat(
        &mut self,
        id: u32,
        path: String,
        attrs: FileAttributes,
    ) -> Result<Status, Failed> {
        change(&self.path(&path), &attrs).await?;
        done(id)
    }

    async fn fsetstat(
        &mut self,
        id: u32,
        handle: String,
        attrs: FileAttributes,
    ) -> Result<Status, Failed> {
        use std::os::fd::AsRawFd as _;
        let number = self.file(&handle)?.as_raw_fd();
        change(Path::new(&format!("/proc/self/fd/{number}")), &attrs).await?;
        done(id)
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, Failed> {
        let path = self.path(&path);
        let entries = fs::read_dir(&path).await?;
        self.keep(id, Opened::Directory(entries))
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, Failed> {
        let Some(Opened::Directory(entries)) = self.open.get_mut(&handle) else {
            return Err(StatusCode::BadMessage.into());
        };
        let mut files = Vec::new();
        while files.len() < MAX_ENTRIES
            && let Some(entry) = entries.next_entry().await?
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            // It may be gone by now.
            if let Ok(metadata) = fs::symlink_metadata(entry.path()).await {
                files.push(Entry::new(name, FileAttributes::from(&metadata)));
            }
        }
        match files.is_empty() {
            true => Err(StatusCode::Eof.into()),
            false => Ok(Name { id, files }),
        }
    }

    async fn remove(&mut self, id: u32, filename: String) -> Result<Status, Failed> {
        fs::remove_file(self.path(&filename)).await?;
        done(id)
    }

    async fn mkdir(
        &mut self,
        id: u32,
        path: String,
        attrs: FileAttributes,
    ) -> Result<Status, Failed> {
        let mut builder = fs::DirBuilder::new();
        if let Some(mode) = attrs.permissions {
            builder.mode(mode & 0o7777);
        }
        builder.create(self.path(&path)).await?;
        done(id)
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status, Failed> {
        fs::remove_dir(self.path(&path)).await?;
        done(id)
    }

    /// What is not there has a path, too, if the directory that it would be in is.
    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, Failed> {
        let path = self.path(&path);
        let real = match fs::canonicalize(&path).await {
            Ok(real) => real,
            Err(error) => match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => fs::canonicalize(parent).await?.join(name),
                _ => return Err(error.into()),
            },
        };
        Ok(named(id, &real))
    }

    /// Over a file that is there, too, as OpenSSH's server does where a client asks for it by an extension.
    async fn rename(&mut self, id: u32, from: String, to: String) -> Result<Status, Failed> {
        fs::rename(self.path(&from), self.path(&to)).await?;
        done(id)
    }

    async fn readlink(&mut self, id: u32, path: String) -> Result<Name, Failed> {
        Ok(named(id, &fs::read_link(self.path(&path)).await?))
    }

    /// Clients send the target first, whatever the draft says.
    async fn symlink(&mut self, id: u32, first: String, second: String) -> Result<Status, Failed> {
        fs::symlink(first, self.path(&second)).await?;
        done(id)
    }

    async fn extended(
        &mut self,
        id: u32,
        request: String,
        data: Vec<u8>,
    ) -> Result<Packet, Failed> {
        match request.as_str() {
            extensions::LIMITS => reply(id, &LIMITS),
            extensions::STATVFS => {
                let asked: StatvfsExtension = parsed(data)?;
                reply(id, &room(&self.path(&asked.path))?)
            }
            extensions::FSYNC => {
                let asked: FsyncExtension = parsed(data)?;
                self.file(&asked.handle)?.sync_all().await?;
                done(id).map(Packet::Status)
            }
            extensions::HARDLINK => {
                let asked: HardlinkExtension = parsed(data)?;
                fs::hard_link(self.path(&asked.oldpath), self.path(&asked.newpath)).await?;
                done(id).map(Packet::Status)
            }
            POSIX_RENAME => {
                let asked: HardlinkExtension = parsed(data)?;
                let renamed = self.rename(id, asked.oldpath, asked.newpath).await?;
                Ok(Packet::Status(renamed))
            }
            _ => Err(StatusCode::OpUnsupported.into()),
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned>(data: Vec<u8>) -> Result<T, Failed> {
    de::from_bytes(&mut Bytes::from(data)).map_err(|_| StatusCode::BadMessage.into())
}

fn reply(id: u32, answer: &impl serde::Serialize) -> Result<Packet, Failed> {
    let data = ser::to_bytes(answer).map_err(|_| Failed::from(StatusCode::Failure))?;
    let data = data.to_vec();
    Ok(Packet::ExtendedReply(ExtendedReply { id, data }))
}

/// How much room a file system has.
fn room(path: &Path) -> Result<Statvfs, Failed> {
    let found = statvfs(path).map_err(std::io::Error::from)?;
    Ok(Statvfs {
        block_size: found.block_size(),
        fragment_size: found.fragment_size(),
        blocks: found.blocks(),
        blocks_free: found.blocks_free(),
        blocks_avail: found.blocks_available(),
        inodes: found.files(),
        inodes_free: found.files_free(),
        inodes_avail: found.files_available(),
        fs_id: found.filesystem_id(),
        flags: found.flags().bits(),
        name_max: found.name_max(),
    })
}
