//! The admin API from the client's side, for the commands. Blocking: a command does one thing after the other.

use crate::{show, token::Token};
use serde_json::Value;
use std::{error, fmt, time::Duration};
use ureq::{Agent, http::Method};

/// Longest wait for a connection. The server is near, as a rule on this host.
const CONNECT_SECS_MAX: u64 = 5;
/// Longest wait for an answer; a forced deletion waits for its clients the longest.
const ANSWER_SECS_MAX: u64 = 60;

/// A server's admin API.
pub(crate) struct AdminClient {
    agent: Agent,
    /// `http://host:port`, without a final slash.
    base: String,
    token: Token,
}

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// No server answers there.
    Unreachable { base: String, source: ureq::Error },
    /// Something answers, but not with what a Sandstone server says.
    Foreign { base: String, what: String },
    /// The server refused.
    Refused { status: u16, message: String, hint: Option<String> },
    /// The server refused because clients use the volume; these.
    InUse { message: String, holders: Vec<String> },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Unreachable { base, source } => write!(
                f,
                "no server answers at {base} ({source}): start one with `{} serve`, or name another with --admin or --config",
                show::own_command()
            ),
            ClientError::Foreign { base, what } => {
                write!(f, "{base} is no Sandstone admin API ({what}): name the right address with --admin or --config")
            }
            ClientError::Refused { status: 401, .. } => f.write_str(
                "the server does not take this token: name its configuration with --config, or give the text of its \
                 admin.token file with --token",
            ),
            ClientError::Refused { message, hint: None, .. } => f.write_str(message),
            ClientError::Refused { message, hint: Some(hint), .. } => write!(f, "{message}: {hint}"),
            ClientError::InUse { message, holders } => write!(
                f,
                "{message} ({}): detach it there, or repeat with --force to cut off whoever uses it",
                holders.join(", ")
            ),
        }
    }
}

impl error::Error for ClientError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            ClientError::Unreachable { source, .. } => Some(source),
            ClientError::Foreign { .. } | ClientError::Refused { .. } | ClientError::InUse { .. } => None,
        }
    }
}

impl AdminClient {
    /// A client of the server at `base`; nothing is sent yet.
    pub(crate) fn new(base: &str, token: Token) -> AdminClient {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            // A proxy of the environment is for the web, not for a server on this host.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(CONNECT_SECS_MAX)))
            .timeout_global(Some(Duration::from_secs(ANSWER_SECS_MAX)))
            .build();
        AdminClient { agent: config.new_agent(), base: base.trim_end_matches('/').to_owned(), token }
    }

    /// GET: the data of the answer.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, None)
    }

    /// POST of a JSON body.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, path, Some(body))
    }

    /// PATCH with a JSON body.
    pub(crate) fn patch(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::PATCH, path, Some(body))
    }

    /// DELETE.
    pub(crate) fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, path, None)
    }

    /// An answer that is not what a Sandstone server says.
    pub(crate) fn foreign(&self, what: impl fmt::Display) -> ClientError {
        ClientError::Foreign { base: self.base.clone(), what: what.to_string() }
    }

    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{path}", self.base))
            .header("Authorization", format!("Bearer {}", self.token.reveal()))
            .header("Content-Type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())
            .map_err(|error| self.foreign(error))?;
        let unreachable = |source| ClientError::Unreachable { base: self.base.clone(), source };
        let mut response = self.agent.run(request).map_err(unreachable)?;
        let status = response.status();
        let answer: Value = response
            .body_mut()
            .read_json()
            .map_err(|error| self.foreign(format_args!("status {status}, {error}")))?;
        if answer["success"] == true {
            return Ok(answer["data"].clone());
        }
        let error = &answer["error"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let Some(message) = text(&error["message"]) else {
            return Err(self.foreign(format_args!("status {status}")));
        };
        match holders(&error["details"]) {
            // Its hint is in HTTP's words; a command has its own.
            Some(holders) => Err(ClientError::InUse { message, holders }),
            None => {
                let hint = text(&error["details"]["hint"]);
                Err(ClientError::Refused { status: status.as_u16(), message, hint })
            }
        }
    }
}

/// Who uses the volume, where that is why the server refused.
fn holders(details: &Value) -> Option<Vec<String>> {
    let mounts = details["mounts"].as_array()?;
    Some(mounts.iter().filter_map(|mount| mount["holder"].as_str()).map(str::to_owned).collect())
}
