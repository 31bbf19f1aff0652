//! OpenAI Chat Completions.

pub mod request;
pub mod stream;
pub mod usage;
