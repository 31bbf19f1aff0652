//! A closer bound on input tokens, for models whose tokenizer is public: words that are one token.
//!
//! OpenAI's vocabularies (`cl100k_base`, `o200k_base`; <https://github.com/openai/tiktoken>) have tens of thousands of English words with
//! the blank before them. Both cut a text into pieces before they look for tokens, and both cut so that
//!
//! - a blank before a letter begins a piece, which ends behind the last letter (of one case, or of one capital and small letters), unless
//!   an apostrophe follows: such a piece that is in both vocabularies is one token;
//! - of several blanks before something else all but the last are a piece: one token, up to [`MOST_BLANKS`];
//! - digits are pieces of three, each of which is a token.
//!
//! Everything else counts a token a byte, as everywhere. What comes before the first ink of a text counts so, too, and a word at its end:
//! what a provider puts around a text, or takes off it, changes nothing. A full tokenizer would be exact and take more memory than a
//! sidecar may have; see `docs/decisions/0019-no-tokenizer-in-the-sidecar.md`.

use std::ops::Range;
use std::sync::LazyLock;

use crate::core::policy::Provider;

/// The words that are one token in both vocabularies with a blank before them, by length and then by bytes, one a line.
/// `make words` writes them.
const WORDS: &str = include_str!("words.txt");
/// Blanks that are one token in both vocabularies, at most.
const MOST_BLANKS: usize = 32;

/// The words of each length, with their line ends; the place is the length.
static BY_LENGTH: LazyLock<Vec<&'static [u8]>> = LazyLock::new(|| {
    let mut by_length: Vec<&'static [u8]> = vec![&[]];
    let mut rest = WORDS.as_bytes();
    while !rest.is_empty() {
        let stride = by_length.len() + 1;
        let words = rest.chunks_exact(stride).take_while(|line| line.iter().position(|b| *b == b'\n') == Some(stride - 1)).count();
        let (these, others) = rest.split_at(words * stride);
        by_length.push(these);
        rest = others;
    }
    by_length
});

/// True for a model that counts by one of the public vocabularies: one that tiktoken's table names, at OpenAI or Azure themselves.
/// What answers elsewhere under such a name may be anything.
pub fn are_tokens_of(provider: Provider, endpoint: &str, model: &str) -> bool {
    let host = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase)).unwrap_or_default();
    let is_theirs = match provider {
        Provider::OpenAI => host == "api.openai.com" || host.ends_with(".api.openai.com"),
        Provider::AzureOpenAI => [".openai.azure.com", ".cognitiveservices.azure.com"].iter().any(|domain| host.ends_with(domain)),
        _ => false,
    };
    is_theirs && is_in_the_table(model)
}

/// Names and prefixes in tiktoken's `model.py` (0.12) that stand for the two vocabularies.
fn is_in_the_table(model: &str) -> bool {
    const NAMED: [&str; 16] = [
        "chatgpt-4o",
        "ft:gpt-3.5-turbo",
        "ft:gpt-4",
        "ft:gpt-4o",
        "gpt-3.5-turbo",
        "gpt-35-turbo",
        "gpt-4",
        "gpt-4.1",
        "gpt-4.5",
        "gpt-4o",
        "gpt-5",
        "o1",
        "o3",
        "o4-mini",
        "text-embedding-3",
        "text-embedding-ada-002",
    ];
    NAMED.iter().any(|named| model.strip_prefix(named).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', ':'])))
}

/// Tokens that a text makes at most in either vocabulary, as it stands or with JSON's escapes.
pub fn bound(text: &str) -> u64 {
    let bytes = text.as_bytes();
    // Where a digit may be part of an escape, it counts as a byte.
    let has_escapes = memchr::memchr(b'\\', bytes).is_some();
    let mut at = bytes.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(bytes.len());
    let mut tokens = at;
    while let Some(byte) = bytes.get(at) {
        let (end, most) = match byte {
            b' ' => blanks(bytes, at),
            b'0'..=b'9' if !has_escapes => digits(bytes, at),
            _ => (at + 1, 1),
        };
        tokens += most;
        at = end;
    }
    tokens as u64
}

/// Where a run of digits ends, and its tokens at most. Beside a digit of another script they would share pieces.
fn digits(bytes: &[u8], start: usize) -> (usize, usize) {
    let end = start + run(&bytes[start..], u8::is_ascii_digit);
    let stands_alone = is_ascii(bytes, end) && start.checked_sub(1).is_some_and(|before| bytes[before].is_ascii());
    (end, if stands_alone { (end - start).div_ceil(3) } else { end - start })
}

/// Where a run of blanks ends, with the word behind it, and their tokens at most.
fn blanks(bytes: &[u8], start: usize) -> (usize, usize) {
    let end = start + run(&bytes[start..], |b| *b == b' ');
    let letters = run(&bytes[end..], u8::is_ascii_alphabetic);
    let is_inked = bytes.get(end).is_some_and(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"'));
    // A string within JSON begins behind a quotation mark.
    let before = start.checked_sub(1).map_or(b'"', |before| bytes[before]);
    if !is_inked || before == b'"' {
        return (end, end - start);
    }
    // Behind a tab, or white space of another script, they would be part of a longer piece.
    let follows_ink = before.is_ascii_graphic() || before == b'\n';
    let others = end - start - 1;
    let of_others = if follows_ink && others <= MOST_BLANKS { others.min(1) } else { others };
    if is_word(bytes, end..end + letters) { (end + letters, of_others + 1) } else { (end, of_others + 1) }
}

/// True for a word of the list, where what follows does not make another piece of it.
fn is_word(bytes: &[u8], range: Range<usize>) -> bool {
    let ends = bytes.get(range.end).is_some_and(|next| next.is_ascii() && !matches!(next, b'\'' | b'\\' | b'"'));
    ends && is_listed(&bytes[range])
}

fn is_listed(word: &[u8]) -> bool {
    let Some(words) = BY_LENGTH.get(word.len()) else { return false };
    let stride = word.len() + 1;
    let (mut low, mut high) = (0, words.len() / stride);
    while low < high {
        let middle = low.midpoint(high);
        match words[middle * stride..][..word.len()].cmp(word) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    false
}

fn run(bytes: &[u8], is: impl Fn(&u8) -> bool) -> usize {
    bytes.iter().take_while(|b| is(b)).count()
}

fn is_ascii(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii)
}

#[cfg(test)]
mod tests;
