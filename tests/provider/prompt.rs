//! What was asked: its tokens, its hash, and where its cacheable prefixes end.

use serde_json::Value;

use crate::models::Input;
use crate::tokens;

/// Tokens that a request and each of its messages add to their texts.
const REQUEST_TOKENS: u64 = 3;
const MESSAGE_TOKENS: u64 = 4;
/// Plausible sizes of what is not text: a picture of a megapixel, a recording of a minute, a document of two pages.
const IMAGE_TOKENS: u64 = 1_100;
const AUDIO_TOKENS: u64 = 600;
const DOCUMENT_TOKENS: u64 = 3_000;
/// Results of a web search, and the part of them that goes into the cache.
const RESULT_TOKENS: u64 = 700;
const KEPT_RESULT_TOKENS: u64 = 300;
/// Longest answer that a prompt can ask for in words.
const MOST_WORDS: usize = 50_000;

/// How long a prefix is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    Minutes,
    Hour,
}

/// The end of a block of the prompt.
#[derive(Clone, Copy, Debug)]
pub struct Boundary {
    /// Hash of everything up to here.
    pub prefix: u64,
    /// Tokens up to here.
    pub tokens: u64,
    /// The caller asked to cache up to here.
    pub keep: Option<Ttl>,
}

/// A prompt, built block by block in the order in which the model reads it.
#[derive(Debug)]
pub struct Prompt {
    hash: Fnv,
    tokens: u64,
    pub boundaries: Vec<Boundary>,
    last_user: String,
    /// Web searches that the model makes for it, at the provider.
    pub searches: u64,
}

/// What searches add to a call: their results are input, of which a part goes into the cache where the prompt does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Searched {
    pub searches: u64,
    pub input: Input,
}

impl Prompt {
    pub fn new() -> Prompt {
        Prompt { hash: Fnv::new(), tokens: REQUEST_TOKENS, boundaries: Vec::new(), last_user: String::new(), searches: 0 }
    }

    /// A tool's declaration, or a schema to answer in.
    pub fn push_json(&mut self, value: &Value) {
        self.push_block(value, tokens::count_json(value));
    }

    /// A message or system text: a string, or a list of parts, each a block of its own.
    pub fn push_message(&mut self, role: &str, content: &Value) {
        self.tokens += MESSAGE_TOKENS;
        self.hash.feed(role.as_bytes());
        let parts = content.as_array().map_or(std::slice::from_ref(content), Vec::as_slice);
        for part in parts {
            self.push_block(part, part_tokens(part));
        }
        if role == "user" {
            let texts: Vec<_> = parts.iter().filter_map(|part| part.as_str().or_else(|| part["text"].as_str())).collect();
            self.last_user = texts.join("\n");
        }
    }

    /// Keeps everything up to here in the cache.
    pub fn keep(&mut self, ttl: Ttl) {
        if let Some(last) = self.boundaries.last_mut() {
            last.keep = Some(ttl);
        }
    }

    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    pub fn seed(&self) -> u64 {
        self.hash.0
    }

    /// The length that the last user message asks for: "about 80 words".
    pub fn wished_words(&self) -> Option<usize> {
        let lower = self.last_user.to_ascii_lowercase();
        let wishes = lower.match_indices("about ").filter_map(|(at, about)| {
            let mut words = lower[at + about.len()..].split_whitespace();
            let count = words.next()?.parse::<usize>().ok()?;
            words.next().is_some_and(|unit| unit.starts_with("word")).then_some(count)
        });
        wishes.last().map(|count| count.clamp(1, MOST_WORDS))
    }

    pub fn searched(&self) -> Searched {
        let longest = self.boundaries.iter().filter_map(|b| b.keep).max_by_key(|ttl| *ttl == Ttl::Hour);
        let kept = |ttl| if longest == Some(ttl) { self.searches * KEPT_RESULT_TOKENS } else { 0 };
        let input = Input {
            fresh: self.searches * RESULT_TOKENS,
            cache_write: kept(Ttl::Minutes),
            cache_write_long: kept(Ttl::Hour),
            ..Input::default()
        };
        Searched { searches: self.searches, input }
    }

