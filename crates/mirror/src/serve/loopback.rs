//! A mirror for the engines of this machine: modules and repositories have no other way in than a server.

use std::net::{Ipv4Addr, SocketAddr};

use outpost_base::stop::Stop;
use outpost_net::{
    ca::{self, CaError},
    listener::{Limits, ListenError, Listener},
};
use outpost_provision::Detour;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{Access, Proxy, Server};
use crate::Store;

/// A server on the loopback device, for as long as this lives.
#[derive(Debug)]
pub struct Loopback {
    url: Url,
    detour: Option<(Detour, AbortOnDropHandle<()>)>,
    _task: AbortOnDropHandle<()>,
}

/// Why there is no server with a proxy.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The authority cannot be made.
    #[error("failed to make the proxy's authority")]
    Authority(#[from] CaError),
    /// The authority cannot be kept.
    #[error("failed to write the proxy's authority")]
    Write(#[source] std::io::Error),
}

impl Loopback {
    /// Serves `store` at any free port. What it has is no secret on this machine.
    ///
    /// # Errors
    /// If there is no loopback device, or no port.
    pub async fn start(store: Store) -> Result<Self, ListenError> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(anywhere, None, Limits::standard()).await?;
        let url = listener.url();
        let routes = Server::new(store, Access::default()).router();
        let task = tokio::spawn(listener.serve(routes, Stop::new()));
        Ok(Self {
            url,
            detour: None,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The same with a proxy beside it, whose authority nobody else has.
    ///
    /// # Errors
    /// The same, and [`LoopbackError::Authority`].
    pub async fn with_proxy(store: Store) -> Result<Self, LoopbackError> {
        let server = Server::new(store.clone(), Access::default());
        let dir = tempfile::tempdir().map_err(LoopbackError::Write)?;
        let proxy = Proxy::new(&server, &dir.path().join("ca"))?;
        let authority = std::fs::read_to_string(ca::root_file(&dir.path().join("ca")));
        let authority = authority.map_err(LoopbackError::Write)?;
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(anywhere, None, Limits::standard()).await?;
        let detour = Detour {
            url: listener.url(),
            authority,
        };
        let task = tokio::spawn(async move {
            let _dir = dir;
            listener.serve(proxy.router(), Stop::new()).await;
        });
        let mut loopback = Self::start(store).await?;
        loopback.detour = Some((detour, AbortOnDropHandle::new(task)));
        Ok(loopback)
    }

    /// How engines get to the proxy, if there is one.
    pub fn detour(&self) -> Option<&Detour> {
        self.detour.as_ref().map(|(detour, _)| detour)
    }

    /// Where it is.
    pub fn url(&self) -> &Url {
        &self.url
    }
}
