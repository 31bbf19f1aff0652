//! Frames of `application/vnd.amazon.eventstream`, in which Bedrock streams its answers.
//!
//! | bytes | what |
//! |---|---|
//! | 4, 4, 4 | length of the frame, length of its headers, CRC-32 of these eight bytes; all big-endian |
//! | … | headers: length of the name, name, type of the value, value |
//! | … | payload |
//! | 4 | CRC-32 of everything before |
//!
//! Format: <https://smithy.io/2.0/aws/amazon-eventstream.html>.

use serde_json::{Value, json};

/// The lengths and their checksum.
const PRELUDE: usize = 12;
/// The checksum of the frame.
const TRAILER: usize = 4;

/// The first four bytes as a number.
fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The length of the frame and of its headers; `None` where its beginning is none of a frame.
fn lengths(prelude: &[u8; PRELUDE]) -> Option<(usize, usize)> {
    let (frame, headers) = (number(prelude)? as usize, number(&prelude[4..])? as usize);
    let is_whole = number(&prelude[8..])? == crc32fast::hash(&prelude[..8]);
    let has_room = headers.checked_add(PRELUDE + TRAILER).is_some_and(|least| least <= frame);
    (is_whole && has_room).then_some((frame, headers))
}

/// Where the first frame ends; `None` while more of it must come.
///
/// What does not begin as a frame does never becomes one, and nothing says where the next begins. So it all counts as one event,
/// which has no payload: it goes on to the caller, and a stream whose figures were in it is charged as reserved.
pub fn end_of_frame(bytes: &[u8]) -> Option<usize> {
    match lengths(bytes.first_chunk()?) {
        Some((frame, _)) => (frame <= bytes.len()).then_some(frame),
        None => Some(bytes.len()),
    }
}

/// The event that a frame carries, in the form in which the API describes its streams, a union: `{"metadata": {…}}`, and for an
/// exception `{"throttlingException": {…}}`. `None` when a checksum is wrong or it carries no JSON event.
pub fn payload(frame: &[u8]) -> Option<Vec<u8>> {
    let (length, headers) = lengths(frame.first_chunk()?)?;
    let (body, checksum) = frame.split_at_checked(length.checked_sub(TRAILER)?)?;
    if frame.len() != length || number(checksum)? != crc32fast::hash(body) {
        return None;
    }
    let (headers, payload) = body[PRELUDE..].split_at_checked(headers)?;
    let headers = Headers::read(headers)?;
    let name = match headers.kind? {
        "event" => headers.event?,
        "exception" => headers.exception?,
        // An error that the service has no shape for; its words are in headers.
        "error" => return Some(unmodelled(headers.code, headers.message)),
        _ => return None,
    };
    let name = Value::from(name).to_string();
    let payload = if payload.is_empty() { b"{}" } else { payload };
    Some([b"{", name.as_bytes(), b":", payload, b"}"].concat())
}

fn unmodelled(code: Option<&str>, message: Option<&str>) -> Vec<u8> {
    let message = format!("{}: {}", code.unwrap_or("error"), message.unwrap_or_default());
    json!({"modelStreamErrorException": {"message": message}}).to_string().into_bytes()
}

/// The headers that tell what a frame is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Headers<'a> {
    kind: Option<&'a str>,
    event: Option<&'a str>,
    exception: Option<&'a str>,
    code: Option<&'a str>,
    message: Option<&'a str>,
}

