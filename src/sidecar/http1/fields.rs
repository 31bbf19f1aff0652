//! Headers that say how messages and connections end.

use http::Version;
use http::header::{self, HeaderMap, HeaderValue};
use memchr::memmem;

/// Bytes of the head with which `bytes` begin, its empty line included; `None` while it is not all there. Looking for its end is cheap,
/// so that only a whole head is parsed: else one that comes byte by byte would take the square of its length.
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    let strict = memmem::find(bytes, b"\n\r\n");
    // Another end would have to begin before that one: what follows, which is most often a body, is not looked through.
    let before = strict.map_or(bytes, |at| &bytes[..=at]);
    memmem::find(before, b"\n\n").map(|at| at + 2).or(strict.map(|at| at + 3))
}

/// Appends one header.
pub fn write(name: &str, value: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

/// Appends a length in decimal digits.
pub fn write_number(mut number: u64, text: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[from..]);
}

/// What the headers say of the length of a body: all of them the same (RFC 9112, section 6.3).
///
/// # Errors
/// What is wrong with them.
pub fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    let values = headers.get_all(header::CONTENT_LENGTH).iter();
    for value in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let stated = number(value.trim_ascii()).ok_or("its content-length is no number")?;
        if *length.get_or_insert(stated) != stated {
            return Err("it states two lengths");
        }
    }
    Ok(length)
}

/// Decimal digits alone: neither a sign nor white space.
fn number(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// True when a body comes in chunks.
///
/// # Errors
/// When another coding than that is said to be on it, which only one of two readers may know.
pub fn is_chunked(version: Version, headers: &HeaderMap) -> Result<bool, &'static str> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if version == Version::HTTP_10 || codings.next().is_some() || !is_chunked {
        return Err("its transfer-encoding is not chunked");
    }
    Ok(true)
}

/// True when a connection may carry another message after this one.
pub fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |wanted: &str| {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case(wanted))
    };
    if version == Version::HTTP_10 { says("keep-alive") } else { !says("close") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        for (text, length) in [
            ("a\r\n\r\nb\n\n", Some(5)),
            ("a\n\nb\r\n\r\n", Some(3)),
            ("a\n\n\r\n", Some(3)),
            ("a\r\nb\r\n", None),
            ("", None),
            ("a\r\n\r", None),
        ] {
            assert_eq!(head_length(text.as_bytes()), length, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_written_as_it_is(number: u64) {
            let mut text = Vec::new();
            write_number(number, &mut text);
            prop_assert_eq!(String::from_utf8(text).unwrap(), number.to_string());
        }
    }
}
