//! One websocket to a hub.

use std::time::Duration;

use http::Uri;
use http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, http::Response};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::error::ClientError;
use super::http::root_cause;
use super::hubs::Hub;
use super::wire::Wire;
use crate::folder;
use crate::protocol::{MAX_HUB_MESSAGE, SUBPROTOCOL};

/// A connection on which both sides speak websocket.
pub type Socket = WebSocketStream<MaybeTlsStream<Wire>>;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Connects to a path of the hub; `token` instead of the hub's own, where given.
///
/// # Errors
/// [`ClientError::Unreachable`] without an answer, [`ClientError::Refused`] where the hub says no.
pub async fn connect(hub: &Hub, path: &str, token: Option<&str>) -> Result<Socket, ClientError> {
    let unreachable = |reason: String| ClientError::Unreachable { url: hub.url.clone(), reason };
    let request = request(hub, path, token).map_err(|error| ClientError::Answer(root_cause(&error)))?;
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_HUB_MESSAGE)).max_frame_size(Some(MAX_HUB_MESSAGE));
    let connecting = async {
        let wire = wire(hub, request.uri()).await?;
        client_async_tls_with_config(request, wire, Some(config), None).await
    };
    let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    match connected.map_err(|_| unreachable("it does not answer".to_owned()))? {
        Ok((socket, answer)) => speaks_our_protocol(&answer).map(|()| socket),
        Err(Error::Http(answer)) => {
            Err(ClientError::refused(answer.status().as_u16(), answer.body().as_deref().unwrap_or_default()))
        }
        Err(error) => Err(unreachable(root_cause(&error))),
    }
}

async fn wire(hub: &Hub, uri: &Uri) -> Result<Wire, Error> {
    if let Some(folder) = &hub.folder {
        return Ok(Wire::Folder(folder::connect(folder).await?));
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("wss") { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    // Small frames go at once.
    stream.set_nodelay(true)?;
    Ok(Wire::Net(stream))
}

fn request(hub: &Hub, path: &str, token: Option<&str>) -> Result<Request, Error> {
    // `http` becomes `ws`, `https` becomes `wss`.
    let url = format!("ws{}{path}", hub.url.trim_start_matches("http"));
    let mut request = url.into_client_request()?;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    if let Some(token) = token.or(hub.token.as_deref()) {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(http::Error::from)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(request)
}

fn speaks_our_protocol(answer: &Response<Option<Vec<u8>>>) -> Result<(), ClientError> {
    let chosen = answer.headers().get(SEC_WEBSOCKET_PROTOCOL);
    let ours = chosen.is_some_and(|value| value.as_bytes() == SUBPROTOCOL.as_bytes());
    ours.then_some(()).ok_or_else(|| ClientError::Answer(format!("it does not speak {SUBPROTOCOL}")))
}
