//! How hard a question looks: a score from 0 (trivial) to 100, by rules over its text.
//!
//! A prior, not a verdict. Without training it orders questions by the benefit of a strong model better than their length does,
//! and not by much: `docs/decisions/0002-complexity-score.md` has the measured figures, and where the weights come from.
//!
//! The text is read once, word by word; of a long one only its head and its tail.

use std::sync::LazyLock;

/// Longer texts are judged by this many bytes at each end.
const SAMPLE_BYTES: usize = 16 * 1024;

/// What a word says about the question that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// Asks for work of many steps: a proof, a design, a diagnosis.
    Deep,
    /// Asks for reasons or a judgement.
    Reason,
    /// Belongs to mathematics or a quantitative science.
    Maths,
    /// Belongs to programming.
    Code,
    /// Limits what a good answer is.
    Constraint,
    /// Asks for what every model does well with the text that it is given.
    Routine,
}

/// Words by what they hint at; lower case, blanks between them.
const WORDS: [(Hint, &str); 6] = [
    (
        Hint::Deep,
        "architect architecture debug deduce derive design diagnose disprove optimise optimize proof prove redesign \
         refactor rigorous rigorously tradeoff tradeoffs",
    ),
    (
        Hint::Reason,
        "analyse analysis analyze argue argument assess because compare conclude consequence contradiction contrast \
         critique evaluate explain hypothesis implication implies infer investigate justify logically optimal plan \
         rationale reason reasoning strategy suppose therefore why",
    ),
    (
        Hint::Maths,
        "algebra angle area calculate coefficient compute derivative determinant differential distribution divisible \
         energy equation equilibrium factorial fraction function graph integer integers integral inverse isomorphic \
         limit matrix maximum minimum modulo percent polynomial prime primes probability ratio remainder solve subgroup \
         sum theorem triangle value variance vector velocity vertices",
    ),
    (
        Hint::Code,
        "algorithm api array async class code compile complexity concurrency concurrent const database deadlock def \
         deploy exception fn implement import json kubernetes mutex performance pointer program python query race \
         recursion regex return rust schema script select sql struct template thread typescript",
    ),
    (
        Hint::Constraint,
        "all assuming at but cannot constraint constraints each ensure every exactly except following given if least \
         most must never not only should unless without",
    ),
    (
        Hint::Routine,
        "classify correct extract format greet hello hey hi paraphrase proofread rephrase reword rewrite shorten spell \
         summarise summarize summary synonym thank thanks transcribe translate translation",
    ),
];

/// Longest word of [`WORDS`], or longer.
const LONGEST: usize = 16;
/// Places in [`TABLE`]: a power of two, several times as many as words.
const PLACES: usize = 1_024;

type Table = [Option<(u128, Hint)>; PLACES];

/// The words of [`WORDS`], each at the place that [`place`] gives it or at one soon after.
static TABLE: LazyLock<Box<Table>> = LazyLock::new(|| {
    let mut table: Box<Table> = Box::new([None; PLACES]);
    for (hint, words) in WORDS {
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            let key = key(word.as_bytes()).expect("a word of the table is short");
            let free = (0..PLACES).map(|step| (place(key) + step) % PLACES).find(|at| table[*at].is_none());
            table[free.expect("there are more places than words")] = Some((key, hint));
        }
    }
    table
});

/// A word in lower case as one number; `None` for those that are too long to be in the table.
fn key(word: &[u8]) -> Option<u128> {
    let mut lower = [0; LONGEST];
    lower.get_mut(..word.len())?.copy_from_slice(word);
    // Letters of ASCII differ from their capitals by this bit, and the table has no others.
    lower[..word.len()].iter_mut().for_each(|byte| *byte |= 0x20);
    Some(u128::from_le_bytes(lower))
}

fn place(key: u128) -> usize {
    // Fibonacci hashing: the golden ratio's bits, and the product's top ones.
    let mixed = ((key as u64) ^ ((key >> 64) as u64).rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - PLACES.ilog2())) as usize
}

fn hint(word: &[u8]) -> Option<Hint> {
    let key = key(word)?;
    let mut at = place(key);
    while let Some((known, hint)) = TABLE[at] {
        if known == key {
            return Some(hint);
        }
        at = (at + 1) % PLACES;
    }
    None
}

/// What a byte is to the score.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    /// Of any alphabet: bytes from 0x80 on belong to characters beyond ASCII.
    Letter,
    Tick,
    Question,
    /// Operators, braces and other marks of formulas and code.
    Symbol,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => Class::Letter,
            b'`' => Class::Tick,
            b'?' => Class::Question,
            b'=' | b'+' | b'*' | b'/' | b'^' | b'<' | b'>' | b'{' | b'}' | b'[' | b']' | b'|' | b'_' | b';' | b'$' => Class::Symbol,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// What is counted in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    words: u32,
    /// Words by [`Hint`].
    hints: [u32; WORDS.len()],
    /// Words of [`Hint::Routine`] among the first [`OPENING_WORDS`].
    routine_opening: u32,
    questions: u32,
    /// Operators, braces and other marks of formulas and code.
    symbols: u32,
    /// Fences around code.
    fences: u32,
}

/// Where a question says what it wants, when material follows.
const OPENING_WORDS: u32 = 16;

impl Signs {
    fn of(text: &[u8]) -> Signs {
        let mut signs = Signs::default();
        match text.len() > 2 * SAMPLE_BYTES {
            false => signs.read(text),
            true => {
                signs.read(&text[..SAMPLE_BYTES]);
                signs.read(&text[text.len() - SAMPLE_BYTES..]);
            }
        }
        signs
    }

