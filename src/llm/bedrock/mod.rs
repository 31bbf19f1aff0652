//! Amazon Bedrock's formats: Converse and InvokeModel, their event streams, and the signature of a request.

pub mod converse;
pub mod eventstream;
pub mod invoke;
