//! A coderd that goes wrong when it is told to: our own control plane, with somebody in between who understands every
//! call and breaks the ones that a test names.
//!
//! [`front`] answers the handshake, with any version and any refusal; [`relay`] carries calls, and faults. The other
//! modules are what our daemon makes of it.

mod calls;
mod front;
mod handshake;
mod relay;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use url::Url;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends before the server has heard of the call.
    BeforeRequest,
    /// The server does what it is asked, and the connection ends before it can say so.
    AfterRequest,
    /// The server does what it is asked, and the connection ends in the middle of its answer.
    MidAnswer,
    /// The server does nothing and answers with this error.
    Refuse(&'static str),
}

/// A refused handshake: status, a header, body.
pub type Refusal = (u16, (&'static str, &'static str), String);

/// What is to go wrong, and what went wrong so far.
struct Faults {
    calls: Mutex<VecDeque<(&'static str, Fault)>>,
    happened: watch::Sender<usize>,
    refusal: Mutex<Option<Refusal>>,
    /// The version of the API that the server has.
    version: Mutex<&'static str>,
    /// Whether `/api/v2/buildinfo` tells it.
    tells_version: Mutex<bool>,
}

impl Faults {
    /// The fault of a call of `method`, which it then has had.
    fn take(&self, method: &str) -> Option<Fault> {
        let mut calls = self.calls.lock().unwrap();
        let at = calls.iter().position(|(name, _)| *name == method)?;
        let (_, fault) = calls.remove(at)?;
        self.happened.send_modify(|count| *count += 1);
        Some(fault)
    }
}

/// The server in between, on a thread of its own.
pub struct FakeCoderd {
    address: SocketAddr,
    faults: Arc<Faults>,
    runtime: Option<Runtime>,
}

impl FakeCoderd {
    /// Stands before the control plane at `upstream`; without faults nobody notices it.
    pub fn start(upstream: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults {
            calls: Mutex::default(),
            happened: watch::Sender::new(0),
            refusal: Mutex::default(),
            version: Mutex::new("1.20"),
            tells_version: Mutex::new(true),
        });
        let routes = front::routes(upstream, faults.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
        Self {
            address,
            faults,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self) -> Url {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// Breaks the next call of `method`, such as `UpdateJob`.
    pub fn fail(&self, method: &'static str, fault: Fault) {
        self.faults.calls.lock().unwrap().push_back((method, fault));
    }

    /// How many calls were broken.
    pub fn happened(&self) -> watch::Receiver<usize> {
        self.faults.happened.subscribe()
    }

    /// Refuses handshakes until told otherwise.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        *self.faults.refusal.lock().unwrap() = refusal;
    }

    /// Speaks this version of the API from now on, and says so only to those who dial with a newer one if `tells` is
    /// not set.
    pub fn speak(&self, version: &'static str, tells: bool) {
        *self.faults.version.lock().unwrap() = version;
        *self.faults.tells_version.lock().unwrap() = tells;
    }
}

impl Drop for FakeCoderd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
