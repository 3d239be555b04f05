//! Inventories of generations, and signatures over them, beside the indexes.
//!
//! ```text
//! generations/000007.json              the index
//! generations/000007.inventory         a digest of everything that it names
//! generations/000007.KEY.minisig       a signature over the inventory
//! generations/000007.bundle            the manifest of the bundle that it came from, with its signatures
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use outpost_files as files;
use serde::Deserialize;

use super::{Store, StoreError, generations::MAX_INDEX_BYTES};
use crate::{
    Digest, Generation,
    inventory::{Before, COMMENT, Inventory},
    keys::{self, KeyError, KeyId, SecretKey, Signature},
};

/// Key id from the name of a signature's file, and the signature or the reason why it cannot be parsed.
pub type NamedSignature = (KeyId, Result<Signature, KeyError>);

/// The part of an inventory that every reader of a generation checks.
#[derive(Deserialize)]
struct IndexDigest {
    index: Digest,
}

impl Store {
    fn beside(&self, number: u64, end: &str) -> PathBuf {
        self.index_path(number).with_extension(end)
    }

    /// Returns the path of a generation's inventory, whether it exists or not.
    pub fn inventory_path(&self, number: u64) -> PathBuf {
        self.beside(number, "inventory")
    }

    /// Returns the inventory of a generation with its text; `None` if an older release made the generation.
    ///
    /// # Errors
    /// The system's error, and [`StoreError::Index`] if it is damaged.
    pub fn inventory(&self, number: u64) -> Result<Option<(Inventory, Vec<u8>)>, StoreError> {
        let path = self.inventory_path(number);
        let Some(text) = read_if_there(&path)? else {
            return Ok(None);
        };
        let inventory = serde_json::from_slice(&text);
        let inventory = inventory.map_err(|source| StoreError::Index { path, source })?;
        Ok(Some((inventory, text)))
    }

    /// Writes the inventory of a generation whose index has this text and is not written yet: readers refuse an index
    /// that does not match. Remains of an earlier generation with this number are removed.
    pub(super) fn write_inventory(
        &self,
        number: u64,
        index: &[u8],
        generation: &Generation,
        before: Option<u64>,
    ) -> Result<(), StoreError> {
        self.remove_beside(number)?;
        let before = match before {
            Some(number) => self.inventory(number)?.map(|(_, text)| Before {
                generation: number,
                inventory: Digest::of(&text),
            }),
            None => None,
        };
        let inventory = Inventory::new(number, index, generation, before);
        let path = self.inventory_path(number);
        let text = serde_json::to_vec_pretty(&inventory).map_err(|source| StoreError::Index {
            path: path.clone(),
            source,
        })?;
        files::write_public(&path, &text).map_err(StoreError::io("write", &path))
    }

    /// Writes the inventory of a generation of an older release, from its present index. Returns whether it had none.
    ///
    /// # Errors
    /// The system's error.
    pub fn take_inventory(&self, number: u64, _lock: &files::Lock) -> Result<bool, StoreError> {
        if self.inventory_path(number).exists() {
            return Ok(false);
        }
        let (text, generation) = self.unchecked(number)?;
        self.write_inventory(number, &text, &generation, None)?;
        Ok(true)
    }

    /// Refuses the text of an index that does not match its inventory.
    pub(super) fn check_index(&self, number: u64, text: &[u8]) -> Result<(), StoreError> {
        let path = self.inventory_path(number);
        let Some(inventory) = read_if_there(&path)? else {
            return Ok(());
        };
        let recorded: Result<IndexDigest, _> = serde_json::from_slice(&inventory);
        match recorded {
            Ok(recorded) if recorded.index == Digest::of(text) => Ok(()),
            Ok(_) => Err(StoreError::Altered {
                number,
                path: self.index_path(number),
            }),
            Err(source) => Err(StoreError::Index { path, source }),
        }
    }

