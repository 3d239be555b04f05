//! A TCP relay between our daemons and the server, so that connections break when a test wants it.

use std::sync::Arc;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use url::Url;

/// Relays to a server until it is dropped.
pub(super) struct Wire {
    url: Url,
    state: Arc<watch::Sender<State>>,
    relay: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct State {
    to: Url,
    is_cut: bool,
}

impl Wire {
    /// Servers behind TLS are reached directly: the relay could not answer under their name.
    pub(super) async fn to(url: &str) -> Self {
        let to: Url = url.parse().unwrap();
        assert_eq!(to.scheme(), "http", "the relay needs a server without TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let state = Arc::new(watch::Sender::new(State { to, is_cut: false }));
        let relay = tokio::spawn(relay(listener, Arc::clone(&state)));
        Self {
            url: url.parse().unwrap(),
            state,
            relay,
        }
    }

    pub(super) fn url(&self) -> Url {
        self.url.clone()
    }

    /// Breaks all connections and refuses new ones.
    pub(super) fn cut(&self) {
        self.state.send_modify(|state| state.is_cut = true);
    }

    pub(super) fn mend(&self) {
        self.state.send_modify(|state| state.is_cut = false);
    }

    /// Leads to another address from the next connection on.
    pub(super) fn lead_to(&self, url: &str) {
        let to = url.parse().unwrap();
        self.state.send_modify(|state| state.to = to);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

async fn relay(listener: TcpListener, state: Arc<watch::Sender<State>>) {
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut watched = state.subscribe();
        tokio::spawn(async move {
            let now = watched.borrow_and_update().clone();
            if now.is_cut {
                return; // It is accepted and dropped: a gateway without a server.
            }
            let address = now.to.socket_addrs(|| None).unwrap();
            let Ok(mut far) = TcpStream::connect(&address[..]).await else {
                return;
            };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = watched.wait_for(|state| state.is_cut) => {}
            }
        });
    }
}
