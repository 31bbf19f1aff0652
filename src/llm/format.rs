//! The table of wire formats: who reads what of each.

use serde_json::Value;

use super::address::Addressed;
use super::error::ErrorKind;
use super::request::{Facts, RequestError};
use super::stream::EventReader;
use super::usage::ReportedUsage;
use super::{anthropic, bedrock, error, gemini, ollama, openai};
use crate::core::policy::Protocol;

/// What Spendkeeper must know of a format.
pub struct Format {
    /// What a request asks for, from its path and its body.
    pub facts: fn(&Addressed, &str) -> Result<Facts, RequestError>,
    /// What an answer in one piece says it used; `None` when it does not say, which is not the same as zero.
    pub usage: fn(&[u8]) -> Option<ReportedUsage>,
    /// A reader of a streamed answer.
    pub reader: fn() -> Box<dyn EventReader>,
    /// The body of an error answer.
    pub error: fn(ErrorKind, &str) -> Value,
}

/// The row of a format.
pub fn format(protocol: Protocol) -> &'static Format {
    match protocol {
        Protocol::OpenAIChat => {
            &Format { facts: openai::chat::facts, usage: openai::usage::of_chat, reader: openai::stream::chat_reader, error: error::openai }
        }
        Protocol::OpenAIResponses => &Format {
            facts: openai::responses::facts,
            usage: openai::responses::usage,
            reader: openai::responses::reader,
            error: error::openai,
        },
        Protocol::OpenAICompletions => &Format {
            facts: openai::completions::facts,
            usage: openai::usage::of_chat,
            reader: openai::stream::chat_reader,
            error: error::openai,
        },
        Protocol::OpenAIEmbeddings => &Format {
            facts: openai::embeddings::facts,
            usage: openai::usage::of_chat,
            reader: openai::stream::chat_reader,
            error: error::openai,
        },
        Protocol::AnthropicMessages => &Format {
            facts: anthropic::request::facts,
            usage: anthropic::usage::of_body,
            reader: anthropic::stream::reader,
            error: error::anthropic,
        },
        Protocol::GeminiGenerate => {
            &Format { facts: gemini::generate::facts, usage: gemini::usage::of_body, reader: gemini::stream::reader, error: error::google }
        }
        Protocol::GeminiEmbed => {
            &Format { facts: gemini::embed::facts, usage: gemini::embed::usage, reader: gemini::stream::reader, error: error::google }
        }
        Protocol::BedrockConverse => &Format {
            facts: bedrock::converse::facts,
            usage: bedrock::converse::usage,
            reader: bedrock::converse::reader,
            error: error::amazon,
        },
        Protocol::BedrockInvoke => {
            &Format { facts: bedrock::invoke::facts, usage: bedrock::invoke::usage, reader: bedrock::invoke::reader, error: error::amazon }
        }
        Protocol::OllamaChat => {
            &Format { facts: ollama::request::chat, usage: ollama::usage::of_body, reader: ollama::usage::reader, error: error::ollama }
        }
        Protocol::OllamaGenerate => {
            &Format { facts: ollama::request::generate, usage: ollama::usage::of_body, reader: ollama::usage::reader, error: error::ollama }
        }
        Protocol::OllamaEmbed => {
            &Format { facts: ollama::request::embed, usage: ollama::usage::of_body, reader: ollama::usage::reader, error: error::ollama }
        }
    }
}
