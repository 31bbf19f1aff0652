//! Binary frames of an event stream, with their checksums.

use axum::body::Bytes;

/// Frames of lines that each have an event's name, a space and its JSON.
pub fn framed(lines: &str) -> Bytes {
    lines.lines().filter_map(|line| line.split_once(' ')).flat_map(|(name, payload)| frame(name, payload)).collect()
}

fn frame(name: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    let (kind, of_kind) = if name.ends_with("Exception") { ("exception", ":exception-type") } else { ("event", ":event-type") };
    for (header, value) in [(of_kind, name), (":content-type", "application/json"), (":message-type", kind)] {
        headers.push(header.len() as u8);
        headers.extend_from_slice(header.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&(value.len() as u16).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = 12 + headers.len() + payload.len() + 4;
    let mut frame = Vec::with_capacity(length);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    frame.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload.as_bytes());
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame
}

/// The checksum of ISO 3309, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_checksums_that_everybody_computes() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let frames = framed("messageStop {\"stopReason\":\"end_turn\"}\n");
        let length = u32::from_be_bytes(*frames.first_chunk().unwrap()) as usize;
        assert_eq!(length, frames.len());
        assert_eq!(frames[length - 4..], crc32(&frames[..length - 4]).to_be_bytes());
    }
}
