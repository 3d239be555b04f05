//! The agent's Unix socket, through which scripts coordinate their order and tools report the status of apps.
//!
//! Only the user that runs the agent can open it. If the configured path is taken, as by a second agent on the same
//! machine, the agent listens at a path of its own; [`PATH_VARIABLE`] tells everything that it starts.
//!
//! # Source
//! coder `agent/agentsocket/{server,service,socket_unix}.go`, API 1.2.

pub mod client;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use outpost_base::stop::Stop;
use outpost_transport::drpc::{CallError, Calls, Limits, Request, UNIMPLEMENTED};
use outpost_wire::proto::coder::{
    agent::v2::{UpdateAppStatusRequest, UpdateAppStatusResponse},
    agentsocket::v1 as wire,
};
use prost::Message;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{Instrument as _, debug, debug_span, info, warn};

use super::{
    rpc::Rpc,
    unit::{Dependency, UnitError, Units},
};

/// Path of the socket that clients use by default.
pub const DEFAULT_PATH: &str = "/tmp/coder-agent.sock";
/// Environment variable with another path.
pub const PATH_VARIABLE: &str = "CODER_AGENT_SOCKET_PATH";
/// Prefix of all method names.
const SERVICE: &str = "/coder.agentsocket.v1.AgentSocket/";
/// Timeout for a connection that shows whether another agent is alive.
const PROBE: Duration = Duration::from_secs(10);
/// Number of connections served at the same time. A waiting `coder exp sync start` of Coder's CLI holds one.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after a failed accept: the reason is a lack of file descriptors, which lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of one message in either direction, as in Coder.
const LIMITS: Limits = Limits {
    outbound_bytes: 4 << 20,
    inbound_bytes: 4 << 20,
};
/// Minor version of the agent API that introduced `UpdateAppStatus`.
const APP_STATUS: u16 = 8;

/// Current connection to the server, for calls that are forwarded.
#[derive(Default)]
pub(super) struct Uplink(Mutex<Weak<Rpc>>);

impl Uplink {
    /// Replaces the connection by a new one.
    pub(super) fn set(&self, rpc: &Arc<Rpc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(rpc);
    }

    fn rpc(&self) -> Option<Arc<Rpc>> {
        let rpc = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rpc.upgrade()
    }
}

/// A listening socket; dropping it removes its file.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "the socket file no longer exists");
        }
    }
}

impl Socket {
    /// Listens at `path`, else at a path of its own. Returns `None`, and logs why, if neither works.
    pub(super) async fn open(path: &Path) -> Option<Self> {
        let error = match Self::bind(path).await {
            Ok(socket) => return Some(socket),
            Err(error) => error,
        };
        let own = std::env::temp_dir().join(format!("coder-agent-{}.sock", std::process::id()));
        warn!(path = %path.display(), %error, instead = %own.display(), "cannot listen at the configured path of the agent socket");
        match Self::bind(&own).await {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!(path = %own.display(), %error, "cannot serve the agent socket: `coder exp sync` will not work in this workspace");
                None
            }
        }
    }

    async fn bind(path: &Path) -> io::Result<Self> {
        make_way(path).await?;
        if let Some(parent) = path.parent() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(parent)?;
        }
        let listener = UnixListener::bind(path)?;
        let path = path.to_owned();
        let socket = Self { listener, path };
        fs::set_permissions(&socket.path, fs::Permissions::from_mode(0o600))?;
        info!(path = %socket.path.display(), "agent socket server started");
        Ok(socket)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Serves clients until `stop` drains.
    pub(super) async fn serve(self, uplink: Arc<Uplink>, stop: Stop) {
        let service = Arc::new(Service {
            units: Mutex::default(),
            uplink,
        });
        let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let seat = seats.clone().acquire_owned().await;
                (seat, self.listener.accept().await)
            };
            tokio::select! {
                () = stop.draining() => break,
                Some(_) = connections.join_next() => {}
                (seat, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let service = service.clone();
                        let serving = async move {
                            let _seat = seat;
                            service.serve(stream).await;
                        };
                        connections.spawn(serving.instrument(debug_span!("agent socket")));
                    }
                    Err(error) => {
                        warn!(%error, "failed to accept a connection on the agent socket");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        connections.shutdown().await;
    }
}

/// Removes the socket of an agent that was killed. A socket that answers and any other file stay.
async fn make_way(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        let why = "it is a file other than a socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(Err(_)) => fs::remove_file(path),
        Ok(Ok(_)) | Err(_) => {
            let why = "another agent listens there";
            Err(io::Error::new(io::ErrorKind::AddrInUse, why))
        }
    }
}

/// An error as sent over the wire.
struct Refusal {
    code: u64,
    words: String,
}

/// Errors of the service itself have code 0.
impl From<String> for Refusal {
    fn from(words: String) -> Self {
        Self { code: 0, words }
    }
}

/// Implementation of the service `AgentSocket`.
struct Service {
    units: Mutex<Units>,
    uplink: Arc<Uplink>,
}

impl Service {
    /// Serves one client until it hangs up. There is no idle timeout: tools keep a connection open for hours.
    async fn serve(&self, stream: UnixStream) {
        let mut calls = Calls::new(stream, LIMITS);
        let ended = async {
            while let Some(request) = calls.next().await? {
                match self.answer(request).await {
                    Ok(answer) => calls.reply(&answer).await?,
                    Err(Refusal { code, words }) => calls.fail(code, &words).await?,
                }
            }
            Ok::<_, CallError>(())
        };
        if let Err(error) = ended.await {
            debug!(error = %error, "a client of the agent socket disconnected");
        }
    }

