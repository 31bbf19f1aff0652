//! Requests that Spendkeeper passes on without knowing them: whose they are, and whether a provider charges for them.

use http::{HeaderMap, Method};

use super::usage::ReportedUsage;
use crate::core::policy::{Protocol, Provider};

/// The provider whose API has such a path, as far as the path and the headers tell.
pub fn provider_of(path: &str, headers: &HeaderMap) -> Provider {
    const PATHS: [(&str, Provider); 14] = [
        ("/openai/", Provider::AzureOpenAI),
        ("/v1beta/", Provider::Gemini),
        ("/v1alpha/", Provider::Gemini),
        ("/upload/v1beta/", Provider::Gemini),
        ("/download/v1beta/", Provider::Gemini),
        ("/v1/projects/", Provider::VertexAI),
        ("/v1beta1/projects/", Provider::VertexAI),
        ("/v1/publishers/", Provider::VertexAI),
        ("/v1beta1/publishers/", Provider::VertexAI),
        ("/model/", Provider::Bedrock),
        ("/guardrail/", Provider::Bedrock),
        ("/async-invoke", Provider::Bedrock),
        ("/prompt-routers", Provider::Bedrock),
        ("/api/", Provider::Ollama),
    ];
    if let Some((_, provider)) = PATHS.iter().find(|(known, _)| path.starts_with(known)) {
        return *provider;
    }
    if path.strip_prefix("/v1/models/").is_some_and(|model| GOOGLES_VERBS.iter().any(|verb| model.ends_with(verb))) {
        return Provider::Gemini;
    }
    if headers.contains_key("anthropic-version") { Provider::Anthropic } else { Provider::OpenAI }
}

/// What Gemini's API does with a model, beside calling it. (A model of OpenAI may have a colon in its name, when it is fine-tuned.)
const GOOGLES_VERBS: [&str; 5] = [":countTokens", ":predict", ":predictLongRunning", ":asyncBatchEmbedContent", ":batchGenerateContent"];

/// A format of a provider, for the shape of its errors.
pub fn speaks(provider: Provider) -> Protocol {
    provider.formats()[0]
}

/// True for what no provider charges: looking at things, taking them away, handing in files, counting tokens, cancelling, moderation.
pub fn is_free(method: &Method, path: &str) -> bool {
    const FREE: [&str; 12] = [
        "/count_tokens",
        ":countTokens",
        "/count-tokens",
        "/input_tokens",
        "/files",
        "/moderations",
        "/tokenize",
        "/detokenize",
        "/cancel",
        "/api/show",
        "/api/version",
        "/parts",
    ];
    let looks_or_takes_away = matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
    looks_or_takes_away || FREE.iter().any(|end| path.trim_end_matches('/').ends_with(end)) || path.contains("/uploads")
}

/// What the answer to a request of this path says it used.
pub fn usage_of(path: &str, body: &[u8]) -> Option<ReportedUsage> {
    super::openai::media::usage_of_passthrough(path, body)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_path_is_its_providers() {
        let none = HeaderMap::new();
        let anthropic = HeaderMap::from_iter([("anthropic-version".parse().unwrap(), HeaderValue::from_static("2023-06-01"))]);
        for (path, headers, provider) in [
            ("/v1/files", &none, Provider::OpenAI),
            ("/v1/files", &anthropic, Provider::Anthropic),
            ("/openai/v1/files", &none, Provider::AzureOpenAI),
            ("/v1beta/cachedContents", &none, Provider::Gemini),
            ("/v1/projects/p/locations/l/batchPredictionJobs", &none, Provider::VertexAI),
            ("/v1/models/gemini-2.5-pro:countTokens", &none, Provider::Gemini),
            ("/v1/models/ft:gpt-4o:shop::x", &none, Provider::OpenAI),
            ("/v1beta1/publishers/google/models/m:countTokens", &none, Provider::VertexAI),
            ("/model/m/count-tokens", &none, Provider::Bedrock),
            ("/api/tags", &none, Provider::Ollama),
        ] {
            assert_eq!(provider_of(path, headers), provider, "{path}");
        }
    }

    #[test]
    fn what_may_be_charged_is_not_taken_for_free() {
        for (method, path, free) in [
            (Method::GET, "/v1/batches", true),
            (Method::POST, "/v1/batches", false),
            (Method::POST, "/v1/messages/batches", false),
            (Method::POST, "/v1/messages/count_tokens", true),
            (Method::POST, "/v1/files", true),
            (Method::POST, "/v1/images/generations", false),
            (Method::POST, "/v1/fine_tuning/jobs", false),
            (Method::POST, "/v1/fine_tuning/jobs/j/cancel", true),
            (Method::DELETE, "/v1/files/f", true),
            (Method::POST, "/v1beta/cachedContents", false),
            (Method::POST, "/v1beta/models/m:countTokens", true),
            (Method::POST, "/v1/uploads/u/parts", true),
        ] {
            assert_eq!(is_free(&method, path), free, "{method} {path}");
        }
    }
}
