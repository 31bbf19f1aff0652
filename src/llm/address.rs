//! The paths by which formats are named: what a caller's request is, by its path, and where it goes at a provider.

use crate::core::policy::{Protocol, Provider};

/// A request for a model, as its method and path say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressed {
    pub protocol: Protocol,
    /// The model, where the path names it, as it is in the path (percent-encoded or not).
    pub model: Option<String>,
    /// Whether the answer streams, where the path says so and not the body.
    pub stream: Option<bool>,
    /// What of the path says which of several calls of one format it is (`batchEmbedContents`).
    pub verb: &'static str,
    /// The version of Gemini's API that the path names; some fields are only in one of them. Empty for other formats.
    pub version: &'static str,
    /// What the query must say where a translation makes the call, so that there is no caller's.
    pub query: &'static str,
}

impl Addressed {
    /// A format whose path says nothing but itself.
    pub fn plain(protocol: Protocol) -> Addressed {
        Addressed { protocol, model: None, stream: None, verb: "", version: "", query: "" }
    }

    /// A call of `protocol` to `model`, as another format's translation makes it.
    pub fn to(protocol: Protocol, model: &str, stream: bool) -> Addressed {
        if !protocol.has_model_in_path() {
            return Addressed::plain(protocol);
        }
        let verb = match protocol {
            Protocol::GeminiGenerate | Protocol::GeminiEmbed => VERBS.iter().find(|v| v.1 == protocol && v.2 == stream).map_or("", |v| v.0),
            _ => ACTIONS.iter().find(|a| a.1 == protocol && a.2 == stream).map_or("", |a| a.0),
        };
        // A translated stream is read as server-sent events, which Gemini sends only when asked for.
        let query = if protocol == Protocol::GeminiGenerate && stream { "alt=sse" } else { "" };
        Addressed { model: Some(model.to_owned()), stream: Some(stream), verb, query, ..Addressed::plain(protocol) }
    }
}

/// Gemini's verbs: path, format, streamed. `predict` is how Vertex AI takes texts for its older embedding models.
const VERBS: [(&str, Protocol, bool); 5] = [
    ("generateContent", Protocol::GeminiGenerate, false),
    ("streamGenerateContent", Protocol::GeminiGenerate, true),
    ("embedContent", Protocol::GeminiEmbed, false),
    ("batchEmbedContents", Protocol::GeminiEmbed, false),
    ("predict", Protocol::GeminiEmbed, false),
];

/// Versions of Gemini's API, as paths begin with them; the first is the one for callers that name none, or one of Vertex AI's.
const VERSIONS: [&str; 3] = ["/v1beta", "/v1", "/v1alpha"];

/// Bedrock's actions: path, format, streamed.
const ACTIONS: [(&str, Protocol, bool); 4] = [
    ("converse", Protocol::BedrockConverse, false),
    ("converse-stream", Protocol::BedrockConverse, true),
    ("invoke", Protocol::BedrockInvoke, false),
    ("invoke-with-response-stream", Protocol::BedrockInvoke, true),
];

/// Formats whose path says nothing more, without the `/v1` in front.
const PLAIN: [(&str, Protocol); 5] = [
    ("/chat/completions", Protocol::OpenAIChat),
    ("/responses", Protocol::OpenAIResponses),
    ("/completions", Protocol::OpenAICompletions),
    ("/embeddings", Protocol::OpenAIEmbeddings),
    ("/messages", Protocol::AnthropicMessages),
];

const OLLAMA: [(&str, Protocol); 3] =
    [("/api/chat", Protocol::OllamaChat), ("/api/generate", Protocol::OllamaGenerate), ("/api/embed", Protocol::OllamaEmbed)];

/// What a `POST` to `path` is; `None` for what is no call to a model. SDKs are pointed here with and without `/v1`, so both work.
pub fn recognise(path: &str) -> Option<Addressed> {
    let bare = path.strip_prefix("/v1").unwrap_or(path);
    if let Some((_, protocol)) = PLAIN.iter().find(|(known, _)| *known == bare) {
        return Some(Addressed::plain(*protocol));
    }
    if let Some((_, protocol)) = OLLAMA.iter().find(|(known, _)| *known == path) {
        return Some(Addressed::plain(*protocol));
    }
    azure(path).or_else(|| gemini(path)).or_else(|| bedrock(path))
}

/// `/openai/v1/…` and `/openai/deployments/<deployment>/…`.
fn azure(path: &str) -> Option<Addressed> {
    let rest = path.strip_prefix("/openai")?;
    let (rest, model) = match rest.strip_prefix("/deployments/") {
        Some(deployed) => {
            let (model, operation) = deployed.split_at(deployed.find('/')?);
            (operation, Some(model.to_owned()))
        }
        None => (rest.strip_prefix("/v1").unwrap_or(rest), None),
    };
    let (_, protocol) = PLAIN.iter().find(|(known, protocol)| *known == rest && *protocol != Protocol::AnthropicMessages)?;
    Some(Addressed { model, ..Addressed::plain(*protocol) })
}

