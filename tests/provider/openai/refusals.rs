//! Refusals in OpenAI's shape and words.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::refusal::Refusal;

const INVALID: &str = "invalid_request_error";

pub fn refusal(refusal: &Refusal, id: &str) -> Response {
    let Words { status, message, kind, param, code } = words(refusal);
    let body = Json(json!({"error": {"message": message, "type": kind, "param": param, "code": code}}));
    let mut response = (status, [("x-request-id", format!("req_{id}"))], body).into_response();
    if *refusal == Refusal::RateLimited {
        response.headers_mut().insert("retry-after", http::HeaderValue::from_static("1"));
    }
    response
}

struct Words<'a> {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

fn words(refusal: &Refusal) -> Words<'_> {
    let invalid = |status, message, param, code| Words { status, message, kind: INVALID, param, code };
    let bad = |message, param, code| invalid(StatusCode::BAD_REQUEST, message, Some(param), Some(code));
    match refusal {
        Refusal::NoKey => invalid(
            StatusCode::UNAUTHORIZED,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. \
             Authorization: Bearer YOUR_KEY)."
                .to_owned(),
            None,
            None,
        ),
        // The real one repeats the ends of the key; this one never repeats any of it.
        Refusal::WrongKey => invalid(
            StatusCode::UNAUTHORIZED,
            "Incorrect API key provided: ********. You can find your API key at https://platform.openai.com/account/api-keys.".to_owned(),
            None,
            Some("invalid_api_key"),
        ),
        Refusal::TooLarge => invalid(StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large.".to_owned(), None, None),
        Refusal::NotJson(problem) => {
            invalid(StatusCode::BAD_REQUEST, format!("We could not parse the JSON body of your request: {problem}"), None, None)
        }
        Refusal::Missing(field) if field == "model" => {
            invalid(StatusCode::BAD_REQUEST, "you must provide a model parameter".to_owned(), None, None)
        }
        Refusal::Missing(field) => bad(format!("Missing required parameter: '{field}'."), field, "missing_required_parameter"),
        Refusal::WrongType { field, expected } => {
            bad(format!("Invalid type for '{field}': expected {expected}, but got something else instead."), field, "invalid_type")
        }
        Refusal::BelowLeast { field, least, got } => bad(
            format!("Invalid '{field}': integer below minimum value. Expected a value >= {least}, but got {got} instead."),
            field,
            "integer_below_min_value",
        ),
        Refusal::AboveMost { field, most, got } => bad(
            format!("Invalid '{field}': integer above maximum value. Expected a value <= {most}, but got {got} instead."),
            field,
            "integer_above_max_value",
        ),
        Refusal::NotOneOf { field, got, allowed } => {
            let allowed: Vec<_> = allowed.iter().map(|value| format!("'{value}'")).collect();
            bad(format!("Invalid value: '{got}'. Supported values are: {}.", allowed.join(", ")), field, "invalid_value")
        }
        Refusal::UnknownModel(model) => invalid(
            StatusCode::NOT_FOUND,
            format!("The model `{model}` does not exist or you do not have access to it."),
            None,
            Some("model_not_found"),
        ),
        Refusal::OutputTooLong { field, got, most, .. } => bad(
            format!("{field} is too large: {got}. This model supports at most {most} completion tokens, whereas you provided {got}."),
            field,
            "invalid_value",
        ),
        Refusal::PromptTooLong { tokens, most } => bad(
            format!("Input tokens exceed the configured limit of {most} tokens. Your messages resulted in {tokens} tokens."),
            "messages",
            "context_length_exceeded",
        ),
        Refusal::NotFound(what) => invalid(StatusCode::NOT_FOUND, format!("Invalid URL ({what})"), None, None),
        Refusal::RateLimited => Words {
            status: StatusCode::TOO_MANY_REQUESTS,
            message: "Rate limit reached on requests per min (RPM): Limit 500, Used 500, Requested 1. Please try again in 1s.".to_owned(),
            kind: "requests",
            param: None,
            code: Some("rate_limit_exceeded"),
        },
        Refusal::Overloaded => Words {
            status: overloaded(),
            message: "The engine is currently overloaded, please try again later".to_owned(),
            kind: "service_unavailable",
            param: None,
            code: Some("engine_overloaded"),
        },
        // A missing version is a problem of the other protocol.
        Refusal::NoVersion | Refusal::ServerError => Words {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: "The server had an error while processing your request. Sorry about that!".to_owned(),
            kind: "server_error",
            param: None,
            code: None,
        },
    }
}

/// 529 is Anthropic's; the fault is named by its number, so it has that number here too.
fn overloaded() -> StatusCode {
    StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}
