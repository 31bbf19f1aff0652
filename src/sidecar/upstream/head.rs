//! The heads of messages over HTTP/1.1 (RFC 9112): requests as text, and answers out of it.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version, request};
use httparse::{EMPTY_HEADER, Status};

use crate::sidecar::http1::fields::{self, is_chunked, keeps_alive, stated_length};
use crate::sidecar::http1::framing::Framing;
use crate::sidecar::http1::{HEAD_LIMIT, HEADERS};

/// Room in an answer's headers for what a caller is told of its call: model, cost, what is left, and how it was made to fit.
const ADDED: usize = 5;

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// In bytes.
    Known(u64),
    /// In chunks, because nobody knows it yet.
    Chunked,
}

/// Appends the head of a request to `host` to `text`. What delimits its body is said here and nowhere else: headers that claim to are left out.
pub fn write(parts: &request::Parts, host: &str, length: Length, text: &mut Vec<u8>) {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    text.extend_from_slice(parts.method.as_str().as_bytes());
    text.push(b' ');
    // A forward proxy is told the whole URI.
    if let (Some(scheme), Some(authority)) = (parts.uri.scheme_str(), parts.uri.authority()) {
        for part in [scheme, "://", authority.as_str()] {
            text.extend_from_slice(part.as_bytes());
        }
    }
    text.extend_from_slice(path.as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    fields::write("host", host.as_bytes(), text);
    for (name, value) in &parts.headers {
        if !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION) {
            fields::write(name.as_str(), value.as_bytes(), text);
        }
    }
    match length {
        // A request that is defined without a body need not say that it has none (RFC 9110, section 8.6).
        Length::Known(0) if !matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) => {}
        Length::Known(bytes) => {
            text.extend_from_slice(b"content-length: ");
            fields::write_number(bytes, text);
            text.extend_from_slice(b"\r\n");
        }
        Length::Chunked => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    text.extend_from_slice(b"\r\n");
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    pub response: Response<()>,
    pub framing: Framing,
    /// The connection may carry another call when all of the answer was read.
    pub keeps_alive: bool,
    /// Bytes of the head; what follows is the body.
    pub length: usize,
}

/// Why there is no head.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("its answer is not HTTP/1.1: {0}")]
    Malformed(httparse::Error),
    #[error("its answer has a header that is none")]
    Header,
    #[error("the head of its answer is larger than {HEAD_LIMIT} bytes")]
    TooLarge,
    #[error("its answer does not say where it ends: {0}")]
    Unframed(&'static str),
    #[error("it wants to speak another protocol, which nobody asked it to")]
    Switching,
}

/// Reads the head of the final answer to a request by `method`; `None` while it is not all there.
///
/// # Errors
/// When there will be none: nothing more of the connection can be understood then.
pub fn read(bytes: &[u8], method: &Method) -> Result<Option<Head>, HeadError> {
    let mut before = 0;
    while let Some((mut head, interim)) = read_one(&bytes[before..], method)? {
        before += head.length;
        if before > HEAD_LIMIT {
            return Err(HeadError::TooLarge);
        }
        if !interim {
            head.length = before;
            return Ok(Some(head));
        }
    }
    if bytes.len() > HEAD_LIMIT { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// One head, and whether the final one is still to come.
fn read_one(bytes: &[u8], method: &Method) -> Result<Option<(Head, bool)>, HeadError> {
    if fields::head_length(bytes).is_none() {
        return Ok(None);
    }
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let Status::Complete(length) = parsed.parse(bytes).map_err(HeadError::Malformed)? else { return Ok(None) };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(HeadError::Header)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(HeadError::Switching);
    }
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    // One copy of the head, of which each value is a part.
    let text = Bytes::copy_from_slice(&bytes[..length]);
    let mut map = HeaderMap::with_capacity(parsed.headers.len() + ADDED);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Header)?;
        let begin = field.value.as_ptr() as usize - bytes.as_ptr() as usize;
        let value = text.slice(begin..begin + field.value.len());
        map.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Header)?);
    }
    let (framing, delimited) = framing(status, version, &map, method)?;
    let keeps_alive = delimited && keeps_alive(version, &map);
    let mut response = Response::new(());
    (*response.status_mut(), *response.version_mut(), *response.headers_mut()) = (status, version, map);
    Ok(Some((Head { response, framing, keeps_alive, length }, status.is_informational())))
}

