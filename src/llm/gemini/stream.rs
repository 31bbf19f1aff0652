//! Not read yet.
use crate::llm::stream::EventReader;

pub fn reader() -> Box<dyn EventReader> {
    crate::llm::openai::stream::chat_reader()
}
