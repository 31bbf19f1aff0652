//! Not read yet.
use crate::llm::address::Addressed;
use crate::llm::request::{Facts, RequestError};

pub fn chat(_: &Addressed, _: &str) -> Result<Facts, RequestError> {
    Err(RequestError::Malformed("this format is not read yet".to_owned()))
}

pub fn generate(_: &Addressed, _: &str) -> Result<Facts, RequestError> {
    Err(RequestError::Malformed("this format is not read yet".to_owned()))
}

pub fn embed(_: &Addressed, _: &str) -> Result<Facts, RequestError> {
    Err(RequestError::Malformed("this format is not read yet".to_owned()))
}
