//! W3C Trace Context: whose child a call's span is, and what a provider is told of it.
//! <https://www.w3.org/TR/trace-context/>

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What everyone passes on at least (section 3.3.1.5), and what is kept in memory at most.
const STATE_BYTES: usize = 512;
const SAMPLED: u8 = 0b01;
/// The flags that a child has of its parent: that it is sampled, and that the trace's id is random.
const KEPT_FLAGS: u8 = 0b11;

pub type TraceId = [u8; 16];
pub type SpanId = [u8; 8];

/// The span that a caller is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    flags: u8,
}

/// The trace that the spans of one call belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: TraceId,
    /// `None` where the trace begins here.
    pub parent: Option<SpanId>,
    /// What vendors keep in the trace, as the caller sent it.
    pub state: String,
    flags: u8,
}

impl TraceContext {
    /// The context of a call that is to be recorded: its caller decides, and where that is in no trace, `ratio` of all traces (0 to 1)
    /// are.
    pub fn sampled(headers: &HeaderMap, ratio: f64) -> Option<TraceContext> {
        match parent(headers) {
            Some(Parent { flags, .. }) if flags & SAMPLED == 0 => None,
            Some(Parent { trace, span, flags }) => {
                Some(TraceContext { trace, parent: Some(span), state: state(headers), flags: flags & KEPT_FLAGS })
            }
            None => {
                // Its last seven bytes are random, as the trace context's second level asks for: the ratio is taken of them.
                let trace = Uuid::new_v4().into_bytes();
                is_within(trace, ratio).then(|| TraceContext { trace, parent: None, state: String::new(), flags: KEPT_FLAGS })
            }
        }
    }

    /// As OTLP has them: the trace's own, and that the parent is known to be in another process.
    pub fn flags_of_span(&self) -> u32 {
        const HAS_IS_REMOTE: u32 = 0x100;
        const IS_REMOTE: u32 = 0x200;
        u32::from(self.flags) | HAS_IS_REMOTE | if self.parent.is_some() { IS_REMOTE } else { 0 }
    }

    /// Tells whoever gets `headers` that it is called from `span`.
    pub fn propagate(&self, span: SpanId, headers: &mut HeaderMap) {
        let mut text = String::from("00-");
        self.trace.iter().for_each(|byte| put_hex(&mut text, *byte));
        text.push('-');
        span.iter().for_each(|byte| put_hex(&mut text, *byte));
        text.push('-');
        put_hex(&mut text, self.flags);
        headers.insert(TRACEPARENT, HeaderValue::from_str(&text).expect("hexadecimal digits can be in a header"));
        // Of a trace that the caller is not in (or that it named in a way nobody can read) nothing is known.
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
    }
}

fn put_hex(text: &mut String, byte: u8) {
    let _ = write!(text, "{byte:02x}");
}

/// A random id that no other span has; never all zeros, which would be no id.
pub fn new_span_id() -> SpanId {
    let [.., a, b, c, d, e, f, g, h] = Uuid::new_v4().into_bytes();
    [a, b, c, d, e, f, g, h]
}

/// True for `ratio` of all random ids: for those whose last 56 bits are below that part of what they can be.
fn is_within(trace: TraceId, ratio: f64) -> bool {
    let [.., a, b, c, d, e, f, g] = trace;
    let random = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
    (random as f64) < ratio * (1u64 << 56) as f64
}

/// The caller's span; `None` where it names none, or several, or one that cannot be read.
fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    // A later version may append fields to those of this one.
    let (fields, rest) = text.split_at_checked(55)?;
    let [version] = hex::<1>(&fields[..2])?;
    let dashes = fields[2] == b'-' && fields[35] == b'-' && fields[52] == b'-';
    let well_ended = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest[0] == b'-' };
    if version == 0xff || !dashes || !well_ended {
        return None;
    }
    let (trace, span, [flags]) = (hex::<16>(&fields[3..35])?, hex::<8>(&fields[36..52])?, hex::<1>(&fields[53..])?);
    (trace != [0; 16] && span != [0; 8]).then_some(Parent { trace, span, flags })
}

/// Bytes from lower-case hexadecimal digits, the only ones that are allowed.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

fn state(headers: &HeaderMap) -> String {
    let lists: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|v| v.to_str().ok()).collect();
    lists.map(|lists| lists.join(",")).filter(|state| state.len() <= STATE_BYTES).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_provider_is_told_of_the_span_and_of_the_trace_that_the_caller_is_in() {
        let mut sent = headers(&[("traceparent", CALLER), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        let context = TraceContext::sampled(&sent, 0.0).expect("the caller has decided");
        assert_eq!((context.parent, context.state.as_str()), (Some([0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]), "a=1,b=2"));
        context.propagate([1; 8], &mut sent);
        assert_eq!(sent["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-0101010101010101-01");
        assert_eq!(sent.get_all("tracestate").iter().count(), 2);
    }

    #[test]
    fn a_caller_that_does_not_record_is_not_recorded() {
        let unsampled = CALLER.replace("-01", "-00");
        assert_eq!(TraceContext::sampled(&headers(&[("traceparent", &unsampled)]), 1.0), None);
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        for unreadable in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let mut sent = headers(&[("traceparent", unreadable), ("tracestate", "a=1")]);
            assert_eq!(TraceContext::sampled(&sent, 0.0), None, "{unreadable}");
            let context = TraceContext::sampled(&sent, 1.0).unwrap();
            assert_eq!((context.parent, context.state.as_str()), (None, ""), "{unreadable}");
            context.propagate([1; 8], &mut sent);
            assert!(!sent.contains_key("tracestate"), "{unreadable}");
        }
        assert_eq!(parent(&headers(&[("traceparent", CALLER), ("traceparent", CALLER)])), None);
        assert!(parent(&headers(&[("traceparent", &CALLER.replace("00-4", "01-4"))])).is_some());
    }

    #[test]
    fn the_ratio_is_that_of_the_traces_that_are_recorded() {
        let recorded = (0..4_000).filter(|_| TraceContext::sampled(&HeaderMap::new(), 0.25).is_some()).count();
        assert!((800..1_200).contains(&recorded), "{recorded}");
    }

    proptest! {
        #[test]
        fn any_header_is_taken(bytes in proptest::collection::vec(0x20u8..0x7f, 0..80)) {
            let mut sent = HeaderMap::new();
            sent.insert(TRACEPARENT, HeaderValue::from_bytes(&bytes).unwrap());
            parent(&sent);
        }
    }
}
