//! Errors in the provider's own shape, so that an SDK shows their message.

use bytes::Bytes;
use serde_json::{Value, json};

use super::format::format;
use crate::core::policy::Protocol;

/// Why Spendkeeper itself answers instead of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The call does not fit a budget.
    BudgetExceeded,
    /// The ledger cannot be reached and a budget fails closed.
    LedgerUnavailable,
    /// No model of the route can or may answer.
    NoRoute,
    /// The model, or something that the call asks for, has no price and a budget denies such.
    Unpriced,
    /// The call's content may go nowhere.
    Sensitive,
    /// The request cannot be understood.
    InvalidRequest,
    /// The request cannot be translated into what the model's provider takes.
    Untranslatable,
    /// The request is larger than the sidecar accepts.
    TooLarge,
    /// The request took too long to arrive.
    TooSlow,
    /// The sidecar has as many calls under way as it may have.
    Busy,
    /// The provider's credential is not there.
    NoCredential,
    /// The provider cannot be reached.
    UpstreamUnreachable,
    /// The sidecar has no policy yet.
    NotReady,
}

impl ErrorKind {
    pub const ALL: [ErrorKind; 13] = [
        ErrorKind::BudgetExceeded,
        ErrorKind::LedgerUnavailable,
        ErrorKind::NoRoute,
        ErrorKind::Unpriced,
        ErrorKind::Sensitive,
        ErrorKind::InvalidRequest,
        ErrorKind::Untranslatable,
        ErrorKind::TooLarge,
        ErrorKind::TooSlow,
        ErrorKind::Busy,
        ErrorKind::NoCredential,
        ErrorKind::UpstreamUnreachable,
        ErrorKind::NotReady,
    ];

    /// HTTP status, OpenAI's error type, Anthropic's, Google's status, Amazon's exception, and our code.
    const fn row(self) -> (u16, &'static str, &'static str, &'static str, &'static str, &'static str) {
        match self {
            ErrorKind::BudgetExceeded => (
                429,
                "insufficient_quota",
                "rate_limit_error",
                "RESOURCE_EXHAUSTED",
                "ServiceQuotaExceededException",
                "spendkeeper_budget_exceeded",
            ),
            ErrorKind::LedgerUnavailable => {
                (503, "server_error", "api_error", "UNAVAILABLE", "ServiceUnavailableException", "spendkeeper_ledger_unavailable")
            }
            ErrorKind::NoRoute => {
                (404, "invalid_request_error", "not_found_error", "NOT_FOUND", "ResourceNotFoundException", "spendkeeper_no_route")
            }
            ErrorKind::Unpriced => (
                403,
                "invalid_request_error",
                "permission_error",
                "PERMISSION_DENIED",
                "AccessDeniedException",
                "spendkeeper_unpriced_model",
            ),
            ErrorKind::Sensitive => (
                403,
                "invalid_request_error",
                "permission_error",
                "PERMISSION_DENIED",
                "AccessDeniedException",
                "spendkeeper_sensitive_content",
            ),
            ErrorKind::InvalidRequest => (
                400,
                "invalid_request_error",
                "invalid_request_error",
                "INVALID_ARGUMENT",
                "ValidationException",
                "spendkeeper_invalid_request",
            ),
            ErrorKind::Untranslatable => (
                400,
                "invalid_request_error",
                "invalid_request_error",
                "INVALID_ARGUMENT",
                "ValidationException",
                "spendkeeper_untranslatable",
            ),
            ErrorKind::TooLarge => (
                413,
                "invalid_request_error",
                "request_too_large",
                "INVALID_ARGUMENT",
                "ValidationException",
                "spendkeeper_request_too_large",
            ),
            ErrorKind::TooSlow => (
                408,
                "invalid_request_error",
                "timeout_error",
                "DEADLINE_EXCEEDED",
                "ModelTimeoutException",
                "spendkeeper_request_too_slow",
            ),
            ErrorKind::Busy => (503, "server_error", "overloaded_error", "UNAVAILABLE", "ServiceUnavailableException", "spendkeeper_busy"),
            ErrorKind::NoCredential => {
                (503, "server_error", "api_error", "UNAVAILABLE", "ServiceUnavailableException", "spendkeeper_no_credential")
            }
            ErrorKind::UpstreamUnreachable => {
                (502, "server_error", "api_error", "UNAVAILABLE", "ServiceUnavailableException", "spendkeeper_upstream_unreachable")
            }
            ErrorKind::NotReady => {
                (503, "server_error", "api_error", "UNAVAILABLE", "ServiceUnavailableException", "spendkeeper_not_ready")
            }
        }
    }

    pub fn status(self) -> u16 {
        self.row().0
    }

    /// The stable name of this refusal, for callers' code and for metrics.
    pub fn code(self) -> &'static str {
        self.row().5
    }
}

/// An error answer in a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorAnswer {
    pub status: u16,
    /// Headers by which the format's SDKs know the error.
    pub header: Option<(&'static str, &'static str)>,
    pub body: Bytes,
}

/// An error in the shape of a format.
pub fn error_answer(protocol: Protocol, kind: ErrorKind, message: &str) -> ErrorAnswer {
    let body = Bytes::from((format(protocol).error)(kind, message).to_string());
    let header = match protocol {
        Protocol::BedrockConverse | Protocol::BedrockInvoke => Some(("x-amzn-errortype", kind.row().4)),
        _ => None,
    };
    let status = if header.is_some() { amazon_status(kind) } else { kind.status() };
    ErrorAnswer { status, header, body }
}

/// The status of Amazon's exception. Its SDKs read no header that tells them not to try again; they go by the exception and the status,
/// and try any 429 again. A quota that is used up is a 400 there, which they leave alone.
fn amazon_status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::BudgetExceeded => 400,
        _ => kind.status(),
    }
}

pub fn openai(kind: ErrorKind, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind.row().1, "param": null, "code": kind.code()}})
}

pub fn anthropic(kind: ErrorKind, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind.row().2, "message": message}})
}

pub fn google(kind: ErrorKind, message: &str) -> Value {
    let reason = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": kind.code(), "domain": "spendkeeper.dev"});
    json!({"error": {"code": kind.status(), "message": message, "status": kind.row().3, "details": [reason]}})
}

pub fn amazon(_: ErrorKind, message: &str) -> Value {
    json!({"message": message})
}

pub fn ollama(_: ErrorKind, message: &str) -> Value {
    json!({"error": message})
}