/// `/v1beta/models/<model>:<verb>`, and on Vertex AI `/v1/projects/…/publishers/google/models/<model>:<verb>`.
fn gemini(path: &str) -> Option<Addressed> {
    let (before, last) = path.rsplit_once("/models/")?;
    let version = VERSIONS.into_iter().find(|version| *version == before);
    let known = version.is_some() || before.is_empty() || before.ends_with("/publishers/google");
    let (model, verb) = last.rsplit_once(':')?;
    let (verb, protocol, stream) = VERBS.into_iter().find(|(known, _, _)| *known == verb)?;
    let call = Addressed { stream: Some(stream), verb, version: version.unwrap_or(VERSIONS[0]), ..Addressed::plain(protocol) };
    (known && !model.is_empty()).then(|| Addressed { model: Some(model.to_owned()), ..call })
}

/// `/model/<model>/<action>`.
fn bedrock(path: &str) -> Option<Addressed> {
    let (model, action) = path.strip_prefix("/model/")?.rsplit_once('/')?;
    let (verb, protocol, stream) = ACTIONS.into_iter().find(|(known, _, _)| *known == action)?;
    let call = Addressed { stream: Some(stream), verb, ..Addressed::plain(protocol) };
    (!model.is_empty()).then(|| Addressed { model: Some(model.to_owned()), ..call })
}

/// Where a call goes at a provider, after its endpoint's own path.
///
/// `query` is the caller's; what of it is not meant for the provider is left out.
pub fn upstream_path(provider: Provider, call: &Addressed, model: &str, query: Option<&str>) -> String {
    let protocol = call.protocol;
    let path = match (provider, protocol) {
        (_, Protocol::GeminiGenerate | Protocol::GeminiEmbed) => {
            // Vertex AI's endpoint names the project that pays, and the location: whatever the caller's path says of them is left out.
            let (version, of) = match (provider, call.version) {
                (Provider::VertexAI, _) => ("", "/publishers/google/models/"),
                (_, "") => (VERSIONS[0], "/models/"),
                (_, version) => (version, "/models/"),
            };
            format!("{version}{of}{}:{}", encoded(model), call.verb)
        }
        (_, Protocol::BedrockConverse | Protocol::BedrockInvoke) => format!("/model/{}/{}", encoded(model), call.verb),
        (Provider::AzureOpenAI, _) => {
            let operation = protocol.path().strip_prefix("/v1").unwrap_or(protocol.path());
            // A dated version belongs to the older addresses, which have the deployment for all but Responses; the newer ones have
            // none, or one that is a word (`preview`).
            match parameter(query, "api-version") {
                Some(dated) if dated.starts_with(|c: char| c.is_ascii_digit()) => match protocol {
                    Protocol::OpenAIResponses => format!("/openai{operation}"),
                    _ => format!("/openai/deployments/{}{operation}", encoded(model)),
                },
                _ => format!("/openai/v1{operation}"),
            }
        }
        _ => protocol.path().to_owned(),
    };
    match upstream_query(provider, call, query) {
        query if query.is_empty() => path,
        query => format!("{path}?{query}"),
    }
}

/// The caller's query, without keys (a backend has its own) and what only another provider knows.
fn upstream_query(provider: Provider, call: &Addressed, query: Option<&str>) -> String {
    let kept = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).filter(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        match name {
            "key" | "access_token" => false,
            // A signature in the query is the caller's own, as one in a header is.
            _ if provider == Provider::Bedrock && name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-")) => false,
            "api-version" => provider == Provider::AzureOpenAI,
            "alt" => matches!(provider, Provider::Gemini | Provider::VertexAI),
            _ => true,
        }
    });
    let kept: Vec<&str> = kept.chain(Some(call.query).filter(|own| !own.is_empty() && query.is_none())).collect();
    kept.join("&")
}

