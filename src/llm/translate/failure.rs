//! A provider's error in the words of its caller's format; its status stays, and the provider's own name for it goes into `code`.

use serde_json::Value;

use super::json::{Json, object};
use crate::core::policy::Protocol;

/// As much of an error's text as is passed on.
const LONGEST_MESSAGE: usize = 4096;

/// An error of a provider's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    /// The provider's own name for it.
    name: Option<String>,
    /// HTTP's status for it.
    status: u16,
}

/// Status, OpenAI's type, Anthropic's type; the last row is for every other.
const TYPES: [(u16, &str, &str); 11] = [
    (400, "invalid_request_error", "invalid_request_error"),
    (401, "authentication_error", "authentication_error"),
    (402, "insufficient_quota", "billing_error"),
    (403, "permission_error", "permission_error"),
    (404, "not_found_error", "not_found_error"),
    (408, "invalid_request_error", "timeout_error"),
    (413, "invalid_request_error", "request_too_large"),
    (429, "rate_limit_error", "rate_limit_error"),
    (504, "server_error", "timeout_error"),
    (529, "server_error", "overloaded_error"),
    (500, "server_error", "api_error"),
];

/// Statuses of errors that come within a stream, where only their names are known.
const NAMES: [(&str, u16); 33] = [
    // Anthropic
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("timeout_error", 504),
    ("overloaded_error", 529),
    ("api_error", 500),
    // OpenAI
    ("invalid_api_key", 401),
    ("insufficient_quota", 429),
    ("rate_limit_exceeded", 429),
    ("tokens", 429),
    ("requests", 429),
    ("context_length_exceeded", 400),
    ("model_not_found", 404),
    ("server_error", 500),
    // Google
    ("INVALID_ARGUMENT", 400),
    ("FAILED_PRECONDITION", 400),
    ("UNAUTHENTICATED", 401),
    ("PERMISSION_DENIED", 403),
    ("NOT_FOUND", 404),
    ("RESOURCE_EXHAUSTED", 429),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 529),
    ("DEADLINE_EXCEEDED", 504),
    // Amazon
    ("validationException", 400),
    ("throttlingException", 429),
    ("serviceUnavailableException", 529),
    ("modelTimeoutException", 504),
    ("modelStreamErrorException", 500),
    ("internalServerException", 500),
];

impl Failure {
    /// A stream that ended before its end.
    pub fn broken_off() -> Failure {
        Failure { message: "the provider's answer broke off before its end".to_owned(), name: None, status: 500 }
    }

    /// An event of a stream that has not the form of its format: who passed over it would lose what it says.
    pub fn unreadable() -> Failure {
        Failure::of("the provider sent an event that cannot be read")
    }

    /// Our own, in the midst of a stream.
    pub fn of(message: &str) -> Failure {
        Failure { message: message.to_owned(), name: None, status: 500 }
    }

    /// An error answer's body.
    pub fn of_answer(upstream: Protocol, status: u16, body: &[u8]) -> Failure {
        let read = serde_json::from_slice::<Value>(body).ok().and_then(|value| Failure::read(upstream, &value));
        let unread = || {
            let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_MESSAGE)]).trim().to_owned();
            let message = if text.is_empty() { format!("the provider answered with status {status}") } else { text };
            Failure { message, name: None, status }
        };
        Failure { status, ..read.unwrap_or_else(unread) }
    }

    /// An error within a stream, if the event is one.
    pub fn of_event(upstream: Protocol, payload: &[u8]) -> Option<Failure> {
        let event = serde_json::from_slice::<Value>(payload).ok()?;
        // A body without a name is an error answer of Bedrock's, and within a stream an event that is not known yet.
        let named = upstream != Protocol::BedrockConverse || event.as_object()?.keys().any(|name| name.ends_with("Exception"));
        named.then(|| Failure::read(upstream, &event)).flatten()
    }

    fn read(upstream: Protocol, body: &Value) -> Option<Failure> {
        let (error, name) = match upstream {
            Protocol::BedrockConverse => match body.as_object()?.iter().find(|(name, _)| name.ends_with("Exception")) {
                Some((name, error)) => (error, Some(name.clone())),
                None => (body, None),
            },
            // Gemini's array of events is an array also when its one element is an error.
            Protocol::GeminiGenerate => {
                let error = body.get(0).unwrap_or(body).get("error")?;
                (error, word(error.get("status")))
            }
            Protocol::AnthropicMessages => {
                let error = body.get("error")?;
                (error, word(error.get("type")))
            }
            // Servers that are compatible write `{"error": "…"}` too, and vLLM writes the error itself.
            _ => {
                let error = body.get("error").filter(|e| !e.is_null()).or_else(|| (body.get("object")? == "error").then_some(body))?;
                (error, word(error.get("code")).or_else(|| word(error.get("type"))))
            }
        };
        let message = match error {
            Value::String(message) => Some(message.as_str()),
            error => ["message", "Message", "originalMessage"].iter().find_map(|member| error.get(member)?.as_str()),
        };
        let known = NAMES.iter().find(|(known, _)| Some(*known) == name.as_deref()).map(|(_, status)| *status);
        let code = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        let status = known.or(code).filter(|status| (400..600).contains(status)).unwrap_or(500);
        let message: String = message.unwrap_or("the provider reported an error").chars().take(LONGEST_MESSAGE).collect();
        Some(Failure { message, name, status })
    }

    fn types(&self) -> (&'static str, &'static str) {
        let (_, openai, anthropic) = match self.status {
            503 => TYPES[9],
            status => TYPES.into_iter().find(|row| row.0 == status).unwrap_or(if status < 500 { TYPES[0] } else { TYPES[10] }),
        };
        (openai, anthropic)
    }

    pub fn openai(&self) -> Json {
        let error = object()
            .with("message", self.message.as_str())
            .with("type", self.types().0)
            .with("param", Json::null())
            .with("code", self.name.as_deref().map_or_else(Json::null, Json::from));
        object().with("error", error).into()
    }

    pub fn anthropic(&self) -> Json {
        let error = object().with("type", self.types().1).with("message", self.message.as_str());
        object().with("type", "error").with("error", error).into()
    }
}

fn word(value: Option<&Value>) -> Option<String> {
    Some(value?.as_str()?.chars().take(64).collect())
}
