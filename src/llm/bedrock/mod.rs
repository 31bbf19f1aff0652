//! Amazon Bedrock's formats: Converse and InvokeModel, and the frames of their streams.

pub mod converse;
pub mod eventstream;
pub mod invoke;
mod maker;
mod members;
mod stream;
#[cfg(test)]
mod tests;
pub mod usage;
