//! What is answered: text whose tokens are the output that is billed, decided by the prompt and capped by the caller.

use serde_json::Value;

use crate::prose::{self, Rng};
use crate::schema;
use crate::tokens::Tokenized;

/// The form that the caller asks an answer to have.
#[derive(Clone, Debug)]
pub enum Form {
    /// Sentences; the prompt may ask for a length.
    Prose { words: Option<usize> },
    /// JSON of this schema.
    Json { schema: Value },
    /// A call of this tool, with arguments of this schema.
    ToolCall { name: String, arguments: Value },
}

/// Everything that decides an answer.
#[derive(Clone, Debug)]
pub struct Wish {
    pub seed: u64,
    pub form: Form,
    /// Tokens to think before answering, which are output like any other.
    pub reasoning_tokens: usize,
    /// Most tokens of output, reasoning included.
    pub cap: usize,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Complete,
    /// The cap cut it short.
    Length,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub reasoning: Tokenized,
    pub content: Tokenized,
    /// The tool that the content is the arguments of.
    pub tool: Option<String>,
    pub end: End,
}

impl Wish {
    pub fn answer(self) -> Answer {
        // A word is a token at least: no need to write more words than the cap has tokens.
        let words_of_cap = self.cap.saturating_add(1);
        let reasoning = Tokenized::of(prose::words(!self.seed, self.reasoning_tokens.min(words_of_cap)));
        let reasoning = reasoning.capped(self.reasoning_tokens.min(self.cap));
        let (text, tool) = match self.form {
            Form::Prose { words } => {
                let words = words.unwrap_or_else(|| usual_words(self.seed));
                (prose::words(self.seed, words.min(words_of_cap)), None)
            }
            Form::Json { schema } => (schema::value_of(&schema, self.seed).to_string(), None),
            Form::ToolCall { name, arguments } => (schema::value_of(&arguments, self.seed).to_string(), Some(name)),
        };
        let whole = Tokenized::of(text);
        let left = self.cap - reasoning.tokens();
        let end = if whole.tokens() > left { End::Length } else { End::Complete };
        Answer { reasoning, content: whole.capped(left), tool, end }
    }
}

impl Answer {
    pub fn tokens(&self) -> usize {
        self.reasoning.tokens() + self.content.tokens()
    }
}

/// Many short answers and a few long ones: the product of two even draws, from 20 to 320 words, 95 on average.
fn usual_words(seed: u64) -> usize {
    let mut rng = Rng::new(seed.rotate_left(32));
    20 + (rng.below(301) * rng.below(301) / 300) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::tokens;

    fn wish(seed: u64, form: Form) -> Wish {
        Wish { seed, form, reasoning_tokens: 0, cap: 100_000 }
    }

    fn prose(words: Option<usize>) -> Form {
        Form::Prose { words }
    }

    proptest! {
        #[test]
        fn no_answer_is_longer_than_the_cap_and_only_a_cut_one_says_so(seed in any::<u64>(), reasoning in 0_usize..200, cap in 1_usize..400) {
            let uncapped = Wish { reasoning_tokens: reasoning, ..wish(seed, prose(None)) };
            let whole = uncapped.clone().answer();
            let capped = Wish { cap, ..uncapped }.answer();
            prop_assert_eq!(capped.tokens(), whole.tokens().min(cap));
            prop_assert_eq!(capped.end == End::Length, whole.tokens() > cap);
            prop_assert!(whole.content.text().starts_with(capped.content.text()));
        }

        #[test]
        fn the_tokens_of_an_answer_are_the_tokens_of_its_text(seed in any::<u64>(), cap in 1_usize..400) {
            let answer = Wish { cap, ..wish(seed, prose(None)) }.answer();
            prop_assert_eq!(answer.tokens() as u64, tokens::count(answer.content.text()));
        }
    }

    #[test]
    fn an_answer_has_the_words_it_was_asked_for() {
        let answer = wish(5, prose(Some(150))).answer();
        assert_eq!(answer.content.text().split_whitespace().count(), 150);
    }

    #[test]
    fn answers_have_tens_to_hundreds_of_tokens() {
        let lengths: Vec<_> = (0..500).map(|seed| wish(seed, prose(None)).answer().tokens()).collect();
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        assert!(lengths.iter().all(|tokens| (20..700).contains(tokens)));
        assert!((80..250).contains(&mean), "{mean}");
    }

    #[test]
    fn a_structured_answer_is_json_and_a_tool_call_has_arguments() {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let answer = wish(1, Form::Json { schema: schema.clone() }).answer();
        assert!(serde_json::from_str::<Value>(answer.content.text()).unwrap()["city"].is_string());
        let call = wish(1, Form::ToolCall { name: "weather".to_owned(), arguments: schema }).answer();
        assert_eq!(call.tool.as_deref(), Some("weather"));
        assert!(serde_json::from_str::<Value>(call.content.text()).unwrap().is_object());
    }
}
