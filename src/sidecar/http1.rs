//! What both sides of the sidecar have in common over HTTP/1.1 (RFC 9112): how bodies are delimited, what headers say of connections, and
//! what is read into.
//!
//! Both sides are our own, and `docs/decisions/0026` says why: [`caller`](super::caller) and [`upstream`](super::upstream).

pub mod buffer;
pub mod fields;
pub mod framing;

/// The largest head of a message, those of interim answers before it included.
pub const HEAD_LIMIT: usize = 64 << 10;
/// Most headers of a message.
pub const HEADERS: usize = 128;
