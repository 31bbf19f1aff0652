//! How a backend's credential goes with a call: in the header that its provider reads, or as a signature.

mod amazon;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::channel::secret::Secret;
use crate::core::policy::Provider;
use crate::llm::Pieces;
use amazon::Signer;

pub use amazon::SignError;

/// A backend's credential, ready for use.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The value is marked sensitive.
    Header(HeaderName, HeaderValue),
    /// A signature over each request.
    Amazon(Signer),
}

/// Why a secret is no credential. None of it is in the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error("the credential holds characters that no HTTP header can carry; check the Secret for line breaks")]
    Characters,
    #[error(
        "the credential begins as JSON, but is not {{\"accessKeyId\": \"…\", \"secretAccessKey\": \"…\"}}, where \"sessionToken\" and \
         \"region\" may stand too; a Bedrock API key is put into the Secret as it is"
    )]
    Keys,
    #[error(
        "neither the credential nor the endpoint's host {host:?} names the AWS region that calls are signed for; add \"region\" to the \
         Secret's JSON, or use an endpoint such as https://bedrock-runtime.us-east-1.amazonaws.com"
    )]
    Region { host: String },
}

/// What a signature is made over.
pub struct Signed<'a> {
    pub method: &'a http::Method,
    pub uri: &'a http::Uri,
    pub body: &'a Pieces,
    /// Unix milliseconds.
    pub now_ms: i64,
}

impl Credential {
    /// Makes a provider's credential of a secret; `host` is the endpoint's. Bedrock takes API keys, as others do, and signatures that
    /// are made with keys in JSON.
    ///
    /// # Errors
    /// When it holds what no header can carry, or not what a signature needs.
    pub fn of(provider: Provider, secret: &Secret, host: &str) -> Result<Credential, CredentialError> {
        if provider == Provider::Bedrock && secret.expose().trim_start().starts_with('{') {
            return Signer::of(secret, host).map(Credential::Amazon);
        }
        let name = match provider {
            Provider::Anthropic => HeaderName::from_static("x-api-key"),
            Provider::AzureOpenAI => HeaderName::from_static("api-key"),
            Provider::Gemini => HeaderName::from_static("x-goog-api-key"),
            Provider::OpenAI | Provider::Ollama | Provider::VertexAI | Provider::Bedrock => header::AUTHORIZATION,
        };
        let is_bearer = name == header::AUTHORIZATION;
        let text = if is_bearer { Secret::new(format!("Bearer {}", secret.expose())) } else { secret.clone() };
        let mut value = HeaderValue::from_str(text.expose()).map_err(|_| CredentialError::Characters)?;
        value.set_sensitive(true);
        Ok(Credential::Header(name, value))
    }

    /// Puts it in place of whatever the app sent.
    ///
    /// # Errors
    /// When the request cannot be signed.
    pub fn apply(&self, headers: &mut HeaderMap, signed: &Signed<'_>) -> Result<(), SignError> {
        remove(headers);
        match self {
            Credential::Header(name, value) => {
                headers.insert(name, value.clone());
                Ok(())
            }
            Credential::Amazon(signer) => signer.sign(headers, signed),
        }
    }
}

/// True when what the app sent as its credential still is one at a provider. A signature is not: it holds for the host, the path and
/// the body that the app signed, which are others there.
pub fn can_be_passed_on(headers: &HeaderMap) -> bool {
    !headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS4-"))
}

/// What is said of such a credential.
pub fn not_passed_on(backend: &str) -> String {
    format!(
        "the call has an AWS signature, which holds for the address that it was sent to and cannot be passed on to backend {backend}; give \
         the backend credentials (spec.backends[].credentials of the ModelRoute), or call with a Bedrock API key"
    )
}

/// Removes every header that a provider takes for a credential.
fn remove(headers: &mut HeaderMap) {
    for name in ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backends_credential_replaces_whatever_the_app_sent() {
        for (provider, name, value) in [
            (Provider::OpenAI, "authorization", "Bearer real"),
            (Provider::Anthropic, "x-api-key", "real"),
            (Provider::AzureOpenAI, "api-key", "real"),
            (Provider::Gemini, "x-goog-api-key", "real"),
            (Provider::Bedrock, "authorization", "Bearer real"),
        ] {
            let mut headers = HeaderMap::new();
            for name in ["authorization", "x-api-key", "api-key", "x-goog-api-key"] {
                headers.insert(name, HeaderValue::from_static("placeholder"));
            }
            let credential = Credential::of(provider, &Secret::new("real".into()), "h").unwrap();
            credential
                .apply(
                    &mut headers,
                    &Signed { method: &http::Method::POST, uri: &http::Uri::default(), body: &Pieces::default(), now_ms: 0 },
                )
                .unwrap();
            assert_eq!((headers.len(), headers.get(name)), (1, Some(&HeaderValue::from_static(value))), "{provider:?}");
        }
    }

    #[test]
    fn an_apps_own_signature_holds_nowhere_else_but_its_key_does() {
        for (value, holds) in [("AWS4-HMAC-SHA256 Credential=AKIA/x", false), ("Bearer k", true)] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
            assert_eq!(can_be_passed_on(&headers), holds, "{value}");
        }
        assert!(can_be_passed_on(&HeaderMap::new()));
    }
}
