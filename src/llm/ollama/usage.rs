//! Not read yet.
use crate::llm::stream::EventReader;
use crate::llm::usage::ReportedUsage;

pub fn of_body(_: &[u8]) -> Option<ReportedUsage> {
    None
}

pub fn reader() -> Box<dyn EventReader> {
    crate::llm::openai::stream::chat_reader()
}