    async fn answer(&self, request: Request) -> Result<Vec<u8>, Refusal> {
        let Request { method, message } = request;
        match method.strip_prefix(SERVICE).unwrap_or_default() {
            "Ping" => with(message, |_: wire::PingRequest| Ok(wire::PingResponse {})),
            "SyncStart" => with(message, |asked| self.start(&asked)),
            "SyncWant" => with(message, |asked| self.want(&asked)),
            "SyncComplete" => with(message, |asked| self.complete(&asked)),
            "SyncReady" => with(message, |asked| self.ready(&asked)),
            "SyncStatus" => with(message, |asked| self.status(&asked)),
            "SyncList" => with(message, |_: wire::SyncListRequest| self.list()),
            "UpdateAppStatus" => self.update_app_status(message).await,
            // Clients without the code look for the words "protocol error" and "unknown rpc".
            _ => Err(Refusal {
                code: UNIMPLEMENTED,
                words: format!("protocol error: unknown rpc: {method:?}"),
            }),
        }
    }

    fn units<T>(&self, work: impl FnOnce(&mut Units) -> T) -> T {
        work(&mut self.units.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn start(&self, asked: &wire::SyncStartRequest) -> Result<wire::SyncStartResponse, String> {
        let unit = &asked.unit;
        self.units(|units| units.start(unit))
            .map(|()| wire::SyncStartResponse {})
            .map_err(|error| match error {
                UnitError::NoName(_) | UnitError::LongName(_) => format!("SyncStart: {error}"),
                _ => format!("cannot start unit {unit:?}: {error}"),
            })
    }

    fn want(&self, asked: &wire::SyncWantRequest) -> Result<wire::SyncWantResponse, String> {
        self.units(|units| units.want(&asked.unit, &asked.depends_on))
            .map(|()| wire::SyncWantResponse {})
            .map_err(|error| format!("cannot add dependency: {error}"))
    }

    fn complete(
        &self,
        asked: &wire::SyncCompleteRequest,
    ) -> Result<wire::SyncCompleteResponse, String> {
        self.units(|units| units.complete(&asked.unit))
            .map(|()| wire::SyncCompleteResponse {})
            .map_err(|error| format!("cannot complete unit {:?}: {error}", asked.unit))
    }

    fn ready(&self, asked: &wire::SyncReadyRequest) -> Result<wire::SyncReadyResponse, String> {
        self.units(|units| units.is_ready(&asked.unit))
            .map(|ready| wire::SyncReadyResponse { ready })
            .map_err(|error| format!("cannot check readiness: {error}"))
    }

    fn status(&self, asked: &wire::SyncStatusRequest) -> Result<wire::SyncStatusResponse, String> {
        let unit = &asked.unit;
        let read = self.units(|units| {
            let (is_ready, status) = (units.is_ready(unit)?, units.status(unit)?);
            Ok((is_ready, status, units.dependencies(unit)))
        });
        let (is_ready, status, dependencies) =
            read.map_err(|error: UnitError| format!("cannot check readiness: {error}"))?;
        let edge = |dependency: Dependency| wire::DependencyInfo {
            unit: unit.clone(),
            is_satisfied: dependency.is_satisfied(),
            depends_on: dependency.unit,
            required_status: "completed".to_owned(),
            current_status: dependency.status.word().to_owned(),
        };
        Ok(wire::SyncStatusResponse {
            status: status.word().to_owned(),
            is_ready,
            dependencies: dependencies.into_iter().map(edge).collect(),
        })
    }

    fn list(&self) -> Result<wire::SyncListResponse, String> {
        let read: Result<Vec<_>, UnitError> = self.units(|units| {
            let one = |name: &str| {
                Ok(wire::UnitInfo {
                    unit: name.to_owned(),
                    status: units.status(name)?.word().to_owned(),
                    is_ready: units.is_ready(name)?,
                })
            };
            units.registered().map(one).collect()
        });
        let units = read.map_err(|error| format!("cannot list units: {error}"))?;
        Ok(wire::SyncListResponse { units })
    }

    /// Forwards the status of an app to the server.
    async fn update_app_status(&self, message: Bytes) -> Result<Vec<u8>, Refusal> {
        let asked: UpdateAppStatusRequest = decode(message)?;
        let rpc = self.uplink.rpc();
        let rpc = rpc.ok_or_else(|| "agent not connected to coderd".to_owned())?;
        if !rpc.knows(APP_STATUS) {
            let words = format!(
                "the server's agent API {} does not support app status",
                rpc.version
            );
            return Err(Refusal {
                code: UNIMPLEMENTED,
                words,
            });
        }
        let told: Result<UpdateAppStatusResponse, _> = rpc.call("UpdateAppStatus", &asked).await;
        match told {
            Ok(answer) => Ok(answer.encode_to_vec()),
            Err(CallError::Remote { code, message }) => Err(Refusal {
                code,
                words: message,
            }),
            Err(error) => Err(error.to_string().into()),
        }
    }
}

fn with<Q: Message + Default, A: Message>(
    message: Bytes,
    answer: impl FnOnce(Q) -> Result<A, String>,
) -> Result<Vec<u8>, Refusal> {
    Ok(answer(decode(message)?)?.encode_to_vec())
}

fn decode<Q: Message + Default>(message: Bytes) -> Result<Q, Refusal> {
    Q::decode(message).map_err(|error| format!("the message cannot be read: {error}").into())
}

#[cfg(test)]
mod tests;
