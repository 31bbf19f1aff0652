//! Server-sent events (HTML Standard, section 9.2.6), as far as providers make use of them: where one ends, and its data.

use std::borrow::Cow;

use memchr::memchr;

/// Where the first event ends: after an empty line, with either line ending.
pub fn end_of_event(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = memchr(b'\n', &bytes[from..]) {
        let next = from + found + 1;
        match bytes.get(next..) {
            Some([b'\n', ..]) => return Some(next + 1),
            Some([b'\r', b'\n', ..]) => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

/// Where the first line ends.
pub fn end_of_line(bytes: &[u8]) -> Option<usize> {
    memchr(b'\n', bytes).map(|at| at + 1)
}

/// The payload of an event's `data:` lines; those of several lines are rare and are joined by a newline.
pub fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut payload: Option<Cow<'_, [u8]>> = None;
    let mut rest = event;
    while !rest.is_empty() {
        let (line, after) = rest.split_at(end_of_line(rest).unwrap_or(rest.len()));
        rest = after;
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        payload = Some(match payload {
            None => Cow::Borrowed(value),
            Some(first) => {
                let mut joined = first.into_owned();
                joined.push(b'\n');
                joined.extend_from_slice(value);
                Cow::Owned(joined)
            }
        });
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_what_the_lines_of_that_name_say() {
        for (event, expected) in [
            ("data: {}\n\n", Some("{}")),
            ("data:{}\r\n\r\n", Some("{}")),
            ("data:  {}", Some(" {}")),
            ("data:\n\n", Some("")),
            ("event: delta\nid: 1\ndata: {}\n\n", Some("{}")),
            ("data: [1,\r\nid: 1\r\ndata: 2]\r\n\r\n", Some("[1,\n2]")),
            (": comment\n\n", None),
            ("event: ping\n\n", None),
            ("\n", None),
            ("", None),
        ] {
            assert_eq!(data(event.as_bytes()).as_deref(), expected.map(str::as_bytes), "{event:?}");
        }
    }
}
