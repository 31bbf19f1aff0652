//! Ollama's own API.

pub mod request;
pub mod usage;
