//! Refusals in Anthropic's shape and words.

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::refusal::Refusal;

const INVALID: &str = "invalid_request_error";

pub fn refusal(refusal: &Refusal, id: &str) -> Response {
    let (status, kind, message) = words(refusal);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let id = format!("req_{id}");
    let body = Json(json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": id}));
    let mut response = (status, [("request-id", id)], body).into_response();
    if *refusal == Refusal::RateLimited {
        response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
    }
    response
}

fn words(refusal: &Refusal) -> (u16, &'static str, String) {
    match refusal {
        Refusal::NoKey => (401, "authentication_error", "x-api-key header is required".to_owned()),
        Refusal::WrongKey => (401, "authentication_error", "invalid x-api-key".to_owned()),
        Refusal::NoVersion => (400, INVALID, "anthropic-version: header is required".to_owned()),
        Refusal::TooLarge => (413, "request_too_large", "Request exceeds the maximum size".to_owned()),
        Refusal::NotJson(problem) => (400, INVALID, format!("The request body is not valid JSON: {problem}")),
        Refusal::Missing(field) => (400, INVALID, format!("{}: Field required", dotted(field))),
        Refusal::WrongType { field, expected } => {
            let kind = match *expected {
                "a boolean" => "boolean",
                "an integer" => "integer",
                "an array" => "list",
                _ => "string",
            };
            (400, INVALID, format!("{}: Input should be a valid {kind}", dotted(field)))
        }
        Refusal::BelowLeast { field, least, .. } => {
            (400, INVALID, format!("{}: Input should be greater than or equal to {least}", dotted(field)))
        }
        Refusal::AboveMost { field, most, .. } => {
            (400, INVALID, format!("{}: Input should be less than or equal to {most}", dotted(field)))
        }
        Refusal::NotOneOf { field, allowed, .. } => {
            let allowed: Vec<_> = allowed.iter().map(|value| format!("'{value}'")).collect();
            (400, INVALID, format!("{}: Input should be {}", dotted(field), allowed.join(" or ")))
        }
        Refusal::UnknownModel(model) => (404, "not_found_error", format!("model: {model}")),
        Refusal::OutputTooLong { field, got, most, model } => {
            (400, INVALID, format!("{field}: {got} > {most}, which is the maximum allowed number of output tokens for {model}"))
        }
        Refusal::PromptTooLong { tokens, most } => (400, INVALID, format!("prompt is too long: {tokens} tokens > {most} maximum")),
        Refusal::NotFound(_) => (404, "not_found_error", "Not found".to_owned()),
        Refusal::RateLimited => {
            (429, "rate_limit_error", "This request would exceed your organization's rate limit of 50 requests per minute.".to_owned())
        }
        Refusal::ServerError => (500, "api_error", "Internal server error".to_owned()),
        Refusal::Overloaded => (529, "overloaded_error", "Overloaded".to_owned()),
    }
}

/// `messages[0].role` as this protocol writes it: `messages.0.role`.
fn dotted(field: &str) -> String {
    field.replace('[', ".").replace(']', "")
}
