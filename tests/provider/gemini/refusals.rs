//! Refusals in Google's shape and words.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::refusal::Refusal;

const INVALID: &str = "INVALID_ARGUMENT";

pub fn refusal(refusal: &Refusal) -> Response {
    let (code, status, message) = words(refusal);
    let body = Json(json!({"error": {"code": code, "message": message, "status": status}}));
    (StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body).into_response()
}

fn words(refusal: &Refusal) -> (u16, &'static str, String) {
    match refusal {
        Refusal::NoKey => (403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers. Please use API Key.".to_owned()),
        Refusal::WrongKey => (400, INVALID, "API key not valid. Please pass a valid API key.".to_owned()),
        Refusal::TooLarge => (400, INVALID, "Request payload size exceeds the limit: 20971520 bytes.".to_owned()),
        Refusal::NotJson(problem) => (400, INVALID, format!("Invalid JSON payload received. {problem}")),
        Refusal::Missing(field) => (400, INVALID, format!("* GenerateContentRequest.{field}: {field} is not specified")),
        Refusal::WrongType { field, expected } => (400, INVALID, format!("Invalid value at '{field}', expected {expected}")),
        Refusal::BelowLeast { field, got, .. } | Refusal::AboveMost { field, got, .. } => {
            (400, INVALID, format!("Unable to submit request because {field} has the value {got}, which is out of range"))
        }
        Refusal::NotOneOf { field, got, .. } => (400, INVALID, format!("Invalid value at '{field}', \"{got}\"")),
        Refusal::UnknownModel(model) => (404, "NOT_FOUND", format!("models/{model} is not found for API version v1beta.")),
        Refusal::OutputTooLong { field, got, most, .. } => (
            400,
            INVALID,
            format!("Unable to submit request because it has a {field} value of {got} but the supported range is from 1 to {most}"),
        ),
        Refusal::PromptTooLong { tokens, most } => {
            (400, INVALID, format!("The input token count ({tokens}) exceeds the maximum number of tokens allowed ({most})."))
        }
        Refusal::NotFound(what) => (404, "NOT_FOUND", format!("Requested entity was not found: {what}")),
        Refusal::RateLimited => (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.".to_owned()),
        Refusal::Overloaded => (503, "UNAVAILABLE", "The model is overloaded. Please try again later.".to_owned()),
        // A missing version is a problem of another protocol.
        Refusal::NoVersion | Refusal::ServerError => (500, "INTERNAL", "An internal error has occurred.".to_owned()),
    }
}
