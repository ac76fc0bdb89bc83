//! The admin port, spoken to in plain HTTP.

use std::time::Duration;

use serde_json::{Value, json};

/// A caller of one server's admin port, with its token.
pub struct Admin {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

/// One answer: its status and its body.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`, empty where there was none.
    pub content_type: String,
    /// The `X-Request-Id`, where the server sent one.
    pub request_id: Option<String>,
    /// The body as it came.
    pub text: String,
    /// The body as JSON, `Null` where it is none.
    pub body: Value,
}

impl Answer {
    /// The `data` of a success with this status; panics on anything else.
    pub fn data(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.body["success"], json!(true), "{self:?}");
        self.body["data"].clone()
    }

    /// Insists on an error envelope of this status and code, and gives its message.
    pub fn error(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.body["success"], json!(false), "{self:?}");
        assert_eq!(self.body["error"]["code"], json!(code), "{self:?}");
        let message = self.body["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "an error without a message: {self:?}");
        message.to_owned()
    }
}

impl Admin {
    /// `base` is `http://address`; `token` goes into `Authorization`.
    pub fn new(base: String, token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .proxy(None)
            .build();
        Self { agent: config.into(), base, token }
    }

    /// The URL in front of every path.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token, as the server wrote it.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// GET of a path below the base.
    ///
    /// # Errors
    /// When there was no answer at all.
    pub fn get(&self, path: &str) -> Result<Answer, ureq::Error> {
        self.send("GET", path, None)
    }

    /// POST of a JSON body.
    ///
    /// # Errors
    /// When there was no answer at all.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer, ureq::Error> {
        self.send("POST", path, Some(body.to_string()))
    }

    /// PATCH with a JSON body.
    ///
    /// # Errors
    /// When there was no answer at all.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Answer, ureq::Error> {
        self.send("PATCH", path, Some(body.to_string()))
    }

    /// DELETE of a path below the base.
    ///
    /// # Errors
    /// When there was no answer at all.
    pub fn delete(&self, path: &str) -> Result<Answer, ureq::Error> {
        self.send("DELETE", path, None)
    }

    /// Any method with any body, well-formed or not.
    ///
    /// # Errors
    /// When there was no answer at all.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, ureq::Error> {
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("Content-Type", "application/json");
        }
        let mut response = self.agent.run(request.body(body.unwrap_or_default())?)?;
        let header =
            |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let content_type = header("content-type").unwrap_or_default();
        let request_id = header("x-request-id");
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, content_type, request_id, text, body })
    }
}
