//! Google's formats: Gemini's `generateContent` and its embeddings, on Google AI and on Vertex AI.
//!
//! Google's parser takes every name in camelCase and in snake_case, and a list's only element without the list; so does this one.
//! What is said twice, under one name or two, is refused: which of both holds is the provider's secret.

pub mod array;
pub mod embed;
pub mod generate;
mod parts;
pub mod stream;
pub mod usage;

#[cfg(test)]
mod tests;
