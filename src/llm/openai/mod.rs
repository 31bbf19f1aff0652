//! OpenAI's formats: Chat Completions, Responses, the legacy Completions, and Embeddings.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod responses;
pub mod stream;
pub mod usage;
