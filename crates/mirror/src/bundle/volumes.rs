//! A bundle in pieces that fit on a medium. Each piece describes itself, and is verified before anything of it is
//! used.
//!
//! A volume is a header of `HEADER_BYTES`, which is a line of JSON, followed by its part of the bundle. `NAME.001` is
//! the first. The same bundle gives the same volumes, so that a damaged one can be made again alone.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, Read, Seek as _, SeekFrom, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use outpost_files as files;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::encryption::MAGIC;
use crate::Digest;

/// Size of the header of a volume, with its padding.
const HEADER_BYTES: usize = 512;
/// Minimum size of a volume, which keeps their number low.
pub const MIN_BYTES: u64 = 1 << 20;
/// Maximum number of volumes of a bundle: three digits of a name.
const MAX_VOLUMES: u32 = 999;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: Format,
    bundle: Digest,
    volume: u32,
    last: bool,
    bytes: u64,
    sha256: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "outpost-volume/1")]
    One,
}

/// Reason why volumes do not form a bundle.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A volume cannot be read.
    #[error("failed to read the volume `{}`", .path.display())]
    Read {
        /// Path of the volume.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// Some volumes are missing.
    #[error("the bundle `{}` has no {}", .name.display(), listed(.missing, *.is_open))]
    Missing {
        /// Name of the volumes without their numbers.
        name: PathBuf,
        /// Numbers of the missing volumes.
        missing: Vec<u32>,
        /// `true` if more volumes may be missing after the highest one that was found.
        is_open: bool,
    },
    /// Two volumes do not belong together.
    #[error("the volumes `{}` and `{}` belong to different bundles", .one.display(), .other.display())]
    Mixed {
        /// Path of one of them.
        one: PathBuf,
        /// Path of the other one.
        other: PathBuf,
    },
}

fn listed(missing: &[u32], is_open: bool) -> String {
    let numbers: Vec<_> = missing.iter().map(|it| format!("volume {it}")).collect();
    let mut text = numbers.join(", ");
    if is_open {
        if !text.is_empty() {
            text += ", and no ";
        }
        text += "last volume";
    }
    text
}

impl Header {
    fn read(file: &mut File) -> io::Result<Option<Self>> {
        let mut block = [0; HEADER_BYTES];
        match file.read_exact(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let header: Option<Self> = serde_json::from_slice(&block).ok();
        Ok(header.filter(|it| it.volume > 0 && it.volume <= MAX_VOLUMES && it.block() == block))
    }

    fn block(&self) -> [u8; HEADER_BYTES] {
        let text = serde_json::to_vec(self).expect("it is JSON");
        let mut block = [b' '; HEADER_BYTES];
        block[..text.len()].copy_from_slice(&text);
        block[HEADER_BYTES - 1] = b'\n';
        block
    }
}

/// A volume that was found.
#[derive(Debug)]
struct Volume {
    path: PathBuf,
    header: Header,
    /// `true` if the volume is part of an encrypted bundle.
    is_encrypted: bool,
}

/// Finds the bundle that a volume belongs to, as bytes in order; `None` if `path` is not a volume. The other volumes
/// are searched for in the same directory.
///
/// # Errors
/// [`VolumeError`] names what is missing.
pub fn find(path: &Path) -> Result<Option<Volumes>, VolumeError> {
    let mut numbers = 1..=MAX_VOLUMES;
    let first = match path.is_file() {
        true => Some(path.to_owned()),
        false => numbers.find_map(|number| Some(numbered(path, number)).filter(|it| it.is_file())),
    };
    let Some(first) = first else {
        return Ok(None);
    };
    let Some(header) = open(&first)?.1 else {
        return Ok(None);
    };
    let (name, mut found) = (first.with_extension(""), BTreeMap::new());
    for number in 1..=MAX_VOLUMES {
        let path = numbered(&name, number);
        if !path.is_file() {
            continue;
        }
        let Some(other) = open(&path)?.1 else {
            continue;
        };
        if other.bundle != header.bundle {
            let one = first.clone();
            return Err(VolumeError::Mixed { one, other: path });
        }
        let header = other;
        let volume = Volume {
            path,
            header,
            is_encrypted: false,
        };
        found.insert(volume.header.volume, volume);
    }
    let end = found.values().find(|volume| volume.header.last);
    let end = end.map(|volume| volume.header.volume);
    let highest = found.keys().copied().max().unwrap_or(0);
    let missing: Vec<_> = (1..=end.unwrap_or(highest))
        .filter(|number| !found.contains_key(number))
        .collect();
    if end.is_none() || !missing.is_empty() {
        let is_open = end.is_none();
        return Err(VolumeError::Missing {
            name,
            missing,
            is_open,
        });
    }
    let mut left: VecDeque<_> = found.into_values().collect();
    if let Some(first) = left.front() {
        // A volume of an encrypted bundle cannot be made again alone, because each encryption gives other bytes.
        let is_encrypted = first.is_encrypted();
        left.iter_mut()
            .for_each(|it| it.is_encrypted = is_encrypted);
    }
    Ok(Some(Volumes {
        left,
        current: None,
    }))
}

fn numbered(name: &Path, number: u32) -> PathBuf {
    name.with_added_extension(format!("{number:03}"))
}

fn open(path: &Path) -> Result<(File, Option<Header>), VolumeError> {
    let failed = |source| VolumeError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let header = Header::read(&mut file).map_err(failed)?;
    Ok((file, header))
}

/// Reads the parts of all volumes in order. A volume is verified as a whole before its first byte is returned.
pub struct Volumes {
    left: VecDeque<Volume>,
    current: Option<io::Take<File>>,
}

impl Read for Volumes {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(current) = &mut self.current {
                let count = current.read(piece)?;
                if count > 0 || piece.is_empty() {
                    return Ok(count);
                }
            }
            let Some(volume) = self.left.pop_front() else {
                return Ok(0);
            };
            self.current = Some(volume.checked()?);
        }
    }
}

