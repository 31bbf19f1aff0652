//! Letting a request in: what it is by its path, whose it is by its headers, and what it asks for by its body.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body::Body;
use http_body_util::BodyExt;

use super::call::Settings;
use super::refusal::Refusal;
use super::telemetry::Trace;
use crate::core::dimensions::{Dimension, DimensionPolicy, Dimensions};
use crate::llm::address::{percent_decoded, recognise};
use crate::llm::{self, Addressed, ErrorKind};

/// Where outcomes are reported.
pub const OUTCOMES_PATH: &str = "/spend/v1/outcomes";
/// Room that is made for a body because its caller says that it is so long.
const TRUSTED: usize = 256 << 10;
/// Prefix of the headers with dimensions.
const SPEND_PREFIX: &str = "x-spend-";

/// The headers with dimensions.
const CLAIMS: [(Dimension, HeaderName); 5] = [
    (Dimension::Feature, HeaderName::from_static("x-spend-feature")),
    (Dimension::Team, HeaderName::from_static("x-spend-team")),
    (Dimension::Process, HeaderName::from_static("x-spend-process")),
    (Dimension::Agent, HeaderName::from_static("x-spend-agent")),
    (Dimension::Session, HeaderName::from_static("x-spend-session")),
];

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Model(Addressed),
    /// The models that may be asked for.
    Models,
    /// A shared service, and the path there.
    Shared {
        name: &'a str,
        path: &'a str,
    },
    Outcomes,
    /// Anything else that a provider may know.
    Other,
}

/// Tells a request by its method and path. SDKs are pointed here with and without `/v1`, so both work.
pub fn target<'a>(method: &Method, path: &'a str) -> Target<'a> {
    if let Some(rest) = path.strip_prefix("/shared/") {
        let (name, _) = rest.split_once('/').unwrap_or((rest, ""));
        return Target::Shared { name, path: &rest[name.len()..] };
    }
    match (method, path, path.strip_prefix("/v1").unwrap_or(path)) {
        (&Method::GET, _, "/models") | (&Method::GET, "/openai/v1/models" | "/openai/models", _) => Target::Models,
        (&Method::POST, OUTCOMES_PATH, _) => Target::Outcomes,
        (&Method::POST, _, _) => recognise(path).map_or(Target::Other, Target::Model),
        _ => Target::Other,
    }
}

/// A call to a model, understood.
pub struct Admitted {
    pub request: llm::Request,
    pub dimensions: Dimensions,
    /// What goes on to the provider.
    pub headers: HeaderMap,
    pub query: Option<String>,
    pub started: Instant,
    /// Unix milliseconds.
    pub started_at_ms: i64,
    /// `None` where the call is not to be recorded.
    pub trace: Option<Box<Trace>>,
}

/// Reads a request for a model.
///
/// # Errors
/// When its body is too large or cannot be understood.
pub async fn admit<B>(
    addressed: Addressed,
    request: Request<B>,
    policy: &DimensionPolicy,
    settings: &Settings,
    started_at_ms: i64,
) -> Result<Admitted, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let body = read_in_time(body, settings).await?;
    let mut request = llm::parse(addressed, body).map_err(|e| Refusal::new(ErrorKind::InvalidRequest, e.to_string()))?;
    request.heed_headers(&|name| text_of(&parts.headers, name));
    let dimensions = dimensions(policy, &parts.headers);
    clean(&mut parts.headers);
    let query = parts.uri.query().map(str::to_owned);
    Ok(Admitted { request, dimensions, headers: parts.headers, query, started, started_at_ms, trace: None })
}

/// The whole body, unless it is too large or too slow.
///
/// # Errors
/// What is the matter with it.
pub async fn read_in_time<B>(body: B, settings: &Settings) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tokio::time::timeout(settings.request_timeout, read(body, settings.body_limit)).await.unwrap_or_else(|_| {
        let seconds = settings.request_timeout.as_secs();
        Err(Refusal::new(ErrorKind::TooSlow, format!("the request's body did not arrive within {seconds} s; see --request-seconds")))
    })
}

