//! How a backend's credential goes with a call: in the header that its provider reads, or as a signature.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::channel::secret::Secret;
use crate::core::policy::Provider;

/// A backend's credential, ready for use.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The value is marked sensitive.
    Header(HeaderName, HeaderValue),
}

/// What a signature is made over.
pub struct Signed<'a> {
    pub uri: &'a http::Uri,
    pub body: &'a Bytes,
    /// Unix milliseconds.
    pub now_ms: i64,
}

impl Credential {
    /// Makes a provider's credential of a secret.
    ///
    /// # Errors
    /// When it holds what no header can carry.
    pub fn of(provider: Provider, secret: &Secret) -> Result<Credential, header::InvalidHeaderValue> {
        let name = match provider {
            Provider::Anthropic => HeaderName::from_static("x-api-key"),
            Provider::AzureOpenAI => HeaderName::from_static("api-key"),
            Provider::Gemini => HeaderName::from_static("x-goog-api-key"),
            Provider::OpenAI | Provider::Ollama | Provider::VertexAI | Provider::Bedrock => header::AUTHORIZATION,
        };
        let is_bearer = name == header::AUTHORIZATION;
        let text = if is_bearer { Secret::new(format!("Bearer {}", secret.expose())) } else { secret.clone() };
        let mut value = HeaderValue::from_str(text.expose())?;
        value.set_sensitive(true);
        Ok(Credential::Header(name, value))
    }

    /// Puts it in place of whatever the app sent.
    pub fn apply(&self, headers: &mut HeaderMap, _: &Signed<'_>) {
        remove(headers);
        match self {
            Credential::Header(name, value) => {
                headers.insert(name, value.clone());
            }
        }
    }
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
        ] {
            let mut headers = HeaderMap::new();
            for name in ["authorization", "x-api-key", "api-key", "x-goog-api-key"] {
                headers.insert(name, HeaderValue::from_static("placeholder"));
            }
            let credential = Credential::of(provider, &Secret::new("real".into())).unwrap();
            credential.apply(&mut headers, &Signed { uri: &http::Uri::default(), body: &Bytes::new(), now_ms: 0 });
            assert_eq!((headers.len(), headers.get(name)), (1, Some(&HeaderValue::from_static(value))), "{provider:?}");
        }
    }
}
