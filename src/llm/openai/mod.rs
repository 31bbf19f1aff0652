//! OpenAI's formats: Chat Completions, Responses, the legacy Completions, and Embeddings; and what answers about media say of use.

pub mod chat;
pub mod completions;
pub mod embeddings;
mod items;
pub mod media;
pub mod responses;
mod responses_usage;
pub mod stream;
pub mod usage;

#[cfg(test)]
mod tests;
