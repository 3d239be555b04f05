//! A mirror for the engines of this machine: modules and repositories have no other way in than a server.

use std::net::{Ipv4Addr, SocketAddr};

use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{Access, Server};
use crate::{
    mirror::Store,
    net::listener::{Limits, ListenError, Listener},
    stop::Stop,
};

/// A server on the loopback device, for as long as this lives.
#[derive(Debug)]
pub struct Loopback {
    url: Url,
    _task: AbortOnDropHandle<()>,
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
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Where it is.
    pub fn url(&self) -> &Url {
        &self.url
    }
}
