//! `outpost mirror key`: keys that sign bundles.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use super::Place;
use crate::{
    cli::{
        exit::{Hint as _, UsageError},
        output::{self, Output, Row},
        remote::secret_file,
    },
    files,
    mirror::{
        Store,
        bundle::Records,
        keys::{self, KeyId, PublicKey, Rotation, SecretKey},
    },
    secret::Secret,
    stop::Stop,
};

/// Manage keys that sign bundles, in minisign's formats
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Key {
    /// Generate a key: NAME.key, readable only by you, and NAME.pub for the sites
    Generate {
        /// Name of the files, without extension
        name: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Generate a key that replaces another one
    ///
    /// Sites that trust the old key switch to the new one with the first bundle that it signs. Keep
    /// NAME.rotations beside NAME.key: it proves the rotation to them.
    Rotate {
        /// File of the old key
        old: PathBuf,
        /// Name of the new files, without extension
        name: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
        /// File with the passphrase of the new key, if it differs
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a key, here and at the sites that import a later bundle of this mirror
    Revoke {
        /// Id of the key
        key: KeyId,
        #[command(flatten)]
        place: Place,
    },
    /// Show the keys in files, or those that this mirror trusts
    Show {
        /// Files of public keys
        files: Vec<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
}

/// Passphrase that encrypts a key.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct Passphrase {
    /// File with the key's passphrase; without it a new key is not encrypted
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    fn read(&self) -> anyhow::Result<Option<Secret>> {
        self.passphrase_file.as_deref().map(secret_file).transpose()
    }
}

#[derive(Serialize)]
struct Shown {
    id: KeyId,
    key: PublicKey,
    state: &'static str,
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &["Key", "Public key", "State"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.key.to_string(),
            self.state.to_owned(),
        ]
    }
}

#[derive(Serialize)]
struct Made {
    id: KeyId,
    public_key: PathBuf,
    secret_key: PathBuf,
}

#[derive(Serialize)]
struct Revoked {
    revoked: KeyId,
}

impl Key {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Generate { name, passphrase } => {
                let key = SecretKey::generate()?;
                let made = save(&name, &key, passphrase.read()?.as_ref(), &[])?;
                print(output, &made)
            }
            Self::Rotate {
                old,
                name,
                passphrase,
                new_passphrase_file,
                place,
            } => {
                let (old, line) = read_secret(&old, &passphrase)?;
                refuse_revoked(&place, old.public().id)?;
                let key = SecretKey::generate()?;
                let line = Rotation::extend(line, &old, &key.public());
                let new = Passphrase {
                    passphrase_file: new_passphrase_file.or(passphrase.passphrase_file),
                };
                let made = save(&name, &key, new.read()?.as_ref(), &line)?;
                print(output, &made)
            }
            Self::Revoke { key, place } => {
                let store = Store::open(&place.dir()?)?;
                let _lock = store.lock(&stop).await?;
                let mut records = Records::of(&store)?;
                records.revoked.insert(key);
                records.keys.retain(|trusted| trusted.id != key);
                records.save(&store)?;
                let item = Revoked { revoked: key };
                Ok(output.item(&item, |item| format!("key {} is revoked", item.revoked))?)
            }
            Self::Show { files, place } => {
                let rows = match files.is_empty() {
                    true => trusted(&place)?,
                    false => files
                        .iter()
                        .map(|path| shown(path))
                        .collect::<Result<_, _>>()?,
                };
                Ok(output.list(&rows)?)
            }
        }
    }
}

/// Refuses a key that this mirror has revoked; there may be no mirror.
fn refuse_revoked(place: &Place, key: KeyId) -> anyhow::Result<()> {
    let Ok(store) = Store::existing(&place.dir()?) else {
        return Ok(());
    };
    if !Records::of(&store)?.revoked.contains(&key) {
        return Ok(());
    }
    let text = format!("key {key} is revoked: sites do not accept its statement about another key");
    Err(anyhow::Error::msg(text))
        .hint("generate a key with `outpost mirror key generate`, and have the sites trust it as at first")
}

fn shown(path: &Path) -> anyhow::Result<Shown> {
    let key = read_public(path)?;
    Ok(Shown {
        id: key.id,
        key,
        state: "",
    })
}

fn trusted(place: &Place) -> anyhow::Result<Vec<Shown>> {
    let records = Records::of(&Store::existing(&place.dir()?)?)?;
    for id in &records.revoked {
        output::note(&format!("key {id} is revoked"));
    }
    let row = |key: PublicKey| Shown {
        id: key.id,
        key,
        state: "trusted",
    };
    Ok(records.keys.into_iter().map(row).collect())
}

fn print(output: Output, made: &Made) -> anyhow::Result<()> {
    output.item(made, |made| {
        format!(
            "key {}\nwrote {}, which stays here, and {}, which every site gets",
            made.id,
            made.secret_key.display(),
            made.public_key.display()
        )
    })?;
    Ok(())
}

fn save(
    name: &Path,
    key: &SecretKey,
    passphrase: Option<&Secret>,
    line: &[Rotation],
) -> anyhow::Result<Made> {
    let secret_key = with_end(name, "key");
    let public_key = with_end(name, "pub");
    write_new(&secret_key, key.to_file(passphrase)?.expose())?;
    write_new(&public_key, &key.public().to_file())?;
    if !line.is_empty() {
        write_new(&with_end(name, "rotations"), &Rotation::to_file(line))?;
    }
    Ok(Made {
        id: key.public().id,
        public_key,
        secret_key,
    })
}

fn with_end(name: &Path, end: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(".");
    path.push(end);
    path.into()
}

fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let failed = || format!("failed to write `{}`", path.display());
    let path = files::directory_of(path).join(path.file_name().with_context(failed)?);
    match files::write_private_new(&path, text.as_bytes()).with_context(failed)? {
        true => Ok(()),
        false => Err(UsageError(format!("`{}` exists", path.display())))
            .hint("name new files: a key in use is not overwritten"),
    }
}

/// Reads a signing key, and the rotations that led to it from the file beside it.
///
/// # Errors
/// If it cannot be read or decrypted.
pub(super) fn read_secret(
    path: &Path,
    passphrase: &Passphrase,
) -> anyhow::Result<(SecretKey, Vec<Rotation>)> {
    let name = || format!("the key in `{}` cannot be used", path.display());
    let text = Secret::new(read_text(path)?);
    let key = SecretKey::from_file(&text, passphrase.read()?.as_ref()).with_context(name)?;
    let beside = path.with_extension("rotations");
    let line = match beside.exists() {
        true => Rotation::from_file(&read_text(&beside)?).with_context(name)?,
        false => Vec::new(),
    };
    Rotation::verify(&line, &key.public()).with_context(name)?;
    Ok((key, line))
}

/// Reads a public key, which sites have.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read_public(path: &Path) -> anyhow::Result<PublicKey> {
    let key = PublicKey::from_file(&read_text(path)?);
    key.with_context(|| format!("the key in `{}` cannot be used", path.display()))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let failed = || format!("failed to read `{}`", path.display());
    let length = fs::metadata(path).with_context(failed)?.len();
    if length > keys::MAX_BYTES {
        return Err(UsageError(format!("`{}` is too long for a key", path.display())).into());
    }
    fs::read_to_string(path).with_context(failed)
}
