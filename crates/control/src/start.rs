//! Start and stop of the control plane.

use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use outpost_base::{secret::Secret, stop::Stop};
use outpost_net::{
    listener::{ListenError, Listener},
    metrics::OfListener,
};
use outpost_process::open_files;
use tokio::task::JoinSet;
use tracing::{Instrument as _, debug_span, info};
use url::Url;

use super::{
    LocalSource,
    binaries::Binaries,
    config::{Config, ConfigError, StateKey, Storage},
    crypt::{Key, Vault},
    data_dir::{DataDir, DataDirError},
    metrics::Metrics,
    plane::{Credential, Plane, Registration, RequestError},
    psk, services,
    store::{
        Store, StoreError,
        sqlite::{self, OpenError, Sqlite},
    },
};

/// Reasons why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configuration that cannot be used.
    #[error("control plane's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A data directory that cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A database that cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A key other than the one that the database was written with.
    #[error(
        "database `{database}` was written with the state key {wanted}, but the key given is {given}"
    )]
    Key {
        /// Path of the database, or its description.
        database: String,
        /// Id of the key that the database needs.
        wanted: String,
        /// Id of the key that was found.
        given: String,
    },
    /// A failure of the database.
    #[error("database cannot be prepared")]
    Store(#[from] StoreError),
    /// A failure to prepare the database.
    #[error("control plane cannot be prepared")]
    Prepare(#[from] RequestError),
    /// A failure to listen on the configured address.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl StartError {
    /// Returns what the operator can try next, if anything is known.
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

/// A running control plane. Dropping it stops it at once.
pub struct Running {
    address: SocketAddr,
    url: Url,
    access_url: Url,
    admin_token: Secret,
    plane: Arc<Plane>,
    store: Arc<dyn Store>,
    tasks: JoinSet<()>,
    stop: Stop,
    listener: OfListener,
    /// Lock of the data directory, held until everything is closed.
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
    // A child, so that the server can be stopped without stopping its caller.
    let stop = stop.child();
    let plane = Plane::new(
        store.clone(),
        vault,
        config.limits.clone(),
        psk::Accepted::new(config.psks.clone(), config.psk_file.as_deref())?,
        Arc::new(Timestamp::now),
        stop.clone(),
    );
    let binaries = Binaries::new(config.agent_binaries.clone());
    let plane = Arc::new(
        plane
            .with_binaries(binaries)
            .with_direct_paths(config.direct_paths.clone()),
    );
    let admin_token = admin_token(&plane, data_dir.as_deref()).await?;
    let mut limits = config.limits.of_listener();
    limits.connections = open_files::connections(limits.connections, open_files::raise());
    limits.unauthenticated = limits.unauthenticated.min(limits.connections);
    let listener = Listener::bind(config.listen, config.tls.as_ref(), limits)
        .await?
        .behind(&config.trusted_proxies);
    let (address, url) = (listener.address(), listener.url());
    let access_url = config.access_url.clone();
    let access_url = access_url.unwrap_or_else(|| listener.url_elsewhere());
    plane.set_access_url(access_url.clone());
    let of_listener = OfListener::new(&listener);
    let refusals = &listener.counters().overdrawn;
    let routes = services::routes(&plane, &config, data_dir.clone(), refusals);
    let mut tasks = JoinSet::new();
    let reaper = plane.clone().run_reaper();
    tasks.spawn(reaper.instrument(debug_span!("reaper")));
    let serving = listener.serve(routes, stop.clone());
    tasks.spawn(serving.instrument(debug_span!("listener", %address)));
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
        listener: of_listener,
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

/// Opens the database and reads its key, or creates both. The database comes first: a key without one shows that the
/// database is lost.
async fn database(dir: &DataDir, source: &StateKey) -> Result<(Key, Sqlite), StartError> {
    let path = dir.database();
    if !dir.has_database() {
        dir.check_unused()?;
        let sqlite = Sqlite::open(&path, &dir.backups()).await?;
        return Ok((dir.key(source, true)?, sqlite));
    }
    // A server that ended before it had created the key has left no data that needs one.
    let is_new = dir.lacks_key(source) && sqlite::facts(&path).await?.key_id.is_empty();
    let key = dir.key(source, is_new)?;
    Ok((key, Sqlite::open(&path, &dir.backups()).await?))
}

/// Returns the first user's token. A new one replaces it if it is missing or no longer valid.
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
    /// Address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of the listener, with its actual address.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// URL that templates and agents are given.
    pub fn access_url(&self) -> &Url {
        &self.access_url
    }

    /// A token of the first user; it is also in the data directory.
    pub fn admin_token(&self) -> &Secret {
        &self.admin_token
    }

    /// Returns a source of jobs for a daemon in this process, which needs no credential.
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

    /// Metrics of the control plane, collected with each scrape.
    pub fn metrics(&self) -> Metrics {
        Metrics::new(self.plane.clone(), self.listener.clone())
    }

    /// Operations of the control plane, for callers in this process.
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Stops the control plane: open calls end, then the storage is closed.
    pub async fn shutdown(self) {
        self.stop.drain();
        self.wait().await;
    }

    /// Waits until the control plane has stopped.
    pub async fn wait(mut self) {
        while self.tasks.join_next().await.is_some() {}
        self.store.close().await;
    }
}
