//! Signatures over the inventory of a mirror's generation, for commands that have a key at hand.

use std::path::PathBuf;

use super::{
    key::{Passphrase, read_secret},
    work,
};
use crate::{
    mirror::{Store, keys::SecretKey},
    stop::Stop,
};

/// Keys that sign what a sync makes.
#[derive(Debug, clap::Args)]
pub(super) struct SigningKeys {
    /// Key that signs the index of the mirror, for `outpost mirror verify --trust`; repeatable
    #[arg(
        long,
        value_name = "FILE",
        env = "OUTPOST_MIRROR_KEY",
        value_delimiter = ','
    )]
    key: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
}

impl SigningKeys {
    /// Reads the keys that the options name.
    ///
    /// # Errors
    /// If one cannot be read or decrypted.
    pub(super) fn read(&self) -> anyhow::Result<Vec<SecretKey>> {
        let keys = self.key.iter();
        keys.map(|path| Ok(read_secret(path, &self.passphrase)?.0))
            .collect()
    }
}

/// Signs the index of a generation with all keys. One of an older release gets its inventory first.
///
/// # Errors
/// If the mirror cannot be written.
pub(super) async fn sign(
    store: &Store,
    generation: u64,
    keys: Vec<SecretKey>,
    stop: &Stop,
) -> anyhow::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let lock = store.lock(stop).await?;
    let store = store.clone();
    work::run(stop, move |_| {
        store.take_inventory(generation, &lock)?;
        for key in &keys {
            store.sign_inventory(generation, key, &lock)?;
        }
        Ok(())
    })
    .await
}
