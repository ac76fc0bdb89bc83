//! The admin API from the client's side, for the commands. Blocking: a command does one thing after
//! the other.
//!
//! The token goes to the process that answers, so a server that was found, not named, is reached
//! over a Unix socket, and only if it runs as a user that is trusted: on a TCP port any user may
//! listen while the server does not.

use crate::{
    api::{Deleted, Details, Envelope, Failure},
    show,
    token::Token,
};
use axum::http::{
    Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sandstone_config::trust;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime::{Builder, Runtime},
    time::timeout,
};

/// Longest wait for a connection. The server is near, as a rule on this host.
const CONNECT_SECS_MAX: u64 = 5;
/// Longest wait for an answer; a forced deletion waits for its clients the longest.
const ANSWER_SECS_MAX: u64 = 60;

/// A server's admin API.
pub(crate) struct AdminClient {
    runtime: Runtime,
    server: AdminAddress,
    token: Token,
}

/// Where an admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    Unix(PathBuf, Found),
    Http {
        /// `host:port`.
        authority: String,
        /// What all paths begin with there; empty as a rule.
        prefix: String,
    },
}

/// Who says that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The user.
    Named,
    /// The configuration, or the defaults.
    Configured,
}

impl AdminAddress {
    /// What a user writes: `http://host:port`, `host:port`, `unix:PATH`, or a path with a slash in
    /// it.
    pub(crate) fn parse(text: &str) -> Option<AdminAddress> {
        if let Some(path) =
            text.strip_prefix("unix:").or(text.starts_with(['/', '.']).then_some(text))
        {
            return Some(AdminAddress::Unix(path.into(), Found::Named));
        }
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url: Uri = url.parse().ok()?;
        let (host, port) = (url.host()?, url.port_u16().unwrap_or(80));
        let prefix = url.path().trim_end_matches('/').to_owned();
        (url.scheme_str() == Some("http"))
            .then(|| AdminAddress::Http { authority: format!("{host}:{port}"), prefix })
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Unix(path, _) => path.display().fmt(f),
            AdminAddress::Http { authority, prefix } => write!(f, "http://{authority}{prefix}"),
        }
    }
}

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// The host gives no runtime.
    #[error("the connection to the server cannot be made: {0}")]
    Runtime(#[source] io::Error),
    /// No server answers there.
    #[error(
        "no server answers at {base} ({source}): start one with `{} serve`, or name another with \
         --admin or --config",
        show::own_command()
    )]
    Unreachable { base: String, source: io::Error },
    /// Another user's program listens there.
    #[error(
        "what listens at {path} runs as user {user}, who is neither you nor root, and gets no \
         token: name it with --admin if you trust it"
    )]
    Untrusted { path: PathBuf, user: u32 },
    /// Something answers, but not with what a Sandstone server says.
    #[error(
        "{base} is no Sandstone admin API ({what}): name the right address with --admin or \
         --config"
    )]
    Foreign { base: String, what: String },
    /// The server does not take the token.
    #[error(
        "the server does not take this token: name its configuration with --config, or give the \
         text of its admin.token file with --token"
    )]
    Unauthorized,
    /// The server refused; the message holds its hint.
    #[error("{message}")]
    Refused { status: u16, message: String },
    /// The server refused because clients use the volume; these.
    #[error(
        "{message} ({}): detach it there, or repeat with --force to cut off its clients",
        .holders.join(", ")
    )]
    InUse { message: String, holders: Vec<String> },
}

