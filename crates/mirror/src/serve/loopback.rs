//! A mirror for the engines of this machine, which can get modules and repositories only from a server.

use std::net::{Ipv4Addr, SocketAddr};

use outpost_base::stop::Stop;
use outpost_net::{
    ca::{self, CaError},
    listener::{Limits, ListenError, Listener},
};
use outpost_provision::InitProxy;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, debug_span};
use url::Url;

use super::{Access, Proxy, Server};
use crate::Store;

/// A server on the loopback device, until this is dropped.
#[derive(Debug)]
pub struct Loopback {
    url: Url,
    init_proxy: Option<(InitProxy, AbortOnDropHandle<()>)>,
    _task: AbortOnDropHandle<()>,
}

/// Reason why there is no server with a proxy.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// The server cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The proxy's authority cannot be created.
    #[error("failed to make the proxy's authority")]
    Authority(#[from] CaError),
    /// The proxy's authority cannot be written to a file.
    #[error("failed to write the proxy's authority")]
    Write(#[source] std::io::Error),
}

impl Loopback {
    /// Serves `store` at any free port. The contents are no secret on this machine.
    ///
    /// # Errors
    /// If there is no loopback device, or no port.
    pub async fn start(store: Store) -> Result<Self, ListenError> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(anywhere, None, Limits::standard()).await?;
        let url = listener.url();
        let routes = Server::new(store, Access::default()).router();
        let serving = listener.serve(routes, Stop::new());
        let task = tokio::spawn(serving.instrument(debug_span!("loopback mirror", %url)));
        Ok(Self {
            url,
            init_proxy: None,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Does the same with a proxy, whose authority no other process has.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and [`LoopbackError::Authority`].
    pub async fn with_proxy(store: Store) -> Result<Self, LoopbackError> {
        let server = Server::new(store.clone(), Access::default());
        let dir = tempfile::tempdir().map_err(LoopbackError::Write)?;
        let proxy = Proxy::new(&server, &dir.path().join("ca"))?;
        let authority = std::fs::read_to_string(ca::root_file(&dir.path().join("ca")));
        let authority = authority.map_err(LoopbackError::Write)?;
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(anywhere, None, Limits::standard()).await?;
        let init_proxy = InitProxy {
            url: listener.url(),
            authority,
        };
        let span = debug_span!("loopback proxy", url = %init_proxy.url);
        let serving = async move {
            // The proxy's authority is inside, so the directory must live as long as the task.
            let _dir = dir;
            listener.serve(proxy.router(), Stop::new()).await;
        };
        let task = tokio::spawn(serving.instrument(span));
        let mut loopback = Self::start(store).await?;
        loopback.init_proxy = Some((init_proxy, AbortOnDropHandle::new(task)));
        Ok(loopback)
    }

    /// Returns the proxy for engines, if there is one.
    pub fn init_proxy(&self) -> Option<&InitProxy> {
        self.init_proxy.as_ref().map(|(init_proxy, _)| init_proxy)
    }

    /// Returns the server's address.
    pub fn url(&self) -> &Url {
        &self.url
    }
}
