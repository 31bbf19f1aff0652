//! Errors in the provider's own shape, so that an SDK shows their message.

use bytes::Bytes;
use serde_json::json;

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
    /// The model has no price and a budget denies such.
    Unpriced,
    /// The call's content may go nowhere.
    Sensitive,
    /// The request cannot be understood.
    InvalidRequest,
    /// The request is larger than the sidecar accepts.
    TooLarge,
    /// The provider's credential is not there.
    NoCredential,
    /// The provider cannot be reached.
    UpstreamUnreachable,
    /// The sidecar has no policy yet.
    NotReady,
}

impl ErrorKind {
    /// HTTP status, OpenAI's error type, Anthropic's error type, and our code.
    const fn row(self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            ErrorKind::BudgetExceeded => (429, "insufficient_quota", "rate_limit_error", "spendkeeper_budget_exceeded"),
            ErrorKind::LedgerUnavailable => (503, "server_error", "api_error", "spendkeeper_ledger_unavailable"),
            ErrorKind::NoRoute => (404, "invalid_request_error", "not_found_error", "spendkeeper_no_route"),
            ErrorKind::Unpriced => (403, "invalid_request_error", "permission_error", "spendkeeper_unpriced_model"),
            ErrorKind::Sensitive => (403, "invalid_request_error", "permission_error", "spendkeeper_sensitive_content"),
            ErrorKind::InvalidRequest => (400, "invalid_request_error", "invalid_request_error", "spendkeeper_invalid_request"),
            ErrorKind::TooLarge => (413, "invalid_request_error", "request_too_large", "spendkeeper_request_too_large"),
            ErrorKind::NoCredential => (503, "server_error", "api_error", "spendkeeper_no_credential"),
            ErrorKind::UpstreamUnreachable => (502, "server_error", "api_error", "spendkeeper_upstream_unreachable"),
            ErrorKind::NotReady => (503, "server_error", "api_error", "spendkeeper_not_ready"),
        }
    }

    pub fn status(self) -> u16 {
        self.row().0
    }

    /// The stable name of this refusal, for callers' code and for metrics.
    pub fn code(self) -> &'static str {
        self.row().3
    }
}

/// The body of an error answer.
pub fn error_response(protocol: Protocol, kind: ErrorKind, message: &str) -> Bytes {
    let (_, openai, anthropic, code) = kind.row();
    let body = match protocol {
        Protocol::OpenAIChat => json!({"error": {"message": message, "type": openai, "param": null, "code": code}}),
        Protocol::AnthropicMessages => json!({"type": "error", "error": {"type": anthropic, "message": message}}),
    };
    Bytes::from(body.to_string())
}