/// The value of a query's parameter, as it is written there.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// A model's name as one segment of a path: the ARNs of Bedrock have slashes and colons. What is encoded already stays so.
pub fn encoded(model: &str) -> String {
    let mut text = String::with_capacity(model.len());
    for byte in model.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// A segment of a path as text; `None` when it is no UTF-8.
pub fn decoded(segment: &str) -> Option<String> {
    String::from_utf8(percent_decoded(segment)).ok()
}

/// `%20` and the like as bytes; what is not percent-encoding stays as it is.
pub fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| (*b as char).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_paths() {
        use Protocol as P;
        for (path, protocol, model, stream) in [
            ("/v1/chat/completions", P::OpenAIChat, None, None),
            ("/chat/completions", P::OpenAIChat, None, None),
            ("/v1/responses", P::OpenAIResponses, None, None),
            ("/v1/messages", P::AnthropicMessages, None, None),
            ("/openai/v1/embeddings", P::OpenAIEmbeddings, None, None),
            ("/openai/responses", P::OpenAIResponses, None, None),
            ("/openai/v1/chat/completions", P::OpenAIChat, None, None),
            ("/openai/deployments/my%2Fgpt/completions", P::OpenAICompletions, Some("my%2Fgpt"), None),
            ("/openai/deployments/my-gpt/chat/completions", P::OpenAIChat, Some("my-gpt"), None),
            ("/v1beta/models/gemini-2.5-flash:generateContent", P::GeminiGenerate, Some("gemini-2.5-flash"), Some(false)),
            (
                "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent",
                P::GeminiGenerate,
                Some("gemini-2.5-pro"),
                Some(true),
            ),
            ("/v1beta/models/e:batchEmbedContents", P::GeminiEmbed, Some("e"), Some(false)),
            ("/v1beta1/projects/p/locations/global/publishers/google/models/e:predict", P::GeminiEmbed, Some("e"), Some(false)),
            ("/v1beta1/publishers/google/models/g:generateContent", P::GeminiGenerate, Some("g"), Some(false)),
            ("/model/us.amazon.nova-lite-v1%3A0/converse-stream", P::BedrockConverse, Some("us.amazon.nova-lite-v1%3A0"), Some(true)),
            ("/model/a/b/invoke", P::BedrockInvoke, Some("a/b"), Some(false)),
            ("/api/chat", P::OllamaChat, None, None),
        ] {
            let found = recognise(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((found.protocol, found.model.as_deref(), found.stream), (protocol, model, stream), "{path}");
        }
        for path in
            ["/v1/files", "/v1/chat/completions/x", "/v1beta/models/x", "/v1beta/files/models/x:generateContent", "/model//converse"]
        {
            assert_eq!(recognise(path), None, "{path}");
        }
    }

    #[test]
    fn a_call_goes_where_its_provider_takes_it() {
        use Protocol as P;
        let path =
            |provider, protocol, model: &str, stream, query| upstream_path(provider, &Addressed::to(protocol, model, stream), model, query);
        for (found, expected) in [
            (path(Provider::OpenAI, P::OpenAIChat, "m", false, Some("x=1&key=k&api-version=2")), "/v1/chat/completions?x=1"),
            (path(Provider::AzureOpenAI, P::OpenAIChat, "d", false, None), "/openai/v1/chat/completions"),
            (
                path(Provider::AzureOpenAI, P::OpenAIChat, "d", false, Some("api-version=2024-10-21")),
                "/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ),
            (
                path(Provider::AzureOpenAI, P::OpenAIChat, "d", false, Some("api-version=preview")),
                "/openai/v1/chat/completions?api-version=preview",
            ),
            (
                path(Provider::AzureOpenAI, P::OpenAIResponses, "d", false, Some("api-version=2025-04-01-preview")),
                "/openai/responses?api-version=2025-04-01-preview",
            ),
            (
                path(Provider::AzureOpenAI, P::OpenAIEmbeddings, "a/b", false, Some("api-version=2024-10-21")),
                "/openai/deployments/a%2Fb/embeddings?api-version=2024-10-21",
            ),
            (path(Provider::Gemini, P::GeminiGenerate, "g", true, None), "/v1beta/models/g:streamGenerateContent?alt=sse"),
            (path(Provider::VertexAI, P::GeminiGenerate, "g", false, Some("key=k")), "/publishers/google/models/g:generateContent"),
            (path(Provider::Bedrock, P::BedrockConverse, "us.m-v1:0", true, None), "/model/us.m-v1%3A0/converse-stream"),
            (path(Provider::Bedrock, P::BedrockInvoke, "arn:a/b", false, Some("X-Amz-Signature=1&x=1")), "/model/arn%3Aa%2Fb/invoke?x=1"),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_call_in_geminis_own_format_keeps_its_version_and_framing_and_loses_its_project_and_key() {
        let path = |provider, path: &str, query| upstream_path(provider, &recognise(path).expect("a call"), "m", query);
        let vertex = "/v1beta1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent";
        for (found, expected) in [
            (path(Provider::Gemini, "/v1alpha/models/g:generateContent", None), "/v1alpha/models/m:generateContent"),
            (path(Provider::Gemini, "/v1/models/g:embedContent", Some("key=k")), "/v1/models/m:embedContent"),
            (path(Provider::Gemini, "/models/g:generateContent", None), "/v1beta/models/m:generateContent"),
            // Without `alt=sse` a caller expects an array.
            (path(Provider::Gemini, "/v1beta/models/g:streamGenerateContent", None), "/v1beta/models/m:streamGenerateContent"),
            (path(Provider::VertexAI, vertex, Some("alt=sse")), "/publishers/google/models/m:streamGenerateContent?alt=sse"),
            (path(Provider::Gemini, vertex, Some("alt=sse")), "/v1beta/models/m:streamGenerateContent?alt=sse"),
            (path(Provider::VertexAI, "/v1beta/models/g:generateContent", None), "/publishers/google/models/m:generateContent"),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_not_percent_encoding_is_left_as_it_is() {
        for (text, decoded) in [("a%20b", "a b"), ("100%", "100%"), ("%zz", "%zz"), ("%4", "%4"), ("%41", "A")] {
            assert_eq!(percent_decoded(text), decoded.as_bytes());
        }
    }
}
