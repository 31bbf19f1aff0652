//! Answers coming into being, token by token at a model's pace, each billed as it is generated.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::answer::Answer;
use crate::bill::Call;
use crate::models::Input;
use crate::prompt::Searched;

/// Tokens of a piece: few enough to look like a model, enough to keep 64 streams cheap.
const PIECE: usize = 4;

/// How fast tokens come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub first_token: Duration,
    pub tokens_per_second: u64,
}

impl Pace {
    /// When a token of an answer is there, counted from the start.
    fn due(&self, token: usize) -> Duration {
        self.first_token + Duration::from_micros(token as u64 * 1_000_000 / self.tokens_per_second)
    }
}

/// Some tokens of one of the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub choice: usize,
    pub part: Part,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Reasoning,
    Content,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Piece(Piece),
    /// The connection is to break here.
    Cut,
}

/// What a call used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub input: Input,
    pub output: u64,
    pub reasoning: u64,
}

/// The answers of one call, generated side by side. Dropping it is what a hang-up does: nothing more is generated or billed.
pub struct Generation {
    call: Call,
    answers: Vec<Answer>,
    /// Tokens generated of each answer.
    done: Vec<usize>,
    pace: Pace,
    started: Instant,
    /// Tokens until the connection breaks, if it is to.
    until_cut: Option<usize>,
    usage: Usage,
    /// What is searched for before the end.
    searched: Option<Searched>,
}

impl Generation {
    /// Takes the call on, which bills its input.
    pub fn start(call: Call, input: Input, answers: Vec<Answer>, pace: Pace, cut_after: Option<u64>) -> Generation {
        call.bill_input(input);
        Generation {
            call,
            done: vec![0; answers.len()],
            answers,
            pace,
            started: Instant::now(),
            until_cut: cut_after.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)),
            usage: Usage { input, output: 0, reasoning: 0 },
            searched: None,
        }
    }

    /// An answer that comes to its end has made these searches, which are billed then.
    pub fn will_search(&mut self, searched: Searched) {
        self.searched = Some(searched);
    }

    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Until the model begins to write.
    pub async fn first_token(&self) {
        sleep_until(self.started + self.pace.due(0)).await;
    }

    /// The next tokens when they are generated; `None` at the end. A cut that was to come after more tokens comes there.
    pub async fn next(&mut self) -> Option<Step> {
        let unfinished = |choice: &usize| self.done[*choice] < self.answers[*choice].tokens();
        let least_done = (0..self.answers.len()).filter(unfinished).min_by_key(|choice| self.done[*choice]);
        let Some(choice) = least_done.filter(|_| self.until_cut != Some(0)) else {
            if self.until_cut.is_none()
                && let Some(searched) = self.searched.take()
            {
                self.call.bill_searches(&searched);
                self.usage.input.add(&searched.input);
            }
            return self.until_cut.map(|_| Step::Cut);
        };
        let (piece, tokens) = self.piece(choice);
        let generated = self.done[choice] + tokens;
        sleep_until(self.started + self.pace.due(generated)).await;
        self.done[choice] = generated;
        self.until_cut = self.until_cut.map(|left| left - tokens);
        self.usage.output += tokens as u64;
        if piece.part == Part::Reasoning {
            self.usage.reasoning += tokens as u64;
        }
        self.call.bill_output(tokens as u64);
        Some(Step::Piece(piece))
    }

    fn piece(&self, choice: usize) -> (Piece, usize) {
        let (answer, done) = (&self.answers[choice], self.done[choice]);
        let reasoning = answer.reasoning.tokens();
        let (part, text, from) =
            if done < reasoning { (Part::Reasoning, &answer.reasoning, done) } else { (Part::Content, &answer.content, done - reasoning) };
        let to = text.tokens().min(from + PIECE.min(self.until_cut.unwrap_or(PIECE)));
        (Piece { choice, part, text: text.slice(from..to).to_owned() }, to - from)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::answer::{Form, Wish};
    use crate::bill::Bill;
    use crate::models::{Vendor, find};

    const PACE: Pace = Pace { first_token: Duration::from_millis(5), tokens_per_second: 100_000 };

    fn generation(bill: &Arc<Bill>, choices: u64, cut_after: Option<u64>) -> Generation {
        let form = || Form::Prose { words: Some(60) };
        let answers = (0..choices).map(|seed| Wish { seed, form: form(), reasoning_tokens: 10, cap: 500 }.answer()).collect();
        let call = bill.open("bot", find(Vendor::OpenAi, "gpt-5").unwrap());
        Generation::start(call, Input { fresh: 100, ..Input::default() }, answers, PACE, cut_after)
    }

    #[tokio::test]
    async fn all_pieces_together_are_the_answers_and_all_of_them_are_billed() {
        let bill = Arc::new(Bill::default());
        let mut generation = generation(&bill, 2, None);
        let mut texts = [String::new(), String::new()];
        while let Some(Step::Piece(piece)) = generation.next().await {
            if piece.part == Part::Content {
                texts[piece.choice].push_str(&piece.text);
            }
        }
        let whole: Vec<_> = generation.answers().iter().map(|a| a.content.text().to_owned()).collect();
        assert_eq!(texts.to_vec(), whole);
        let tokens: usize = generation.answers().iter().map(Answer::tokens).sum();
        assert_eq!((bill.statement().total.output_tokens, generation.usage().reasoning), (tokens as u64, 20));
    }

    #[tokio::test]
    async fn a_hung_up_call_is_billed_for_what_was_generated_and_no_more() {
        let bill = Arc::new(Bill::default());
        let mut generation = generation(&bill, 1, None);
        generation.next().await;
        generation.next().await;
        drop(generation);
        let total = bill.statement().total;
        assert_eq!((total.calls, total.input_tokens, total.output_tokens, total.in_flight), (1, 100, 8, 0));
        assert_eq!(total.pico_usd, (100 * 1_250_000 + 8 * 10_000_000).to_string());
    }

    #[tokio::test]
    async fn a_cut_comes_after_exactly_so_many_tokens_or_at_the_end() {
        for (cut_after, billed) in [(0, 0), (7, 7), (1_000_000, u64::MAX)] {
            let bill = Arc::new(Bill::default());
            let mut generation = generation(&bill, 1, Some(cut_after));
            let all = generation.answers()[0].tokens() as u64;
            let last = loop {
                match generation.next().await {
                    Some(Step::Piece(_)) => {}
                    other => break other,
                }
            };
            assert_eq!(last, Some(Step::Cut));
            assert_eq!(bill.statement().total.output_tokens, billed.min(all));
        }
    }

    #[test]
    fn the_pace_is_the_one_asked_for() {
        let pace = Pace { first_token: Duration::from_millis(40), tokens_per_second: 400 };
        assert_eq!((pace.due(0), pace.due(400)), (Duration::from_millis(40), Duration::from_millis(1_040)));
    }
}
