//! Wire formats, one folder a maker: what a request asks for, what an answer used, what an error looks like, and how one format
//! becomes another.
//!
//! Nothing here decides or does I/O. Bodies are parsed once, in place: texts borrow from the body, and a change to a
//! request is spliced into its bytes so that everything else stays as the caller wrote it.
//!
//! | file | what it says of every format |
//! |---|---|
//! | [`address`] | the paths by which callers and providers name it |
//! | [`format`] | the table: who reads its requests, answers, streams and errors |
//! | [`request`], [`rewrite`] | what a request asks for, and how it is changed |
//! | [`usage`], [`stream`], [`framing`] | what an answer used, whole or streamed |
//! | [`error`] | what a refusal looks like |
//! | [`object`] | objects of which every member must be seen |
//! | [`words`] | a closer bound on input, where the tokenizer is public |
//! | [`passing`] | what is passed on without being known |
//! | [`translate`] | from one format to another and back |

pub mod address;
pub mod anthropic;
pub mod bedrock;
pub mod content;
pub mod error;
pub mod format;
pub mod framing;
pub mod gemini;
pub mod object;
pub mod ollama;
pub mod openai;
pub mod passing;
pub mod pieces;
pub mod request;
pub mod rewrite;
pub mod split;
pub mod sse;
pub mod stream;
pub mod transcript;
pub mod translate;
pub mod usage;
pub mod words;

#[cfg(test)]
mod tests;

pub use address::Addressed;
pub use error::{ErrorAnswer, ErrorKind, error_answer};
pub use framing::Framing;
pub use pieces::Pieces;
pub use request::{Request, RequestError, parse};
pub use rewrite::Rewrite;
pub use stream::{StreamEnd, StreamMeter};
pub use usage::{ReportedUsage, tier_of_headers, usage_of_body, usage_of_headers};
