//! Anthropic Messages.

pub mod request;
pub mod stream;
pub mod usage;