/// A header's value as text.
pub fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The whole body, or a refusal when it is larger than `limit`; nothing is read of one that says so beforehand.
///
/// # Errors
/// When it is too large, or the caller stopped sending.
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let too_large = || {
        let message = format!("the request's body is larger than {limit} bytes; shorten it, or raise the sidecar's --body-limit-mib");
        Refusal::new(ErrorKind::TooLarge, message)
    };
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut body = std::pin::pin!(body);
    if expected > limit {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = |error: B::Error| {
            let error = error.into();
            Refusal::new(ErrorKind::InvalidRequest, format!("the request's body broke off: {error}"))
        };
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_large());
        }
        // Most often it comes in one piece.
        if data.len() == expected && body.is_end_stream() {
            return Ok(data);
        }
        if whole.is_empty() {
            whole.reserve(expected.clamp(data.len(), TRUSTED.max(data.len())));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Gives headers values of their own. They are parts of what was read from a connection, whose buffer can take the next read only when
/// nothing holds a part of it any more: else each call would have another one.
pub fn detach(headers: &mut HeaderMap) {
    let mut text = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    for value in headers.values_mut() {
        text.extend_from_slice(value.as_bytes());
        // The same bytes are as valid as they were.
        if let Ok(mut own) = HeaderValue::from_maybe_shared(text.split().freeze()) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
}

/// The dimensions of a call: the pod's own, and what its headers may add.
pub fn dimensions(policy: &DimensionPolicy, headers: &HeaderMap) -> Dimensions {
    let mut claims = baggage(headers);
    for (dimension, name) in CLAIMS {
        if let Some(value) = headers.get(name).and_then(|v| v.to_str().ok()) {
            claims.insert(dimension, value.to_owned());
        }
    }
    policy.resolve(|dimension| claims.get(&dimension).map(String::as_str))
}

/// Dimensions in W3C baggage, as `spend.<dimension>` or `<dimension>`; the former wins.
fn baggage(headers: &HeaderMap) -> BTreeMap<Dimension, String> {
    let mut claims = BTreeMap::new();
    let lists = headers.get_all("baggage").iter().filter_map(|v| v.to_str().ok());
    for member in lists.flat_map(|list| list.split(',')) {
        let pair = member.split(';').next().unwrap_or_default();
        let Some((key, value)) = pair.split_once('=') else { continue };
        let (key, value) = (key.trim(), String::from_utf8_lossy(&percent_decoded(value.trim())).into_owned());
        if let Some(dimension) = key.strip_prefix("spend.").and_then(Dimension::from_name) {
            claims.insert(dimension, value);
        } else if let Some(dimension) = Dimension::from_name(key) {
            claims.entry(dimension).or_insert(value);
        }
    }
    claims
}

/// Headers between two neighbours (RFC 9110, section 7.6.1), which no proxy passes on.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes hop-by-hop headers, those that `Connection` names included.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Leaves what a provider may see. `baggage` is for the app's own services; an answer must come uncompressed, to be metered.
pub fn clean(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT, header::PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    headers.remove("baggage");
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(SPEND_PREFIX)).cloned().collect();
    ours.iter().for_each(|name| {
        headers.remove(name);
    });
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::core::policy::Protocol;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn requests_are_told_by_method_and_path_with_and_without_v1() {
        let model = |protocol| Target::Model(Addressed::plain(protocol));
        let openai = model(Protocol::OpenAIChat);
        for (method, path, expected) in [
            (Method::POST, "/v1/chat/completions", openai.clone()),
            (Method::POST, "/chat/completions", openai),
            (Method::POST, "/v1/messages", model(Protocol::AnthropicMessages)),
            (Method::GET, "/v1/models", Target::Models),
            (Method::POST, "/spend/v1/outcomes", Target::Outcomes),
            (Method::GET, "/shared/vectors/query/x", Target::Shared { name: "vectors", path: "/query/x" }),
            (Method::GET, "/shared/vectors", Target::Shared { name: "vectors", path: "" }),
            (Method::GET, "/v1/chat/completions", Target::Other),
            (Method::POST, "/v1/files", Target::Other),
        ] {
            assert_eq!(target(&method, path), expected, "{path}");
        }
    }

    #[test]
    fn dimensions_come_from_headers_and_else_from_baggage() {
        let claimed = headers(&[
            ("x-spend-feature", "search"),
            ("baggage", "userId=alice, spend.session=s%201;ttl=3,team=red , spend.team=blue,feature=chat"),
        ]);
        let dimensions = dimensions(&DimensionPolicy::default(), &claimed);
        for (dimension, value) in [(Dimension::Feature, "search"), (Dimension::Session, "s 1"), (Dimension::Team, "blue")] {
            assert_eq!(dimensions.get(dimension), Some(value));
        }
    }

    #[test]
    fn every_dimension_has_its_header() {
        let named = CLAIMS.map(|(dimension, name)| (dimension, name.as_str().strip_prefix(SPEND_PREFIX).map(str::to_owned)));
        assert_eq!(named, Dimension::ALL.map(|dimension| (dimension, Some(dimension.name().to_owned()))));
    }

    #[test]
    fn a_provider_sees_neither_dimensions_nor_hop_by_hop_headers() {
        let mut sent = headers(&[
            ("x-spend-team", "red"),
            ("baggage", "userId=alice"),
            ("connection", "x-mine, close"),
            ("x-mine", "1"),
            ("host", "127.0.0.1"),
            ("accept-encoding", "gzip"),
            ("authorization", "Bearer k"),
            ("anthropic-beta", "b"),
        ]);
        clean(&mut sent);
        assert_eq!(sent, headers(&[("authorization", "Bearer k"), ("anthropic-beta", "b"), ("accept-encoding", "identity")]));
    }

    #[test]
    fn detached_headers_are_the_same_and_hold_nothing_of_what_they_were_read_from() {
        let read = Bytes::from(b"key-1, abc".to_vec());
        let part = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
        let mut sent = HeaderMap::new();
        sent.append("authorization", part(0..5));
        sent.append("accept", part(7..10));
        sent.append("accept", HeaderValue::from_static(""));
        sent.values_mut().next().unwrap().set_sensitive(true);
        let before = sent.clone();
        detach(&mut sent);
        assert_eq!(sent, before);
        assert!(sent["authorization"].is_sensitive() && !sent["accept"].is_sensitive());
        drop(before);
        assert!(read.is_unique());
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused() {
        assert_eq!(read(Full::new(Bytes::from_static(b"1234")), 4).await.unwrap(), "1234");
        let refusal = read(Full::new(Bytes::from_static(b"12345")), 4).await.unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::TooLarge);
    }
}