    /// Signs the inventory of a generation. Returns whether this key had not signed it before.
    ///
    /// # Errors
    /// The system's error, also if there is no inventory.
    pub fn sign_inventory(
        &self,
        number: u64,
        key: &SecretKey,
        _lock: &files::Lock,
    ) -> Result<bool, StoreError> {
        let path = self.inventory_path(number);
        let text = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let signature = Signature::new(key, &text, COMMENT).to_file();
        let path = self.beside(number, &format!("{}.minisig", key.public().id));
        if fs::read(&path).is_ok_and(|known| known == signature.as_bytes()) {
            return Ok(false);
        }
        let written = files::write_public(&path, signature.as_bytes());
        written.map_err(StoreError::io("write", &path))?;
        Ok(true)
    }

    /// Returns the signatures over the inventory of a generation, by the ids of their keys. A file that cannot be
    /// parsed comes with the reason.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn signatures(&self, number: u64) -> Result<Vec<NamedSignature>, StoreError> {
        let mut all = Vec::new();
        for path in self.files_beside(number)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let id = name.strip_suffix(".minisig");
            let id = id.and_then(|name| name.rsplit_once('.'));
            let Some(id) = id.and_then(|(_, id)| id.parse::<KeyId>().ok()) else {
                continue;
            };
            let size = fs::metadata(&path).map_err(StoreError::io("read", &path))?;
            let text = match size.len() <= keys::MAX_BYTES {
                true => fs::read(&path).map_err(StoreError::io("read", &path))?,
                false => Vec::new(),
            };
            all.push((id, Signature::from_file(&String::from_utf8_lossy(&text))));
        }
        all.sort_by_key(|(id, _)| *id);
        Ok(all)
    }

    /// Returns the head of the bundle that a generation came from; `None` if it did not come from one.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn bundle_head(&self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        read_if_there(&self.beside(number, "bundle"))
    }

    /// Stores the head of the bundle that a generation came from.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn keep_bundle_head(
        &self,
        number: u64,
        head: &[u8],
        _lock: &files::Lock,
    ) -> Result<(), StoreError> {
        let path = self.beside(number, "bundle");
        files::write_public(&path, head).map_err(StoreError::io("write", &path))
    }

    /// Moves a generation's index and the files beside it to the trash. If it was the current one, the newest that
    /// can be read becomes current, or none; returns the current one.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn put_generation_aside(
        &self,
        number: u64,
        now: SystemTime,
        _lock: &files::Lock,
    ) -> Result<Option<u64>, StoreError> {
        let current = self.current()?;
        let others = self.generations()?.into_iter().rev();
        let mut others = others.filter(|other| *other != number);
        let next = match current {
            Some(current) if current != number => Some(current),
            _ => others.find(|other| self.generation(*other).is_ok()),
        };
        match next {
            Some(next) if current != Some(next) => self.switch(next)?,
            Some(_) => {}
            None => self.unset_current()?,
        }
        for path in self.files_beside(number)? {
            self.put_aside(&path, now)?;
        }
        Ok(next)
    }

    /// Removes the files beside the index of a generation that was removed.
    pub(super) fn remove_beside(&self, number: u64) -> Result<(), StoreError> {
        let index = self.index_path(number);
        for path in self.files_beside(number)? {
            if path != index {
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Returns the index of a generation and the files beside it, the index first: without it, the rest of a
    /// half-removed generation is ignored.
    fn files_beside(&self, number: u64) -> Result<Vec<PathBuf>, StoreError> {
        let index = self.index_path(number);
        let dir = index.parent().unwrap_or(&self.dir);
        let stem = format!("{number:06}.");
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
            let path = entry.map_err(StoreError::io("list", dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&stem) {
                found.push(path);
            }
        }
        found.sort_by_key(|path| *path != index);
        Ok(found)
    }
}

/// Reads a file; `None` if it does not exist.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let size = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    if size > MAX_INDEX_BYTES {
        return Err(StoreError::TooLong {
            name: path.display().to_string(),
            limit: MAX_INDEX_BYTES,
        });
    }
    fs::read(path)
        .map(Some)
        .map_err(StoreError::io("read", path))
}
