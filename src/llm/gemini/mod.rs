//! Google's formats: Gemini's `generateContent` and its embeddings, on Google AI and on Vertex AI.

pub mod array;
pub mod embed;
pub mod generate;
pub mod stream;
pub mod usage;
