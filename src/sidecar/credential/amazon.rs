//! Amazon's signature (version 4) of a request to Bedrock.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{CredentialError, Signed};
use crate::channel::secret::Secret;

/// The service's name in signatures, for all of its hosts.
const SERVICE: &str = "bedrock";

/// Keys, and the region that they sign for. The keys are wiped from memory when they are dropped.
#[derive(Clone)]
pub struct Signer {
    credentials: Credentials,
    region: String,
}

/// Why a request cannot be signed.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be signed: {0}")]
pub struct SignError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The Secret's value, for keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    region: Option<String>,
}

impl Signer {
    /// # Errors
    /// When the secret has not the form, or nothing names the region.
    pub fn of(secret: &Secret, host: &str) -> Result<Signer, CredentialError> {
        // The parser's own error may quote what it read.
        let keys: Keys = serde_json::from_str(secret.expose()).map_err(|_| CredentialError::Keys)?;
        let (secret_key, session_token) = (Zeroizing::new(keys.secret_access_key), keys.session_token.map(Zeroizing::new));
        let named = keys.region.as_deref().map(str::trim).filter(|region| !region.is_empty());
        let region = named.or_else(|| region_of(host)).ok_or_else(|| CredentialError::Region { host: host.to_owned() })?;
        let session_token = session_token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let credentials = Credentials::new(keys.access_key_id.trim(), secret_key.trim(), session_token, None, "Secret");
        Ok(Signer { credentials, region: region.to_owned() })
    }

    /// Adds the signature's headers. It covers the host, the time, the session's token, the body, and of the caller's headers those
    /// that Bedrock obeys.
    ///
    /// # Errors
    /// When the request is none that can be signed.
    pub fn sign(&self, headers: &mut HeaderMap, signed: &Signed<'_>) -> Result<(), SignError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| SignError(error);
        let identity = self.credentials.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(UNIX_EPOCH + Duration::from_millis(signed.now_ms.unsigned_abs()))
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| failed(error.into()))?
            .into();
        let covered =
            headers.iter().filter(|(name, _)| is_covered(name)).filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let body = signed.body.clone().into_whole();
        let request = SignableRequest::new(signed.method.as_str(), signed.uri.to_string(), covered, SignableBody::Bytes(&body));
        let output = sign(request.map_err(|error| failed(error.into()))?, &params).map_err(|error| failed(error.into()))?;
        let (added, _) = output.into_parts().0.into_parts();
        for header in added {
            let mut value = HeaderValue::from_str(header.value()).map_err(|error| failed(error.into()))?;
            value.set_sensitive(true);
            headers.insert(header.name(), value);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("region", &self.region).finish_non_exhaustive()
    }
}

fn is_covered(name: &HeaderName) -> bool {
    name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-") || name.as_str().starts_with("x-amzn-bedrock-")
}

/// The region in a host of Bedrock's: public, FIPS, dual-stack, in China, and of an endpoint within a VPC.
fn region_of(host: &str) -> Option<&str> {
    let mut labels = host.split('.').skip_while(|label| !label.starts_with("bedrock-runtime"));
    labels.next()?;
    let region = labels.next()?;
    let is_name = region.contains('-') && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    is_name.then_some(region)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const KEYS: &str = r#"{"accessKeyId":"AKIDEXAMPLE","secretAccessKey":"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY""#;

    fn signer(more: &str, host: &str) -> Result<Signer, CredentialError> {
        Signer::of(&Secret::new(format!("{KEYS}{more}}}")), host)
    }

    /// What is expected was computed by botocore 1.43.11 for the same requests.
    #[test]
    fn a_request_is_signed_as_amazons_own_client_signs_it() {
        let host = "bedrock-runtime.us-east-1.amazonaws.com";
        let table = [
            (
                "",
                format!("https://{host}/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse"),
                r#"{"messages":[]}"#,
                None,
                "us-east-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date",
                "8b22184818f32f622f5d829610ed0457c8d5a15bc4dd8a079649b84a847330d2",
            ),
            (
                r#","sessionToken":"tok\/en+==","region":"eu-west-1""#,
                "https://bedrock-runtime.eu-west-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3A\
                 application-inference-profile%2Fabc123/invoke-with-response-stream"
                    .to_owned(),
                r#"{"prompt":"hé"}"#,
                Some("priority"),
                "eu-west-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amzn-bedrock-service-tier",
                "14d24bd9e337606bcac2e53027df970cf25e16d2f9ef2c1b8ece1e9ba9f9f990",
            ),
            (
                "",
                "http://127.0.0.1:8080/prefix/model/amazon.nova-lite-v1%3A0/converse?x=a%20b".to_owned(),
                "{}",
                None,
                "us-east-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date",
                "08dce1c1250dd15cc69ff4e41eefd558536b83cd287049604b43c7edb3742218",
            ),
        ];
        for (more, uri, body, tier, scope, signature) in table {
            let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
            headers.insert("x-unrelated", HeaderValue::from_static("1"));
            if let Some(tier) = tier {
                headers.insert("x-amzn-bedrock-service-tier", HeaderValue::from_static(tier));
            }
            let signed = Signed {
                method: &http::Method::POST,
                uri: &uri.parse().unwrap(),
                body: &Bytes::from_static(body.as_bytes()).into(),
                now_ms: 1_795_521_600_000,
            };
            signer(more, host).unwrap().sign(&mut headers, &signed).unwrap();
            let expected = format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/{scope}, Signature={signature}");
            assert_eq!(headers["authorization"], expected, "{uri}");
            assert_eq!(headers["x-amz-date"], "20261124T120000Z");
            assert_eq!(headers.get("x-amz-security-token").is_some(), more.contains("Token"));
            assert!(headers["authorization"].is_sensitive());
        }
    }

    #[test]
    fn the_region_is_said_or_that_of_the_host() {
        for (host, region) in [
            ("bedrock-runtime.us-east-1.amazonaws.com", Some("us-east-1")),
            ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("bedrock-runtime.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("bedrock-runtime.eu-central-1.api.aws", Some("eu-central-1")),
            ("vpce-0123abcd-xyz.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", Some("ap-southeast-2")),
            ("vpce-0123abcd-xyz-us-east-1a.bedrock-runtime.us-east-1.vpce.amazonaws.com", Some("us-east-1")),
            ("bedrock-runtime.amazonaws.com", None),
            ("gateway.example.com", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(signer("", host).ok().map(|signer| signer.region).as_deref(), region, "{host}");
        }
        assert_eq!(signer(r#","region":"us-west-2""#, "127.0.0.1").unwrap().region, "us-west-2");
        let error = signer("", "gateway.example.com").unwrap_err().to_string();
        assert!(error.contains("\"gateway.example.com\"") && error.contains("add \"region\""), "{error}");
    }

    #[test]
    fn keys_are_never_printed_be_they_right_or_wrong() {
        let signer = signer(r#","sessionToken":"hush","region":"us-east-1""#, "h").unwrap();
        let wrong = Signer::of(&Secret::new(r#"{"accessKeyId":["AKID"],"secretAccessKey":"wJalr"}"#.into()), "h").unwrap_err();
        for text in [format!("{signer:?}"), wrong.to_string()] {
            assert!(!["wJalr", "AKID", "hush"].iter().any(|secret| text.contains(secret)), "{text}");
        }
        assert_eq!(wrong, CredentialError::Keys);
    }
}
