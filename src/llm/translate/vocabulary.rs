//! Words that formats share under other names: why an answer stopped, where an image is, and how hard to think.

use std::borrow::Cow;

/// An image in a message.
pub enum Image<'a> {
    Inline {
        media_type: Cow<'a, str>,
        base64: Cow<'a, str>,
    },
    /// The provider fetches it.
    At(Cow<'a, str>),
}

/// An image by its URL; `None` for what is neither a data URI in base64 nor on the web.
pub fn image_of_url(url: Cow<'_, str>) -> Option<Image<'_>> {
    let Some(rest) = strip_scheme(&url, "data:") else {
        return (strip_scheme(&url, "https:").is_some() || strip_scheme(&url, "http:").is_some()).then_some(Image::At(url));
    };
    let (head, data) = rest.split_once(',')?;
    let media_type = strip_suffix(head, ";base64")?;
    let media_type = media_type.split(';').next().unwrap_or_default().to_ascii_lowercase();
    let from = url.len() - data.len();
    if media_type.is_empty() {
        return None;
    }
    let base64 = match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[from..]),
        Cow::Owned(url) => Cow::Owned(url[from..].to_owned()),
    };
    Some(Image::Inline { media_type: media_type.into(), base64 })
}

fn strip_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let head = url.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then(|| &url[scheme.len()..])
}

fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let at = text.len().checked_sub(suffix.len())?;
    text.get(at..)?.eq_ignore_ascii_case(suffix).then(|| &text[..at])
}

/// Why an answer stopped, in Chat Completions' words.
///
/// | Messages | Converse | generateContent | here |
/// |---|---|---|---|
/// | `end_turn`, `stop_sequence`, `pause_turn` | `end_turn`, `stop_sequence` | `STOP` | `stop` |
/// | `tool_use` | `tool_use` | any, with calls | `tool_calls` |
/// | `max_tokens`, `model_context_window_exceeded` | the same | `MAX_TOKENS` | `length` |
/// | `refusal` | `guardrail_intervened`, `content_filtered` | `SAFETY` and its like, a blocked prompt | `content_filter` |
/// | anything else | | | `stop`; `tool_calls` if there are calls |
pub fn finish_reason(stop_reason: &str, has_calls: bool) -> &'static str {
    match stop_reason {
        "max_tokens" | "model_context_window_exceeded" | "MAX_TOKENS" => "length",
        "refusal" | "guardrail_intervened" | "content_filtered" => "content_filter",
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "MODEL_ARMOR" | "JAILBREAK" => "content_filter",
        other if other.starts_with("IMAGE_") => "content_filter",
        "tool_use" => "tool_calls",
        _ if has_calls => "tool_calls",
        _ => "stop",
    }
}

/// Why an answer stopped, in the words of Messages. Chat Completions does not say which stop sequence it was, nor that it was one.
pub fn stop_reason(finish_reason: &str, has_calls: bool) -> &'static str {
    match finish_reason {
        "length" => "max_tokens",
        "content_filter" => "refusal",
        "tool_calls" | "function_call" => "tool_use",
        _ if has_calls => "tool_use",
        _ => "end_turn",
    }
}

/// Levels of effort that Chat Completions, Messages and Converse name alike.
pub const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_urls() {
        for (url, media_type, rest) in [
            ("data:image/png;base64,AAAA", "image/png", "AAAA"),
            ("DATA:Image/PNG;charset=x;BASE64,AA==", "image/png", "AA=="),
            ("https://example.com/a.png", "", "https://example.com/a.png"),
            ("HTTP://example.com/a.png", "", "HTTP://example.com/a.png"),
        ] {
            for url in [Cow::Borrowed(url), Cow::Owned(url.to_owned())] {
                match image_of_url(url) {
                    Some(Image::Inline { media_type: found, base64 }) => assert_eq!((found.as_ref(), base64.as_ref()), (media_type, rest)),
                    Some(Image::At(url)) => assert_eq!(url, rest),
                    None => panic!("{rest}"),
                }
            }
        }
        for url in ["", "data:", "data:,x", "data:image/png,raw", "data:;base64,AA", "file:///etc/passwd", "gs://b/o", "é"] {
            assert!(image_of_url(url.into()).is_none(), "{url}");
        }
    }
}
