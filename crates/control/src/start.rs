//! Starting and stopping the control plane.

use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use outpost_base::{secret::Secret, stop::Stop};
use outpost_net::listener::{ListenError, Listener};
use outpost_process::open_files;
use tokio::task::JoinSet;
use tracing::info;
use url::Url;

use super::{
    LocalSource,
    binaries::Binaries,
    config::{Config, ConfigError, StateKey, Storage},
    crypt::{Key, Vault},
    data_dir::{DataDir, DataDirError},
    plane::{Credential, Plane, Registration, RequestError},
    services,
    store::{
        Store, StoreError,
        sqlite::{self, OpenError, Sqlite},
    },
};

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("control plane's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The key is not the one that the database was written with.
    #[error(
        "database `{database}` was written with the state key {wanted}, but the key given is {given}"
    )]
    Key {
        /// The database.
        database: String,
        /// Id of the key it needs.
        wanted: String,
        /// Id of the key that is there.
        given: String,
    },
    /// The database does not answer.
    #[error("database cannot be prepared")]
    Store(#[from] StoreError),
    /// The database cannot be prepared.
    #[error("control plane cannot be prepared")]
    Prepare(#[from] RequestError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl StartError {
    /// What the operator can try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::DataDir(error) => error.hint(),
            Self::Open(error) => error.hint(),
            Self::Key { wanted, .. } => Some(format!(
                "put back the key {wanted}, for example from a backup"
            )),
            Self::Store(error) | Self::Prepare(RequestError::Store(error)) => error.hint(),
            Self::Prepare(_) => None,
            Self::Listen(error) => error.hint(),
        }
    }
}

/// A control plane that runs. Dropped, it stops at once.
pub struct Running {
    address: SocketAddr,
    url: Url,
    access_url: Url,
    admin_token: Secret,
    plane: Arc<Plane>,
    store: Arc<dyn Store>,
    tasks: JoinSet<()>,
    stop: Stop,
    /// Held until everything is closed.
    _data_dir: Option<Arc<DataDir>>,
}

/// Starts the control plane. It stops when `stop` drains.
///
/// # Errors
/// [`StartError`] names the thing and the place; its hint says what to do.
pub async fn start(config: Config, stop: Stop) -> Result<Running, StartError> {
    config.check()?;
    let (data_dir, key, sqlite) = open(&config).await?;
    let store: Arc<dyn Store> = Arc::new(sqlite);
    let vault = Vault::new(&key, &[]);
    // A child, so that it can be stopped without stopping whoever started it.
    let stop = stop.child();
    let plane = Plane::new(
        store.clone(),
        vault,
        config.limits.clone(),
        config.psks.clone(),
        Arc::new(Timestamp::now),
        stop.clone(),
    );
    let binaries = Binaries::new(config.agent_binaries.clone());
    let plane = Arc::new(plane.with_binaries(binaries));
    let admin_token = admin_token(&plane, data_dir.as_deref()).await?;
    let mut limits = config.limits.of_listener();
    limits.connections = open_files::connections(limits.connections, open_files::raise());
    limits.strangers = limits.strangers.min(limits.connections);
    let listener = Listener::bind(config.listen, config.tls.as_ref(), limits)
        .await?
        .behind(&config.trusted_proxies);
    let (address, url) = (listener.address(), listener.url());
    let access_url = config.access_url.clone();
    let access_url = access_url.unwrap_or_else(|| listener.url_elsewhere());
    plane.set_access_url(access_url.clone());
    let routes = services::routes(&plane, &config, data_dir.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(plane.clone().run_reaper());
    tasks.spawn(listener.serve(routes, stop.clone()));
    info!(%address, %url, "control plane is listening");
    Ok(Running {
        address,
        url,
        access_url,
        admin_token,
        plane,
        store,
        tasks,
        stop,
        _data_dir: data_dir,
    })
}

async fn open(config: &Config) -> Result<(Option<Arc<DataDir>>, Key, Sqlite), StartError> {
    let path = match &config.storage {
        Storage::Memory => return Ok((None, Key::generate(), Sqlite::in_memory().await?)),
        Storage::Directory(path) => path,
    };
    let dir = DataDir::open(path)?;
    let (key, sqlite) = database(&dir, &config.state_key).await?;
    let given = key.id().to_string();
    match sqlite.meta("key_id").await? {
        None => sqlite.set_meta("key_id", &given).await?,
        Some(wanted) if wanted != given => {
            return Err(StartError::Key {
                database: dir.database().display().to_string(),
                wanted,
                given,
            });
        }
        Some(_) => {}
    }
    Ok((Some(Arc::new(dir)), key, sqlite))
}

/// Opens the database and reads its key, or makes both. The database comes first: a key without one says that it is lost.
async fn database(dir: &DataDir, source: &StateKey) -> Result<(Key, Sqlite), StartError> {
    let path = dir.database();
    if !dir.has_database() {
        dir.check_unused()?;
        let sqlite = Sqlite::open(&path, &dir.backups()).await?;
        return Ok((dir.key(source, true)?, sqlite));
    }
    // A server that ended before it had made the key has left nothing that needs one.
    let is_new = dir.lacks_key(source) && sqlite::facts(&path).await?.key_id.is_empty();
    let key = dir.key(source, is_new)?;
    Ok((key, Sqlite::open(&path, &dir.backups()).await?))
}

/// The first user's token, which a new one replaces if it is missing or not valid any more.
async fn admin_token(plane: &Plane, dir: Option<&DataDir>) -> Result<Secret, StartError> {
    let admin = plane.begin().await?;
    let stored = dir.map(DataDir::admin_token).transpose()?.flatten();
    if let Some(token) = stored
        && plane.authenticate(&token).await.is_ok()
    {
        return Ok(token);
    }
    let (_, token) = plane
        .issue_token("server", &admin, "admin.token", None)
        .await?;
    if let Some(dir) = dir {
        dir.set_admin_token(&token)?;
    }
    Ok(token)
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the listener, with the address it has.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The URL that templates and agents are told.
    pub fn access_url(&self) -> &Url {
        &self.access_url
    }

    /// A token of the first user; it is also in the data directory.
    pub fn admin_token(&self) -> &Secret {
        &self.admin_token
    }

    /// Jobs for a daemon in this process, which needs no credential.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] for a name that is not accepted.
    pub async fn local_source(
        &self,
        registration: Registration,
    ) -> Result<LocalSource, RequestError> {
        let daemon = self
            .plane
            .register(&Credential::Shared, registration)
            .await?;
        Ok(LocalSource::new(self.plane.clone(), daemon))
    }

    /// What it does, for callers in this process.
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Stops it: open calls end, then the storage is closed.
    pub async fn shutdown(self) {
        self.stop.drain();
        self.wait().await;
    }

    /// Waits until it has stopped.
    pub async fn wait(mut self) {
        while self.tasks.join_next().await.is_some() {}
        self.store.close().await;
    }
}