    fn read(&mut self, text: &[u8]) {
        let mut at = 0;
        while at < text.len() {
            match CLASSES[usize::from(text[at])] {
                Class::Other => at += 1,
                Class::Letter => {
                    let length = run(&text[at..], Class::Letter);
                    self.word(&text[at..at + length]);
                    at += length;
                }
                Class::Tick => {
                    let length = run(&text[at..], Class::Tick);
                    self.fences += u32::from(length >= 3);
                    at += length;
                }
                Class::Question => {
                    self.questions += 1;
                    at += 1;
                }
                Class::Symbol => {
                    self.symbols += 1;
                    at += 1;
                }
            }
        }
    }

    fn word(&mut self, word: &[u8]) {
        if let Some(hint) = hint(word) {
            self.hints[hint as usize] += 1;
            self.routine_opening += u32::from(hint == Hint::Routine && self.words < OPENING_WORDS);
        }
        self.words += 1;
    }
}

/// How many bytes from the first on are of a class.
fn run(text: &[u8], class: Class) -> usize {
    text.iter().position(|byte| CLASSES[usize::from(*byte)] != class).unwrap_or(text.len())
}

/// The score of a question in a conversation of `turns` messages whose model may call `tools` tools.
pub fn score(question: &str, turns: usize, tools: usize) -> u8 {
    let signs = Signs::of(question.as_bytes());
    let [deep, reason, maths, code, constraint, _] = signs.hints;
    let length = (4 * signs.words).isqrt().min(36);
    let limits = 3 * constraint.min(10);
    let asks_for_routine = signs.routine_opening > 0 && deep == 0;
    // "Translate this:" and three pages: the pages are material, not the question.
    let size = if asks_for_routine { (length + limits) / 4 } else { length + limits };
    let wording = 28 * deep.min(2) + 10 * reason.min(3) + 2 * maths.min(4) + 6 * code.min(4);
    let form = 2 * signs.symbols.min(6) + 8 * signs.fences.min(1) + 2 * signs.questions.saturating_sub(1).min(3);
    let context = u32::try_from(turns / 4 + tools / 4).unwrap_or(u32::MAX).min(8);
    u8::try_from((size + wording + form + context).min(100)).expect("no more than 100")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn questions_are_ordered_as_people_would() {
        for (easier, harder) in [
            ("Hi there!", "What is the status of order 4711?"),
            ("Thanks, that is all.", "Why was my card charged twice?"),
            ("Translate to French: good morning", "Explain why the French Revolution began and compare two accounts of it."),
            ("What is 2 + 2?", "Prove that there are infinitely many primes of the form 4k + 3."),
            ("Write a haiku about rain.", "Design a payment service that survives the loss of a region, and justify each tradeoff."),
            ("Say hello in Rust.", "Refactor this so that it cannot deadlock:\n```rust\nfn f(a: &Mutex<u8>, b: &Mutex<u8>) { }\n```"),
        ] {
            assert!(score(easier, 1, 0) < score(harder, 1, 0), "{easier:?} {} {harder:?} {}", score(easier, 1, 0), score(harder, 1, 0));
        }
    }

    #[test]
    fn small_talk_is_cheap_and_a_proof_with_a_design_is_not() {
        for trivial in ["", "ok", "Hello!", "Where is my order?", "Please shorten: we regret to inform you that the train is late"] {
            assert!(score(trivial, 1, 0) < 15, "{trivial:?}: {}", score(trivial, 1, 0));
        }
        let hard = "Prove that the algorithm terminates, derive its complexity, and explain why the bound is optimal for every input.";
        assert!(score(hard, 1, 0) >= 65, "{}", score(hard, 1, 0));
    }

    #[test]
    fn material_for_a_routine_task_counts_little() {
        let material = "The committee met on Tuesday, and all members but one were there, if only for the first hour. ".repeat(20);
        let routine = score(&format!("Summarise this:\n{material}"), 1, 0);
        let open = score(&format!("What follows from this?\n{material}"), 1, 0);
        assert!(routine < 35 && open > 2 * routine, "{routine} {open}");
    }

    #[test]
    fn every_word_of_the_table_is_found_in_any_case() {
        for (expected, words) in WORDS {
            for word in words.split(' ').filter(|word| !word.is_empty()) {
                assert_eq!(hint(word.as_bytes()), Some(expected), "{word}");
                assert_eq!(hint(word.to_uppercase().as_bytes()), Some(expected), "{word}");
            }
        }
        for word in ["", "wh", "whyy", "über", "incomprehensibility"] {
            assert_eq!(hint(word.as_bytes()), None, "{word}");
        }
    }

    #[test]
    fn a_long_text_is_judged_by_its_ends() {
        let filler = "lorem ipsum ".repeat(20_000);
        let buried = format!("{filler} prove derive explain {filler}");
        let at_the_end = format!("{filler}{filler} prove derive explain");
        assert_eq!(score(&buried, 1, 0), score(&format!("{filler}{filler}"), 1, 0));
        assert!(score(&at_the_end, 1, 0) > score(&buried, 1, 0));
    }

    proptest! {
        #[test]
        fn any_text_has_one_score_of_at_most_a_hundred(text in "\\PC{0,300}", turns in 0usize..1_000, tools in 0usize..1_000) {
            let first = score(&text, turns, tools);
            prop_assert!(first <= 100);
            prop_assert_eq!(first, score(&text, turns, tools));
        }
    }
}
