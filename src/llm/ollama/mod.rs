//! Ollama's own API. Its streams are one JSON object a line; tokens are only counted in the last.

pub mod request;
pub mod usage;

#[cfg(test)]
mod tests;
