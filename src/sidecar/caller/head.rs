//! The heads of callers' requests over HTTP/1.1 (RFC 9112), out of text.
//!
//! What two readers may understand in two ways is refused, not mended: whoever gets a second request past the first one would have it
//! answered without a budget.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Uri;
use http::{Method, Request, StatusCode, Version};
use httparse::{EMPTY_HEADER, Status};

use crate::sidecar::http1::fields::{is_chunked, keeps_alive, stated_length};
use crate::sidecar::http1::framing::Framing;
use crate::sidecar::http1::{HEAD_LIMIT, HEADERS};

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    pub request: Request<()>,
    pub framing: Framing,
    /// The connection may carry another request after this one.
    pub keeps_alive: bool,
    /// The caller waits for a word before it sends the body (`Expect: 100-continue`).
    pub awaits_word: bool,
}

/// Why a request cannot be understood, in words for its caller.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the request is not HTTP/1.1: {0}")]
    Malformed(httparse::Error),
    #[error("the request has more than {HEADERS} headers")]
    TooMany,
    #[error("the request's head is larger than {HEAD_LIMIT} bytes")]
    TooLarge,
    #[error("the request has a method, a target or a header that is none")]
    Field,
    #[error("the request must say once to which host it goes")]
    Host,
    #[error("the request does not say where it ends: {0}")]
    Unframed(&'static str),
}

impl HeadError {
    pub fn status(&self) -> StatusCode {
        match self {
            HeadError::TooMany | HeadError::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            HeadError::Malformed(httparse::Error::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            HeadError::Malformed(_) | HeadError::Field | HeadError::Host | HeadError::Unframed(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a whole head, which is all of `text`. Its headers' values are parts of that.
///
/// # Errors
/// When it is none: nothing more of the connection can be understood then.
pub fn read(text: &Bytes) -> Result<Head, HeadError> {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(text) {
        Ok(Status::Complete(length)) if length == text.len() => {}
        Ok(_) => return Err(HeadError::Field),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooMany),
        Err(error) => return Err(HeadError::Malformed(error)),
    }
    let part = |within: &[u8]| text.slice_ref(within);
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| HeadError::Field)?;
    let target = part(parsed.path.unwrap_or_default().as_bytes());
    let mut map = HeaderMap::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Field)?;
        map.append(name, HeaderValue::from_maybe_shared(part(field.value)).map_err(|_| HeadError::Field)?);
    }
    let mut hosts = map.get_all(header::HOST).iter();
    if version == Version::HTTP_11 && hosts.next().is_none() || hosts.next().is_some() {
        return Err(HeadError::Host);
    }
    let framing = framing(version, &map)?;
    let keeps_alive = keeps_alive(version, &map);
    let awaits_word = version == Version::HTTP_11
        && framing.exact() != Some(0)
        && map.get(header::EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_maybe_shared(target).map_err(|_| HeadError::Field)?;
    (*request.method_mut(), *request.version_mut(), *request.headers_mut()) = (method, version, map);
    Ok(Head { request, framing, keeps_alive, awaits_word })
}

/// How the body is delimited (RFC 9112, section 6.3): none unless it is said.
fn framing(version: Version, headers: &HeaderMap) -> Result<Framing, HeadError> {
    let length = stated_length(headers).map_err(HeadError::Unframed)?;
    if is_chunked(version, headers).map_err(HeadError::Unframed)? {
        return if length.is_some() { Err(HeadError::Unframed("it has both a length and chunks")) } else { Ok(Framing::chunked()) };
    }
    Ok(Framing::length(length.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, HeadError> {
        read(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_request_ends_where_its_head_says_and_its_connection_goes_on_unless_it_says_otherwise() {
        use Framing as F;
        for (more, framing, keeps_alive, awaits_word) in [
            ("", F::length(0), true, false),
            ("content-length: 5\r\n", F::length(5), true, false),
            ("content-length: 5, 5\r\ncontent-length: 5\r\n", F::length(5), true, false),
            ("Transfer-Encoding: Chunked\r\nexpect: 100-Continue\r\n", F::chunked(), true, true),
            ("expect: 100-continue\r\n", F::length(0), true, false),
            ("connection: x, Close\r\n", F::length(0), false, false),
        ] {
            let head = head(&format!("POST /v1/x?y=1 HTTP/1.1\r\nhost: h\r\n{more}\r\n")).unwrap();
            assert_eq!((&head.framing, head.keeps_alive, head.awaits_word), (&framing, keeps_alive, awaits_word), "{more}");
            assert_eq!(
                (head.request.method(), head.request.uri().path(), head.request.uri().query()),
                (&Method::POST, "/v1/x", Some("y=1"))
            );
            assert_eq!(head.request.headers()["host"], "h");
        }
        assert!(!head("GET / HTTP/1.0\r\n\r\n").unwrap().keeps_alive);
        assert!(head("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").unwrap().keeps_alive);
        assert_eq!(head("GET http://other:1/a HTTP/1.1\r\nhost: h\r\n\r\n").unwrap().request.uri().path(), "/a");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (text, status) in [
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +5\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: \r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999999999999\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked, identity\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: h\r\nhost: i\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost : h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: h\r\na: b\r\n c\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: h\r\na b: c\r\n\r\n", 400),
            ("GET /a b HTTP/1.1\r\nhost: h\r\n\r\n", 505),
            ("GET  / HTTP/1.1\r\nhost: h\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nhost: h\r\n\r\n", 505),
            ("GET / HTTP/1.1\r\nhost: h\r\n\r\nmore\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: h\r\n", 400),
            ("not http\r\n\r\n", 400),
        ] {
            assert_eq!(head(text).map_err(|error| error.status().as_u16()).unwrap_err(), status, "{text}");
        }
        let many = format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "a: b\r\n".repeat(HEADERS));
        assert_eq!(head(&many).unwrap_err(), HeadError::TooMany);
    }
}