impl AdminClient {
    /// A client of that server. It connects when it is asked for something.
    ///
    /// # Errors
    /// [`ClientError::Runtime`].
    pub(crate) fn new(server: AdminAddress, token: Token) -> Result<AdminClient, ClientError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
        Ok(AdminClient { runtime, server, token })
    }

    /// GET: the data of the answer.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, String::new())
    }

    /// POST of a request.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, body(request))
    }

    /// PATCH with a request.
    pub(crate) fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::PATCH, path, body(request))
    }

    /// DELETE.
    pub(crate) fn delete(&self, path: &str) -> Result<Deleted, ClientError> {
        self.call(Method::DELETE, path, String::new())
    }

    /// An answer that is not what a Sandstone server says.
    fn foreign(&self, what: impl fmt::Display) -> ClientError {
        ClientError::Foreign { base: self.server.to_string(), what: what.to_string() }
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<T, ClientError> {
        let (host, prefix) = match &self.server {
            AdminAddress::Unix(..) => ("localhost", ""),
            AdminAddress::Http { authority, prefix } => (authority.as_str(), prefix.as_str()),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{prefix}/api/v1{path}"))
            .header(HOST, host)
            .header(AUTHORIZATION, format!("Bearer {}", self.token.reveal()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(|error| self.foreign(error))?;
        let (status, answer) = self.runtime.block_on(self.exchange(request))?;
        let answer: Envelope<T> = serde_json::from_slice(&answer)
            .map_err(|error| self.foreign(format_args!("status {status}, {error}")))?;
        let Some(answer) = answer.into_result() else {
            return Err(self.foreign(format_args!("status {status}")));
        };
        answer.map_err(|Failure { message, details, .. }| {
            let details = details.as_deref();
            if status == StatusCode::UNAUTHORIZED {
                ClientError::Unauthorized
            } else if let Some(holders) = details.and_then(Details::holders) {
                // Its hint is in HTTP's words; a command has its own.
                ClientError::InUse { message, holders }
            } else {
                let message = match details.and_then(Details::hint) {
                    Some(hint) => format!("{message}: {hint}"),
                    None => message,
                };
                ClientError::Refused { status: status.as_u16(), message }
            }
        })
    }
}

fn body(request: &impl Serialize) -> String {
    serde_json::to_string(request).expect("a request has a JSON form")
}

impl AdminClient {
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let unreachable =
            |source| ClientError::Unreachable { base: self.server.to_string(), source };
        let limit = Duration::from_secs(CONNECT_SECS_MAX);
        let late = |_elapsed| unreachable(io::ErrorKind::TimedOut.into());
        let answer = match &self.server {
            AdminAddress::Unix(path, found) => {
                let stream = timeout(limit, UnixStream::connect(path)).await.map_err(late)?;
                let stream = stream.map_err(unreachable)?;
                if *found == Found::Configured {
                    self.check_peer(path, &stream)?;
                }
                ask(stream, request).await
            }
            AdminAddress::Http { authority, .. } => {
                let stream =
                    timeout(limit, TcpStream::connect(authority.as_str())).await.map_err(late)?;
                ask(stream.map_err(unreachable)?, request).await
            }
        };
        answer.map_err(unreachable)
    }

    fn check_peer(&self, path: &Path, stream: &UnixStream) -> Result<(), ClientError> {
        let peer = stream.peer_cred();
        let user = peer
            .map_err(|source| ClientError::Unreachable { base: self.server.to_string(), source })?
            .uid();
        if trust::is_trusted(user) {
            Ok(())
        } else {
            Err(ClientError::Untrusted { path: path.to_owned(), user })
        }
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<(StatusCode, Bytes)> {
    let answer = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its failure is the request's too.
        let driven = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        driven.abort();
        Ok::<_, hyper::Error>((status, body))
    };
    let answer = timeout(Duration::from_secs(ANSWER_SECS_MAX), answer).await;
    answer.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_url_a_host_or_a_socket() {
        let http = |authority: &str, prefix: &str| {
            Some(AdminAddress::Http { authority: authority.to_owned(), prefix: prefix.to_owned() })
        };
        let unix = |path: &str| Some(AdminAddress::Unix(path.into(), Found::Named));
        for (text, address) in [
            ("http://127.0.0.1:8810", http("127.0.0.1:8810", "")),
            ("127.0.0.1:8810", http("127.0.0.1:8810", "")),
            ("http://[::1]:1/", http("[::1]:1", "")),
            ("http://host/a/b/", http("host:80", "/a/b")),
            ("unix:admin.sock", unix("admin.sock")),
            ("/srv/admin.sock", unix("/srv/admin.sock")),
            ("./admin.sock", unix("./admin.sock")),
            ("https://host", None),
            ("http://", None),
            ("", None),
        ] {
            assert_eq!(AdminAddress::parse(text), address, "{text}");
        }
    }

    #[test]
    fn only_a_server_of_a_trusted_user_is_taken_for_one_that_was_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let address = AdminAddress::Unix(path.clone(), Found::Configured);
        let client = AdminClient::new(address, Token::given("0123456789abcdef".into())).unwrap();
        let stream = client.runtime.block_on(UnixStream::connect(&path)).unwrap();
        client.check_peer(&path, &stream).unwrap();
        let error = ClientError::Untrusted { path, user: 7 }.to_string();
        assert!(error.contains("user 7") && error.contains("gets no token"), "{error}");
    }
}
