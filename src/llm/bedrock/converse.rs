//! Not read yet.
use crate::llm::address::Addressed;
use crate::llm::request::{Facts, RequestError};
use crate::llm::stream::EventReader;
use crate::llm::usage::ReportedUsage;

pub fn facts(_: &Addressed, _: &str) -> Result<Facts, RequestError> {
    Err(RequestError::Malformed("this format is not read yet".to_owned()))
}

pub fn usage(_: &[u8]) -> Option<ReportedUsage> {
    None
}

pub fn reader() -> Box<dyn EventReader> {
    crate::llm::openai::stream::chat_reader()
}