/// How the body is delimited (RFC 9112, section 6.3), and whether that is beyond doubt.
fn framing(status: StatusCode, version: Version, headers: &HeaderMap, method: &Method) -> Result<(Framing, bool), HeadError> {
    let without_body = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if without_body || *method == Method::HEAD {
        return Ok((Framing::length(0), true));
    }
    if is_chunked(version, headers).map_err(HeadError::Unframed)? {
        // Whoever sends both may be read otherwise by another; chunks are what counts, and the connection is not used again.
        return Ok((Framing::chunked(), !headers.contains_key(header::CONTENT_LENGTH)));
    }
    let length = stated_length(headers).map_err(HeadError::Unframed)?;
    Ok(length.map_or((Framing::until_close(), false), |length| (Framing::length(length), true)))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn written(request: Request<()>, length: Length) -> String {
        let mut text = Vec::new();
        write(&request.into_parts().0, "h", length, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_request_says_how_long_it_is_once_and_whatever_its_headers_claim() {
        let request = |method: Method, uri: &str| Request::builder().method(method).uri(uri).header("host", "another").body(()).unwrap();
        let mut claims = request(Method::POST, "/v1/x?y=1");
        for (name, value) in [("content-length", "9"), ("transfer-encoding", "chunked"), ("connection", "close")] {
            claims.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(written(claims, Length::Known(2)), "POST /v1/x?y=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n");
        let chunked = written(request(Method::POST, "/"), Length::Chunked);
        assert_eq!(chunked, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(written(request(Method::GET, "/"), Length::Known(0)), "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
        assert_eq!(written(request(Method::PUT, "/"), Length::Known(0)), "PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(written(request(Method::GET, "http://p:1/a"), Length::Known(0)), "GET http://p:1/a HTTP/1.1\r\nhost: h\r\n\r\n");
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        use Framing as F;
        for (head, framing, keeps_alive) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", F::length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\ncontent-length: 5\r\n\r\n", F::length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close\r\n\r\n", F::length(5), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", F::length(5), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n", F::length(5), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", F::chunked(), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", F::chunked(), false),
            ("HTTP/1.1 200 OK\r\n\r\n", F::until_close(), false),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", F::length(0), true),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                F::length(5),
                true,
            ),
        ] {
            let read = read(format!("{head}rest").as_bytes(), &Method::POST).unwrap().unwrap();
            assert_eq!((&read.framing, read.keeps_alive, read.length), (&framing, keeps_alive, head.len()), "{head}");
        }
        let to_head = read(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &Method::HEAD).unwrap().unwrap();
        assert_eq!((to_head.framing, to_head.keeps_alive), (F::length(0), true));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_read_in_none() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "not http\r\n\r\n",
        ] {
            assert!(read(head.as_bytes(), &Method::POST).is_err(), "{head}");
        }
    }

    #[test]
    fn a_head_is_awaited_and_has_its_limit() {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-id: 1\r\nx-id: 2\r\n\r\n";
        for end in 0..head.len() {
            assert!(read(&head.as_bytes()[..end], &Method::POST).unwrap().is_none(), "{end}");
        }
        let response = read(head.as_bytes(), &Method::POST).unwrap().unwrap().response;
        assert_eq!((response.status(), response.headers()["content-type"].as_bytes()), (StatusCode::OK, &b"text/plain"[..]));
        assert_eq!(response.headers().get_all("x-id").iter().collect::<Vec<_>>(), ["1", "2"]);
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_LIMIT));
        assert_eq!(read(endless.as_bytes(), &Method::POST).unwrap_err(), HeadError::TooLarge);
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(HEAD_LIMIT / 24);
        assert_eq!(read(interim.as_bytes(), &Method::POST).unwrap_err(), HeadError::TooLarge);
    }
}