impl Volumes {
    /// Returns the maximum size of one of these volumes in bytes, with its header.
    pub fn volume_bytes(&self) -> u64 {
        let bytes = self.left.iter().map(|volume| volume.header.bytes);
        bytes.max().unwrap_or(0) + HEADER_BYTES as u64
    }
}

impl Volume {
    /// Returns whether the bundle that begins in this volume is encrypted.
    fn is_encrypted(&self) -> bool {
        let mut begin = [0; MAGIC.len()];
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
            file.read_exact(&mut begin)
        });
        read.is_ok() && begin == MAGIC
    }

    fn checked(&self) -> io::Result<io::Take<File>> {
        let mut file = File::open(&self.path)?;
        let (size, wanted) = (file.metadata()?.len(), self.header.bytes);
        let mut context = Context::new(&SHA256);
        file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        let mut piece = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                break;
            }
            context.update(&piece[..count]);
        }
        if size != wanted.saturating_add(HEADER_BYTES as u64)
            || Digest::finish(context) != self.header.sha256
        {
            let (path, number) = (self.path.display(), self.header.volume);
            let why = match self.is_encrypted {
                false => format!(
                    "the volume `{path}` is damaged: copy it again, or have it written again by the same command with \
                     --volume {number}"
                ),
                true => format!(
                    "the volume `{path}` is damaged: copy it again; if the original is damaged too, have all volumes \
                     written again, because every encryption is different"
                ),
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        Ok(file.take(wanted))
    }
}

/// Writes a bundle as volumes. A volume gets its name only when it is complete.
pub struct Writer {
    name: PathBuf,
    /// Maximum size of a volume with its header.
    bytes: u64,
    only: Option<u32>,
    bundle: Digest,
    number: u32,
    current: Option<Part>,
}

struct Part {
    file: Option<NamedTempFile>,
    context: Context,
    bytes: u64,
}

impl Writer {
    /// Returns a writer of `NAME.001` and so on, of at most `bytes` each; of only one volume if `only` is its number.
    pub fn new(name: &Path, bytes: u64, only: Option<u32>, bundle: Digest) -> Self {
        Self {
            name: name.to_owned(),
            bytes: bytes.max(MIN_BYTES),
            only,
            bundle,
            number: 0,
            current: None,
        }
    }

