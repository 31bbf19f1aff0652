//! Not read yet.
use crate::llm::address::Addressed;
use crate::llm::request::{Facts, RequestError};

pub fn facts(_: &Addressed, _: &str) -> Result<Facts, RequestError> {
    Err(RequestError::Malformed("this format is not read yet".to_owned()))
}
