//! Connection to a server's API for agents and their clients: yamux over a WebSocket.
//!
//! # Source
//! coder `codersdk/agentsdk/agentsdk.go`, `codersdk/workspacesdk/dialer.go`.

use ::http::HeaderName;
use outpost_base::secret::Secret;
use outpost_net::http::Client;
use outpost_transport::{
    coder::{ApiVersion, DialError, open_websocket, token_header},
    yamux,
};

/// Header that carries a token, of an agent or a person.
pub const SESSION_TOKEN: HeaderName = HeaderName::from_static("coder-session-token");

/// Opens `path` for the owner of `token`, at this version.
///
/// # Errors
/// [`DialError`]; nothing is retried here.
pub async fn dial(
    client: &Client,
    path: &str,
    query: &[(&str, &str)],
    token: &Secret,
    version: ApiVersion,
) -> Result<yamux::Connection, DialError> {
    let mut url = client.endpoint(path);
    url.query_pairs_mut()
        .append_pair("version", &version.to_string())
        .extend_pairs(query);
    let mut headers = client.headers().await?;
    headers.insert(SESSION_TOKEN, token_header(token)?);
    let socket = open_websocket(client, &url, headers).await?;
    let config = yamux::Config::default();
    // The server never opens streams to us.
    let (connection, _) = yamux::Connection::start(socket, yamux::Role::Client, config);
    Ok(connection)
}
