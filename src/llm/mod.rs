//! Wire formats, one folder a protocol: what a request asks for, what an answer used, what an error looks like.
//!
//! Nothing here decides or does I/O. Bodies are parsed once, in place: texts borrow from the body, and a change to a
//! request is spliced into its bytes so that everything else stays as the caller wrote it.

pub mod anthropic;
pub mod content;
pub mod error;
pub mod openai;
pub mod request;
pub mod rewrite;
pub mod sse;
pub mod stream;
pub mod usage;

#[cfg(test)]
mod tests;

pub use error::{ErrorKind, error_response};
pub use request::{Request, RequestError, parse};
pub use rewrite::Rewrite;
pub use stream::{StreamEnd, StreamMeter};
pub use usage::{ReportedUsage, usage_of_body};
