//! Refusals in Bedrock's shape: the exception in a header, its words in the body.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::refusal::Refusal;

pub fn refusal(refusal: &Refusal, id: &str) -> Response {
    let (status, exception, message) = words(refusal);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = [("x-amzn-errortype", exception.to_owned()), ("x-amzn-requestid", id.to_owned())];
    (status, headers, Json(json!({"message": message}))).into_response()
}

fn words(refusal: &Refusal) -> (u16, &'static str, String) {
    let invalid = |message: String| (400, "ValidationException", message);
    match refusal {
        Refusal::NoKey => (403, "MissingAuthenticationTokenException", "Missing Authentication Token".to_owned()),
        Refusal::WrongKey => (403, "UnrecognizedClientException", "The security token included in the request is invalid.".to_owned()),
        Refusal::NoVersion => invalid("anthropic_version: Field required".to_owned()),
        Refusal::TooLarge => invalid("Member must have length less than or equal to 25000000".to_owned()),
        Refusal::NotJson(problem) => invalid(format!("Malformed input request: {problem}, please reformat your input and try again.")),
        Refusal::Missing(field) => invalid(format!("Malformed input request: #: required key [{field}] not found")),
        Refusal::WrongType { field, expected } => invalid(format!("Malformed input request: #/{field}: expected type: {expected}")),
        Refusal::BelowLeast { field, least, got } => invalid(format!("{field}: {got} is less than {least}")),
        Refusal::AboveMost { field, most, got } => invalid(format!("{field}: {got} is more than {most}")),
        Refusal::NotOneOf { field, got, allowed } => invalid(format!("{field}: {got} is not one of {allowed:?}")),
        Refusal::UnknownModel(_) => invalid("The provided model identifier is invalid.".to_owned()),
        Refusal::OutputTooLong { most, .. } => invalid(format!(
            "The maximum tokens you requested exceeds the model limit of {most}. Try again with a maximum tokens value that is lower than {most}."
        )),
        Refusal::PromptTooLong { .. } => invalid("Input is too long for requested model.".to_owned()),
        Refusal::NotFound(_) => (404, "UnknownOperationException", String::new()),
        Refusal::RateLimited => (429, "ThrottlingException", "Too many requests, please wait before trying again.".to_owned()),
        Refusal::ServerError => (500, "InternalServerException", "The system encountered an unexpected error.".to_owned()),
        Refusal::Overloaded => (503, "ServiceUnavailableException", "Bedrock is unable to process your request.".to_owned()),
    }
}
