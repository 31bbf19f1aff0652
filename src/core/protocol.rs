//! Who speaks what: the wire formats that callers use, and the providers that answer them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The wire format of a call: what its request, its answer and its usage figures look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// OpenAI Chat Completions.
    OpenAIChat,
    /// OpenAI Responses.
    OpenAIResponses,
    /// OpenAI's legacy Completions.
    OpenAICompletions,
    /// OpenAI Embeddings.
    OpenAIEmbeddings,
    /// Anthropic Messages.
    AnthropicMessages,
    /// Gemini's `generateContent` and `streamGenerateContent`, also on Vertex AI.
    GeminiGenerate,
    /// Gemini's `embedContent` and `batchEmbedContents`.
    GeminiEmbed,
    /// Bedrock's Converse and ConverseStream.
    BedrockConverse,
    /// Bedrock's InvokeModel and its stream, with the body of the model's own maker.
    BedrockInvoke,
    /// Ollama's own chat.
    OllamaChat,
    /// Ollama's own completion.
    OllamaGenerate,
    /// Ollama's own embeddings.
    OllamaEmbed,
}

impl Protocol {
    pub const ALL: [Protocol; 12] = [
        Protocol::OpenAIChat,
        Protocol::OpenAIResponses,
        Protocol::OpenAICompletions,
        Protocol::OpenAIEmbeddings,
        Protocol::AnthropicMessages,
        Protocol::GeminiGenerate,
        Protocol::GeminiEmbed,
        Protocol::BedrockConverse,
        Protocol::BedrockInvoke,
        Protocol::OllamaChat,
        Protocol::OllamaGenerate,
        Protocol::OllamaEmbed,
    ];

    /// Where calls of this format go, for messages.
    pub fn path(self) -> &'static str {
        self.row().0
    }

    /// The value of OpenTelemetry's `gen_ai.operation.name`.
    pub fn operation(self) -> &'static str {
        self.row().1
    }

    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Protocol::OpenAIChat => ("/v1/chat/completions", "chat"),
            Protocol::OpenAIResponses => ("/v1/responses", "chat"),
            Protocol::OpenAICompletions => ("/v1/completions", "text_completion"),
            Protocol::OpenAIEmbeddings => ("/v1/embeddings", "embeddings"),
            Protocol::AnthropicMessages => ("/v1/messages", "chat"),
            Protocol::GeminiGenerate => ("/v1beta/models/<model>:generateContent", "generate_content"),
            Protocol::GeminiEmbed => ("/v1beta/models/<model>:embedContent", "embeddings"),
            Protocol::BedrockConverse => ("/model/<model>/converse", "chat"),
            Protocol::BedrockInvoke => ("/model/<model>/invoke", "text_completion"),
            Protocol::OllamaChat => ("/api/chat", "chat"),
            Protocol::OllamaGenerate => ("/api/generate", "text_completion"),
            Protocol::OllamaEmbed => ("/api/embed", "embeddings"),
        }
    }

    /// True when the request's path names the model, and not its body.
    pub fn has_model_in_path(self) -> bool {
        use Protocol::{BedrockConverse, BedrockInvoke, GeminiEmbed, GeminiGenerate};
        matches!(self, GeminiGenerate | GeminiEmbed | BedrockConverse | BedrockInvoke)
    }
}

/// What kind of service a backend is: how its calls are addressed and authenticated, and which formats it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Provider {
    /// OpenAI, and whatever is compatible with it: vLLM, DeepSeek, Mistral, Groq, Together …
    OpenAI,
    /// Azure OpenAI; a model's name is that of its deployment.
    AzureOpenAI,
    Anthropic,
    /// The Gemini API of Google AI.
    Gemini,
    /// Gemini on Google Cloud's Vertex AI.
    VertexAI,
    /// Amazon Bedrock.
    Bedrock,
    /// Ollama, by its own API and the one that is compatible with OpenAI's.
    Ollama,
}

impl Provider {
    pub const ALL: [Provider; 7] = [
        Provider::OpenAI,
        Provider::AzureOpenAI,
        Provider::Anthropic,
        Provider::Gemini,
        Provider::VertexAI,
        Provider::Bedrock,
        Provider::Ollama,
    ];

    /// The value of OpenTelemetry's `gen_ai.provider.name`.
    pub fn name(self) -> &'static str {
        match self {
            Provider::OpenAI => "openai",
            Provider::AzureOpenAI => "azure.ai.openai",
            Provider::Anthropic => "anthropic",
            Provider::Gemini => "gcp.gemini",
            Provider::VertexAI => "gcp.vertex_ai",
            Provider::Bedrock => "aws.bedrock",
            Provider::Ollama => "ollama",
        }
    }

    /// The formats that it takes itself, that of its chat first.
    pub fn formats(self) -> &'static [Protocol] {
        use Protocol as P;
        match self {
            Provider::OpenAI | Provider::AzureOpenAI => &[P::OpenAIChat, P::OpenAIResponses, P::OpenAICompletions, P::OpenAIEmbeddings],
            Provider::Anthropic => &[P::AnthropicMessages],
            Provider::Gemini | Provider::VertexAI => &[P::GeminiGenerate, P::GeminiEmbed],
            Provider::Bedrock => &[P::BedrockConverse, P::BedrockInvoke],
            Provider::Ollama => {
                &[P::OpenAIChat, P::OpenAICompletions, P::OpenAIEmbeddings, P::OllamaChat, P::OllamaGenerate, P::OllamaEmbed]
            }
        }
    }

    /// The format in which it gets a call that its caller wrote in `asked`: the same where it takes that, another where the call can
    /// be translated; `None` where it cannot answer.
    ///
    /// | asked in | OpenAI, Azure OpenAI, Ollama | Anthropic | Gemini, Vertex AI | Bedrock |
    /// |---|---|---|---|---|
    /// | Chat Completions | as it is | Messages | generateContent | Converse |
    /// | Messages | Chat Completions | as it is | – | – |
    /// | anything else | as it is, where it takes that | – | – | – |
    pub fn upstream_format(self, asked: Protocol) -> Option<Protocol> {
        if self.formats().contains(&asked) {
            return Some(asked);
        }
        match (asked, self) {
            (Protocol::OpenAIChat, Provider::Anthropic | Provider::Gemini | Provider::VertexAI | Provider::Bedrock)
            | (Protocol::AnthropicMessages, Provider::OpenAI | Provider::AzureOpenAI | Provider::Ollama) => self.formats().first().copied(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_taken_as_it_is_by_some_provider() {
        for protocol in Protocol::ALL {
            assert!(Provider::ALL.iter().any(|p| p.upstream_format(protocol) == Some(protocol)), "{protocol:?}");
        }
    }

    #[test]
    fn chat_is_translated_where_it_is_not_spoken() {
        use Protocol::{AnthropicMessages, BedrockConverse, GeminiGenerate, OpenAIChat, OpenAIEmbeddings};
        for (asked, provider, expected) in [
            (OpenAIChat, Provider::Anthropic, Some(AnthropicMessages)),
            (OpenAIChat, Provider::VertexAI, Some(GeminiGenerate)),
            (OpenAIChat, Provider::Bedrock, Some(BedrockConverse)),
            (AnthropicMessages, Provider::AzureOpenAI, Some(OpenAIChat)),
            (AnthropicMessages, Provider::Bedrock, None),
            (OpenAIEmbeddings, Provider::Anthropic, None),
            (GeminiGenerate, Provider::OpenAI, None),
        ] {
            assert_eq!(provider.upstream_format(asked), expected, "{asked:?} {provider:?}");
        }
    }
}
