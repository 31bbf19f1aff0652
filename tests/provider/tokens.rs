//! A tokenizer of its own: a word with its space is a token, a longer word several, any other character one.
//!
//! About four characters of English a token, as real tokenizers have. Two properties matter more than that. Each token is at
//! least a byte, so a text never has more tokens than bytes; and a token depends only on the text from its own start, so an
//! answer cut after k tokens has exactly k tokens.

use std::ops::Range;

use serde_json::Value;

/// Characters of a word that one token holds.
const WORD: usize = 6;
/// Equal blanks that one token holds.
const BLANKS: usize = 8;

/// A text and where its tokens end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokenized {
    text: String,
    ends: Vec<usize>,
}

impl Tokenized {
    pub fn of(text: String) -> Tokenized {
        let ends = ends(&text).collect();
        Tokenized { text, ends }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn tokens(&self) -> usize {
        self.ends.len()
    }

    /// The first tokens, at most `cap`.
    pub fn capped(mut self, cap: usize) -> Tokenized {
        if cap < self.ends.len() {
            self.ends.truncate(cap);
            self.text.truncate(self.ends.last().copied().unwrap_or(0));
        }
        self
    }

    /// The text of some of the tokens.
    pub fn slice(&self, tokens: Range<usize>) -> &str {
        let at = |token: usize| token.checked_sub(1).map_or(0, |last| self.ends[last]);
        &self.text[at(tokens.start)..at(tokens.end)]
    }
}

/// Tokens of a text.
pub fn count(text: &str) -> u64 {
    ends(text).count() as u64
}

/// Tokens of a JSON value, never more than bytes of the shortest way to write it: a number is one token however it is written,
/// and a brace, bracket or quote pays for a separator.
pub fn count_json(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => 1 + count(text),
        Value::Array(items) => 1 + items.iter().map(count_json).sum::<u64>(),
        Value::Object(members) => 1 + members.iter().map(|(key, value)| 1 + count(key) + count_json(value)).sum::<u64>(),
    }
}

fn ends(text: &str) -> impl Iterator<Item = usize> {
    let mut end = 0;
    std::iter::from_fn(move || {
        end += first_token(&text[end..])?;
        Some(end)
    })
}

/// Length of the first token in bytes.
fn first_token(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let after = &text[first.len_utf8()..];
    Some(if in_word(first) {
        run(text, WORD, in_word)
    } else if first == ' ' && after.starts_with(in_word) {
        1 + run(after, WORD, in_word)
    } else if first.is_whitespace() {
        run(text, BLANKS, |c| c == first)
    } else {
        first.len_utf8()
    })
}

/// Bytes of the first characters that belong together, at most `most` of them.
fn run(text: &str, most: usize, belongs: impl Fn(char) -> bool) -> usize {
    text.chars().take(most).take_while(|c| belongs(*c)).map(char::len_utf8).sum()
}

/// Letters and digits of scripts that write words; from the CJK radicals on, a character is a token.
fn in_word(c: char) -> bool {
    c.is_alphanumeric() && c < '\u{2E80}'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn no_text_has_more_tokens_than_bytes(text in "\\PC{0,200}") {
            prop_assert!(count(&text) <= text.len() as u64);
        }

        #[test]
        fn tokens_put_together_are_the_text(text in "[ a-z0-9.,\\n東京é]{0,80}") {
            let tokenized = Tokenized::of(text.clone());
            let pieces: String = (0..tokenized.tokens()).map(|token| tokenized.slice(token..token + 1)).collect();
            prop_assert_eq!(pieces, text);
        }

        #[test]
        fn a_text_cut_after_k_tokens_has_k_tokens(text in "[ a-zA-Z0-9.,\\n\\t東京é{}\"]{0,120}", cap in 0_usize..60) {
            let whole = Tokenized::of(text);
            let kept = whole.clone().capped(cap);
            prop_assert_eq!(kept.tokens(), cap.min(whole.tokens()));
            prop_assert_eq!(count(kept.text()), kept.tokens() as u64);
        }

        #[test]
        fn no_json_has_more_tokens_than_bytes(text in "\\PC{0,40}", number in any::<f64>(), flag in any::<bool>()) {
            let value = json!({text.clone(): [text, flag, null, {}], "n": number, "": []});
            prop_assert!(count_json(&value) <= value.to_string().len() as u64);
        }
    }

    #[test]
    fn english_has_about_four_characters_a_token() {
        let text = "Please reset my password; the link in your last message has expired and I need access before the meeting.";
        let per_token = text.len() as f64 / count(text) as f64;
        assert!((3.5..6.0).contains(&per_token), "{per_token}");
    }
}