impl<'a> Headers<'a> {
    /// `None` when they are not what their lengths say.
    fn read(mut bytes: &'a [u8]) -> Option<Headers<'a>> {
        let mut headers = Headers::default();
        while let Some((length, rest)) = bytes.split_first() {
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            let (text, rest) = value(rest)?;
            bytes = rest;
            let member = match name {
                b":message-type" => &mut headers.kind,
                b":event-type" => &mut headers.event,
                b":exception-type" => &mut headers.exception,
                b":error-code" => &mut headers.code,
                b":error-message" => &mut headers.message,
                _ => continue,
            };
            *member = text;
        }
        Some(headers)
    }
}

/// A header's value, when it is text, and what follows it.
fn value(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (length, rest) = match kind {
        // True and false.
        0 | 1 => (0, rest),
        // A byte; numbers of 16, 32 and 64 bits.
        2 => (1, rest),
        3 => (2, rest),
        4 => (4, rest),
        5 => (8, rest),
        // Bytes and text, whose length is in front of them.
        6 | 7 => {
            let (length, rest) = rest.split_at_checked(2)?;
            (usize::from(u16::from_be_bytes([length[0], length[1]])), rest)
        }
        // A time; a UUID.
        8 => (8, rest),
        9 => (16, rest),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    let text = if *kind == 7 { Some(std::str::from_utf8(value).ok()?) } else { None };
    Some((text, rest))
}

#[cfg(test)]
pub mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
    use proptest::prelude::*;

    use super::*;

    /// A frame as the vendor's own implementation writes it.
    pub fn frame(headers: &[(&'static str, &str)], payload: &str) -> Vec<u8> {
        let text = |value: &str| HeaderValue::String(value.to_owned().into());
        let message = headers
            .iter()
            .fold(Message::new(payload.as_bytes().to_vec()), |message, (name, value)| message.add_header(Header::new(*name, text(value))));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).unwrap();
        bytes
    }

    pub fn event(name: &str, payload: &str) -> Vec<u8> {
        frame(&[(":event-type", name), (":content-type", "application/json"), (":message-type", "event")], payload)
    }

    fn text(frame: &[u8]) -> Option<String> {
        payload(frame).map(|payload| String::from_utf8(payload).unwrap())
    }

    #[test]
    fn an_event_is_told_by_its_type() {
        let frame = event("metadata", r#"{"usage":{}}"#);
        assert_eq!(end_of_frame(&frame), Some(frame.len()));
        assert_eq!(text(&frame).as_deref(), Some(r#"{"metadata":{"usage":{}}}"#));
        assert_eq!(text(&event("messageStop", "")).as_deref(), Some(r#"{"messageStop":{}}"#));
    }

    #[test]
    fn what_fails_within_a_stream_is_told_by_its_exception() {
        let exception = frame(&[(":exception-type", "throttlingException"), (":message-type", "exception")], r#"{"message":"slow"}"#);
        assert_eq!(text(&exception).as_deref(), Some(r#"{"throttlingException":{"message":"slow"}}"#));
        let error = frame(&[(":message-type", "error"), (":error-code", "Broken"), (":error-message", "say \"it\"")], "");
        assert_eq!(text(&error).as_deref(), Some(r#"{"modelStreamErrorException":{"message":"Broken: say \"it\""}}"#));
    }

    #[test]
    fn headers_of_every_kind_are_skipped() {
        let kinds = [
            HeaderValue::Bool(true),
            HeaderValue::Bool(false),
            HeaderValue::Byte(1),
            HeaderValue::Int16(2),
            HeaderValue::Int32(3),
            HeaderValue::Int64(4),
            HeaderValue::ByteArray(vec![5; 300].into()),
            HeaderValue::Timestamp(aws_smithy_types::DateTime::from_secs(6)),
            HeaderValue::Uuid(7),
        ];
        let mut message = Message::new("{}".as_bytes());
        for (index, kind) in kinds.into_iter().enumerate() {
            message = message.add_header(Header::new(format!("h{index}"), kind));
        }
        for (name, value) in [(":message-type", "event"), (":event-type", "chunk")] {
            message = message.add_header(Header::new(name, HeaderValue::String(value.into())));
        }
        let mut frame = Vec::new();
        write_message_to(&message, &mut frame).unwrap();
        assert_eq!(text(&frame).as_deref(), Some(r#"{"chunk":{}}"#));
    }

    #[test]
    fn a_frame_whose_bytes_changed_on_the_way_carries_nothing() {
        let frame = event("metadata", r#"{"usage":{}}"#);
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 1;
            assert_eq!(payload(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn what_is_no_frame_is_not_waited_for() {
        let frame = event("metadata", "{}");
        assert_eq!(end_of_frame(&frame[..11]), None, "its lengths are not there yet");
        assert_eq!(end_of_frame(&frame[..12]), None, "its end is not there yet");
        let mut endless = frame.clone();
        endless[0] = 0x7f;
        assert_eq!(end_of_frame(&endless), Some(endless.len()));
        assert_eq!(payload(&endless), None);
        // Lengths that contradict each other, with a checksum that is right.
        let mut contradicts = [&8_u32.to_be_bytes()[..], &[0; 4]].concat();
        contradicts.extend(crc32fast::hash(&contradicts).to_be_bytes());
        assert_eq!(end_of_frame(&contradicts), Some(12));
    }

    proptest! {
        #[test]
        fn any_payload_is_read_as_the_vendor_wrote_it(name in "[a-zA-Z]{1,20}", payload in "\\PC{1,200}") {
            let read = text(&event(&name, &payload));
            prop_assert_eq!(read, Some(format!("{{\"{name}\":{payload}}}")));
        }

        #[test]
        fn hostile_bytes_never_panic_and_an_end_is_within_them(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = payload(&bytes);
            let _ = Headers::read(&bytes);
            if let Some(end) = end_of_frame(&bytes) {
                prop_assert!(end > 0 && end <= bytes.len());
            }
        }
    }
}
