//! The command line.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

/// A simulated LLM provider (of OpenAI's formats, Anthropic's, Google's, Amazon's and Ollama's) that keeps its own bill, or a vector store.
#[derive(Parser, Debug)]
pub struct Args {
    /// Address to listen at.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// What to simulate.
    #[arg(long, value_enum, default_value = "provider")]
    pub mode: Mode,
    /// The only key that OpenAI's endpoints accept; without it, any call passes.
    #[arg(long, value_name = "KEY")]
    pub openai_key: Option<String>,
    /// The only key that Anthropic's endpoints accept; without it, any call passes.
    #[arg(long, value_name = "KEY")]
    pub anthropic_key: Option<String>,
    /// The only key, or access token, that Google's endpoints accept; without it, any call passes.
    #[arg(long, value_name = "KEY")]
    pub google_key: Option<String>,
    /// The only API key that Bedrock's endpoints accept, and the only access key's identifier in a signature (which is not verified);
    /// without it, any call passes.
    #[arg(long, value_name = "KEY")]
    pub bedrock_key: Option<String>,
    /// Milliseconds until the first token of an answer.
    #[arg(long, default_value_t = 40)]
    pub first_token_ms: u64,
    /// Tokens that one answer generates in a second.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub tokens_per_second: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    Provider,
    VectorStore,
}