    fn push_block(&mut self, value: &Value, tokens: u64) {
        self.hash.feed_json(value);
        self.tokens += tokens;
        let keep = value.get("cache_control").filter(|c| !c.is_null()).map(ttl);
        self.boundaries.push(Boundary { prefix: self.hash.0, tokens: self.tokens, keep });
    }
}

pub fn ttl(cache_control: &Value) -> Ttl {
    if cache_control["ttl"] == "1h" { Ttl::Hour } else { Ttl::Minutes }
}

/// Tokens of a part of a message. What is neither text nor of a known kind counts by its JSON.
fn part_tokens(part: &Value) -> u64 {
    if let Some(text) = part.as_str() {
        return tokens::count(text);
    }
    let text = |field: &str| part[field].as_str().map_or(0, tokens::count);
    match part["type"].as_str().unwrap_or_default() {
        "text" | "input_text" => text("text"),
        "refusal" => text("refusal"),
        "thinking" => text("thinking"),
        "image" | "image_url" => IMAGE_TOKENS,
        "input_audio" => AUDIO_TOKENS,
        "file" | "document" => DOCUMENT_TOKENS,
        "tool_use" => text("name") + tokens::count_json(&part["input"]),
        "tool_result" => match part["content"].as_array() {
            Some(parts) => parts.iter().map(part_tokens).sum(),
            None => part_tokens(&part["content"]),
        },
        _ if part.is_null() => 0,
        _ => tokens::count_json(part),
    }
}

/// Fowler, Noll and Vo's hash 1a, 64 bits: the same on every machine and in every release.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(pub u64);

impl Fnv {
    pub fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// A value without its cache marks, which move from turn to turn and must not change what the prefix is.
    fn feed_json(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.feed(text.as_bytes()),
            Value::Array(items) => items.iter().for_each(|item| self.feed_json(item)),
            Value::Object(members) => {
                for (key, value) in members.iter().filter(|(key, _)| *key != "cache_control") {
                    self.feed(key.as_bytes());
                    self.feed_json(value);
                }
            }
            scalar => self.feed(scalar.to_string().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn a_prompt_never_has_more_tokens_than_bytes_and_small_overheads(texts in proptest::collection::vec("\\PC{0,60}", 1..8)) {
            let mut prompt = Prompt::new();
            let messages: Vec<_> = texts.iter().map(|t| json!({"role": "user", "content": [{"type": "text", "text": t}]})).collect();
            messages.iter().for_each(|m| prompt.push_message("user", &m["content"]));
            let bound = json!({"messages": messages}).to_string().len() + 8 * texts.len() + 16;
            prop_assert!(prompt.tokens() <= bound as u64);
        }
    }

    fn asking(text: &str) -> Prompt {
        let mut prompt = Prompt::new();
        prompt.push_message("user", &json!(text));
        prompt
    }

    #[test]
    fn the_last_user_message_may_ask_for_a_length() {
        assert_eq!(asking("Explain leases in about 80 words.").wished_words(), Some(80));
        assert_eq!(asking("About 12 words, please; tell me about 3 things").wished_words(), Some(12));
        assert_eq!(asking("Tell me about leases").wished_words(), None);
    }

    #[test]
    fn the_same_prompt_has_the_same_seed_wherever_its_cache_mark_is() {
        assert_eq!(asking("a").seed(), asking("a").seed());
        assert_ne!(asking("a").seed(), asking("b").seed());
        let marked = |mark: bool| {
            let mut part = json!({"type": "text", "text": "a"});
            if mark {
                part["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
            }
            let mut prompt = Prompt::new();
            prompt.push_message("user", &json!([part]));
            prompt
        };
        assert_eq!(marked(true).seed(), marked(false).seed());
        assert_eq!(marked(true).boundaries[0].keep, Some(Ttl::Hour));
    }

    #[test]
    fn pictures_count_the_same_however_many_bytes_they_have() {
        let with_image = |data: &str| {
            let mut prompt = Prompt::new();
            prompt.push_message("user", &json!([{"type": "image_url", "image_url": {"url": data}}]));
            prompt.tokens()
        };
        assert_eq!(with_image("data:image/png;base64,AAAA"), with_image(&"A".repeat(100_000)));
    }
}
