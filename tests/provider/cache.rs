//! The prompt cache: which part of an input was seen lately and is cheaper for it.
//!
//! OpenAI caches by itself, in steps of 128 tokens, as Google and Ollama do here; Anthropic and Bedrock up to the marks that the caller
//! sets, and charge the write.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::models::{Input, Model, Vendor};
use crate::prompt::{Boundary, Prompt, Ttl};

/// Shorter prefixes are not cached, by either vendor.
const LEAST_TOKENS: u64 = 1_024;
const OPENAI_STEP: u64 = 128;
const MOST_ENTRIES: usize = 8_192;
const MINUTES: Duration = Duration::from_secs(5 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Default)]
pub struct PromptCache(Mutex<Entries>);

type Key = (&'static str, u64);

#[derive(Debug, Default)]
struct Entries {
    until: HashMap<Key, Instant>,
    oldest_first: VecDeque<Key>,
}

impl PromptCache {
    /// The input by what it costs, remembering what this call leaves in the cache.
    pub fn split(&self, model: &'static Model, prompt: &Prompt, now: Instant) -> Input {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let long_enough: Vec<Boundary> = prompt.boundaries.iter().filter(|b| b.tokens >= LEAST_TOKENS).copied().collect();
        match model.vendor {
            Vendor::OpenAi | Vendor::Google | Vendor::Ollama => entries.by_itself(model, prompt.tokens(), &long_enough, now),
            Vendor::Anthropic | Vendor::Amazon => entries.by_marks(model, prompt.tokens(), &long_enough, now),
        }
    }
}

impl Entries {
    fn by_itself(&mut self, model: &'static Model, tokens: u64, boundaries: &[Boundary], now: Instant) -> Input {
        let seen = self.longest_seen(model, boundaries, now);
        let cached_read = seen / OPENAI_STEP * OPENAI_STEP;
        for boundary in boundaries {
            self.remember((model.name, boundary.prefix), now + MINUTES);
        }
        Input { fresh: tokens - cached_read, cached_read, ..Input::default() }
    }

    fn by_marks(&mut self, model: &'static Model, tokens: u64, boundaries: &[Boundary], now: Instant) -> Input {
        let last_mark = boundaries.iter().rposition(|b| b.keep.is_some()).map_or(0, |at| at + 1);
        let cached_read = self.longest_seen(model, &boundaries[..last_mark], now);
        let mut input = Input { cached_read, ..Input::default() };
        let mut written = cached_read;
        for boundary in &boundaries[..last_mark] {
            let Some(ttl) = boundary.keep else { continue };
            let new = boundary.tokens.saturating_sub(written);
            written += new;
            match ttl {
                Ttl::Minutes => input.cache_write += new,
                Ttl::Hour => input.cache_write_long += new,
            }
            self.remember((model.name, boundary.prefix), now + if ttl == Ttl::Hour { HOUR } else { MINUTES });
        }
        input.fresh = tokens - written;
        input
    }

    fn longest_seen(&self, model: &'static Model, boundaries: &[Boundary], now: Instant) -> u64 {
        let seen = |b: &&Boundary| self.until.get(&(model.name, b.prefix)).is_some_and(|until| *until > now);
        boundaries.iter().rev().find(seen).map_or(0, |b| b.tokens)
    }

    fn remember(&mut self, key: Key, until: Instant) {
        if self.until.insert(key, until).is_none() {
            self.oldest_first.push_back(key);
        }
        while self.oldest_first.len() > MOST_ENTRIES {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.until.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::find;

    fn prompt(blocks: &[(usize, Option<&str>)]) -> Prompt {
        let mut prompt = Prompt::new();
        for (words, ttl) in blocks {
            let mut part = json!({"type": "text", "text": "word ".repeat(*words)});
            if let Some(ttl) = ttl {
                part["cache_control"] = json!({"type": "ephemeral", "ttl": ttl});
            }
            prompt.push_message("user", &json!([part]));
        }
        prompt
    }

    #[test]
    fn openai_reads_a_long_prefix_again_at_the_cheaper_price() {
        let (cache, now) = (PromptCache::default(), Instant::now());
        let model = find(Vendor::OpenAi, "gpt-5.4").unwrap();
        let first = cache.split(model, &prompt(&[(2_000, None), (10, None)]), now);
        assert_eq!((first.cached_read, first.fresh), (0, first.tokens()));
        let second = cache.split(model, &prompt(&[(2_000, None), (20, None)]), now);
        assert!(second.cached_read >= LEAST_TOKENS && second.cached_read % OPENAI_STEP == 0);
        let later = cache.split(model, &prompt(&[(2_000, None), (30, None)]), now + HOUR);
        assert_eq!(later.cached_read, 0);
        assert_eq!(cache.split(model, &prompt(&[(100, None)]), now).cached_read, 0);
    }

    #[test]
    fn anthropic_writes_up_to_the_mark_and_reads_it_next_time() {
        let (cache, now) = (PromptCache::default(), Instant::now());
        let model = find(Vendor::Anthropic, "claude-opus-5").unwrap();
        let first = cache.split(model, &prompt(&[(2_000, Some("1h")), (500, Some("5m")), (10, None)]), now);
        assert_eq!(first.cached_read, 0);
        assert!(first.cache_write_long > 2_000 && first.cache_write > 500 && first.fresh > 0);
        let second = cache.split(model, &prompt(&[(2_000, None), (500, None), (10, Some("5m"))]), now);
        assert_eq!(second.cached_read, first.cache_write + first.cache_write_long);
        assert_eq!(second.tokens(), first.tokens());
        let unmarked = cache.split(model, &prompt(&[(2_000, None), (500, None), (10, None)]), now);
        assert_eq!(unmarked.fresh, unmarked.tokens());
    }

    #[test]
    fn the_cache_forgets_before_it_grows() {
        let mut entries = Entries::default();
        for prefix in 0..20_000 {
            entries.remember(("m", prefix), Instant::now());
        }
        assert_eq!((entries.until.len(), entries.oldest_first.len()), (MOST_ENTRIES, MOST_ENTRIES));
    }
}