    /// Writes the last volume. Returns the number of volumes.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::NotFound`] if there is no volume with the number that is wanted.
    pub fn finish(mut self) -> io::Result<u32> {
        if self.current.is_none() {
            self.begin()?;
        }
        self.end(true)?;
        match self.only {
            Some(only) if only > self.number => {
                let why = format!(
                    "there are only {} volumes, and no volume {only}",
                    self.number
                );
                Err(io::Error::new(io::ErrorKind::NotFound, why))
            }
            _ => Ok(self.number),
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        self.number += 1;
        if self.number > MAX_VOLUMES {
            let why = format!("more than {MAX_VOLUMES} volumes: choose a larger size");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let is_wanted = self.only.is_none_or(|only| only == self.number);
        let file = match is_wanted {
            true => {
                let mut file = tempfile::Builder::new()
                    .permissions(fs::Permissions::from_mode(0o644))
                    .tempfile_in(self.dir())?;
                file.write_all(&[b' '; HEADER_BYTES])?;
                Some(file)
            }
            false => None,
        };
        self.current = Some(Part {
            file,
            context: Context::new(&SHA256),
            bytes: 0,
        });
        Ok(())
    }

    fn dir(&self) -> &Path {
        files::directory_of(&self.name)
    }

    fn end(&mut self, last: bool) -> io::Result<()> {
        let Some(part) = self.current.take() else {
            return Ok(());
        };
        let header = Header {
            format: Format::One,
            bundle: self.bundle,
            volume: self.number,
            last,
            bytes: part.bytes,
            sha256: Digest::finish(part.context),
        };
        let Some(mut file) = part.file else {
            return Ok(());
        };
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header.block())?;
        file.as_file().sync_all()?;
        let path = self
            .name
            .with_added_extension(format!("{:03}", self.number));
        file.persist(path).map_err(|error| error.error)?;
        File::open(self.dir())?.sync_all()
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.bytes - HEADER_BYTES as u64;
        if self.current.as_ref().is_some_and(|part| part.bytes == room) {
            self.end(false)?;
        }
        if self.current.is_none() {
            self.begin()?;
        }
        let Some(part) = &mut self.current else {
            return Err(io::ErrorKind::WriteZero.into());
        };
        let count = bytes
            .len()
            .min(usize::try_from(room - part.bytes).unwrap_or(usize::MAX));
        if let Some(file) = &mut part.file {
            file.write_all(&bytes[..count])?;
        }
        part.context.update(&bytes[..count]);
        part.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Vec<u8> {
        (0..5 * MIN_BYTES / 2).map(|i| (i / 3) as u8).collect()
    }

    fn written(dir: &Path, only: Option<u32>) -> io::Result<u32> {
        let name = dir.join("site.opbundle");
        let mut writer = Writer::new(&name, MIN_BYTES, only, Digest::of(b"bundle"));
        writer.write_all(&content())?;
        writer.finish()
    }

    fn volume(dir: &Path, number: u32) -> PathBuf {
        dir.join(format!("site.opbundle.{number:03}"))
    }

    #[test]
    fn what_was_split_is_read_as_it_was_from_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(written(dir.path(), None).unwrap(), 3);

        for name in ["site.opbundle", "site.opbundle.001", "site.opbundle.003"] {
            let mut read = Vec::new();
            let mut volumes = find(&dir.path().join(name)).unwrap().unwrap();
            volumes.read_to_end(&mut read).unwrap();
            assert!(read == content(), "{name}");
        }
        for number in 1..=3 {
            let size = volume(dir.path(), number).metadata().unwrap().len();
            assert!(size <= MIN_BYTES, "{size}");
        }
        fs::write(dir.path().join("plain"), [0; 2000]).unwrap();
        assert!(find(&dir.path().join("plain")).unwrap().is_none());
    }

    #[test]
    fn a_damaged_volume_is_named_and_made_again_alone() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), None).unwrap();
        let second = volume(dir.path(), 2);
        let good = fs::read(&second).unwrap();
        let mut bad = good.clone();
        bad[700] ^= 1;
        fs::remove_file(&second).unwrap();
        fs::write(&second, bad).unwrap();

        let mut read = Vec::new();
        let mut volumes = find(&volume(dir.path(), 1)).unwrap().unwrap();
        let error = volumes.read_to_end(&mut read).unwrap_err();
        let room = MIN_BYTES as usize - HEADER_BYTES;
        assert!(read == content()[..room], "nothing of it was given");
        let said = error.to_string();
        assert!(
            said.contains("site.opbundle.002") && said.contains("--volume 2"),
            "{said}"
        );

        fs::remove_file(&second).unwrap();
        written(dir.path(), Some(2)).unwrap();
        assert!(fs::read(&second).unwrap() == good);
        assert!(written(dir.path(), Some(9)).is_err());
    }

    #[test]
    fn what_is_missing_is_said_by_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), None).unwrap();
        fs::remove_file(volume(dir.path(), 1)).unwrap();
        let said = |number| {
            find(&volume(dir.path(), number))
                .map(drop)
                .unwrap_err()
                .to_string()
        };
        assert!(said(2).ends_with("has no volume 1"), "{}", said(2));
        fs::remove_file(volume(dir.path(), 3)).unwrap();
        assert!(
            said(2).ends_with("has no volume 1, and no last volume"),
            "{}",
            said(2)
        );

        let other = Writer::new(
            &dir.path().join("site.opbundle"),
            MIN_BYTES,
            Some(1),
            Digest::of(b"other"),
        );
        other.finish().unwrap();
        assert!(said(2).contains("different bundles"), "{}", said(2));
    }
}
