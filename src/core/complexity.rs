//! How hard a question looks: a score from 0 (trivial) to 100, by rules over its text.
//!
//! A prior, not a verdict. Without training it orders questions by the benefit of a strong model better than their length does,
//! and not by much: `docs/decisions/0002-complexity-score.md` has the measured figures, and where the weights come from.
//!
//! The text is read once, word by word; of a long one its head, its tail, and pieces between: what the score costs has a bound, however
//! long the prompt.

use std::sync::LazyLock;

use memchr::memmem;

/// Longer texts are judged by so many bytes of theirs: where a question stands, and what it is about.
const SAMPLE: usize = HEAD + PIECES * PIECE + TAIL;
const HEAD: usize = 2 << 10;
const TAIL: usize = 1 << 10;
/// Spread evenly over what is between head and tail.
const PIECES: usize = 8;
const PIECE: usize = 128;

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
/// Places in [`Words`]: a power of two, and so many that most words of a text are found to be none of these at the first look.
const PLACES: usize = 4_096;

/// The words of [`WORDS`], found by their hash.
struct Words {
    /// For each place one more than the index of its word, or zero. A word is at the place that [`place`] gives it or at one soon after.
    places: [u16; PLACES],
    words: Vec<(u128, Hint)>,
}

static TABLE: LazyLock<Words> = LazyLock::new(|| {
    let mut table = Words { places: [0; PLACES], words: Vec::new() };
    for (hint, words) in WORDS {
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            let key = key(word.as_bytes(), 0, word.len()).expect("a word of the table is short");
            table.words.push((key, hint));
            let free = (0..PLACES).map(|step| (place(key) + step) % PLACES).find(|at| table.places[*at] == 0);
            let number = u16::try_from(table.words.len()).expect("some hundred words");
            table.places[free.expect("there are more places than words")] = number;
        }
    }
    table
});

impl Words {
    fn hint(&self, key: u128) -> Option<Hint> {
        let mut at = place(key);
        while let Some(index) = usize::from(self.places[at]).checked_sub(1) {
            let (known, hint) = self.words[index];
            if known == key {
                return Some(hint);
            }
            at = (at + 1) % PLACES;
        }
        None
    }
}

/// A word of a text in lower case as one number; `None` for those that are too long to be in the table.
fn key(text: &[u8], at: usize, length: usize) -> Option<u128> {
    // Letters of ASCII differ from their capitals by this bit, and the table has no others.
    const LOWER: u128 = u128::from_le_bytes([0x20; LONGEST]);
    let beyond = u32::try_from(LONGEST.checked_sub(length)?).ok()? * u8::BITS;
    let mask = u128::MAX.checked_shr(beyond).unwrap_or(0);
    let bytes = match text.get(at..at + LONGEST).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => bytes,
        None => {
            let mut bytes = [0; LONGEST];
            bytes[..length].copy_from_slice(&text[at..at + length]);
            bytes
        }
    };
    Some((u128::from_le_bytes(bytes) | LOWER) & mask)
}

fn place(key: u128) -> usize {
    // Fibonacci hashing: the golden ratio's bits, and the product's top ones.
    let mixed = ((key as u64) ^ ((key >> 64) as u64).rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - PLACES.ilog2())) as usize
}

/// Operators, braces and other marks of formulas and code: one for each that is.
const SYMBOLS: [u8; 256] = {
    let (symbols, mut is_one, mut at) = (b"=+*/^<>{}[]|_;$", [0; 256], 0);
    while at < symbols.len() {
        is_one[symbols[at] as usize] = 1;
        at += 1;
    }
    is_one
};

/// Bytes that are looked at together for where words begin and end.
const BLOCK: usize = u64::BITS as usize;

/// Calls `found` with where each word begins, and its length. A letter is one of any alphabet: bytes from 0x80 on belong to characters
/// beyond ASCII.
fn for_each_word(text: &[u8], mut found: impl FnMut(usize, usize)) {
    let mut block = 0;
    while block < text.len() {
        let letters = letters(&text[block..text.len().min(block + BLOCK)]);
        let mut done = 0;
        loop {
            let begin = done + (letters.checked_shr(done).unwrap_or(0)).trailing_zeros();
            if begin >= u64::BITS {
                block += BLOCK;
                break;
            }
            let end = begin + (!(letters >> begin)).trailing_zeros();
            if end < u64::BITS {
                found(block + begin as usize, (end - begin) as usize);
                done = end;
            } else if begin > 0 {
                // It may go on in the next block, which therefore begins with it.
                block += begin as usize;
                break;
            } else {
                let length = run_of_letters(&text[block..]);
                found(block, length);
                block += length;
                break;
            }
        }
    }
}

/// A bit for each byte of a block: whether it is a letter.
fn letters(block: &[u8]) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let (eights, rest) = block.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    eights.iter().chain([&last]).take(8).enumerate().fold(0, |letters, (index, eight)| {
        let bytes = u64::from_le_bytes(*eight);
        // The top bit of each byte: set from `a` on, from what follows `z` on, and beyond ASCII. No byte's sum reaches the next byte.
        let lower = (bytes | each(0x20)) & each(0x7f);
        let (from_a, beyond_z) = (lower + each(0x80 - b'a'), lower + each(0x7f - b'z'));
        let tops = ((from_a & !beyond_z) | bytes) & each(0x80);
        // Brings these eight bits together: each meets one factor of two that puts it into the product's top byte.
        let together = (tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        letters | together << (8 * index)
    })
}

/// How many bytes from the first on are letters.
fn run_of_letters(text: &[u8]) -> usize {
    text.iter().position(|byte| !byte.is_ascii_alphabetic() && byte.is_ascii()).unwrap_or(text.len())
}

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
    /// There is a fence around code.
    fences: bool,
}

/// Where a question says what it wants, when material follows.
const OPENING_WORDS: u32 = 16;

impl Signs {
    fn of(text: &[u8]) -> Signs {
        let (mut signs, words) = (Signs::default(), &*TABLE);
        if text.len() <= SAMPLE {
            signs.read(words, text);
            return signs;
        }
        let between = &text[HEAD..text.len() - TAIL];
        signs.read(words, &text[..HEAD]);
        for piece in 0..PIECES {
            let begin = (between.len() - PIECE) * piece / (PIECES - 1);
            signs.read(words, whole_words(&between[begin..begin + PIECE]));
        }
        signs.read(words, whole_words(&text[text.len() - TAIL..]));
        signs
    }

    fn read(&mut self, words: &Words, text: &[u8]) {
        let count = |is: fn(u8) -> u8| text.iter().map(|byte| u32::from(is(*byte))).sum::<u32>();
        self.symbols += count(|byte| SYMBOLS[usize::from(byte)]);
        self.questions += count(|byte| u8::from(byte == b'?'));
        self.fences |= memmem::find(text, b"```").is_some();
        for_each_word(text, |at, length| self.word(key(text, at, length).and_then(|key| words.hint(key))));
    }

    fn word(&mut self, hint: Option<Hint>) {
        if let Some(hint) = hint {
            self.hints[hint as usize] += 1;
            self.routine_opening += u32::from(hint == Hint::Routine && self.words < OPENING_WORDS);
        }
        self.words += 1;
    }
}

/// A piece from its first whole word on: what is left of a word that was cut may look like another.
fn whole_words(piece: &[u8]) -> &[u8] {
    &piece[run_of_letters(piece)..]
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
    let form = 2 * signs.symbols.min(6) + 8 * u32::from(signs.fences) + 2 * signs.questions.saturating_sub(1).min(3);
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
                assert_eq!(hint(word), Some(expected), "{word}");
                assert_eq!(hint(&word.to_uppercase()), Some(expected), "{word}");
            }
        }
        for word in ["", "wh", "whyy", "über", "incomprehensibility"] {
            assert_eq!(hint(word), None, "{word}");
        }
    }

    fn hint(word: &str) -> Option<Hint> {
        // Within a text and at its end a word is read in different ways.
        let found = |text: &str| key(text.as_bytes(), 0, word.len()).and_then(|key| TABLE.hint(key));
        assert_eq!(found(word), found(&format!("{word}, and what else there is")));
        found(word)
    }

    #[test]
    fn a_long_text_is_judged_by_its_ends_and_by_what_is_all_over_it() {
        let filler = "lorem ipsum ".repeat(20_000);
        let plain = score(&format!("{filler}{filler}"), 1, 0);
        let buried = format!("{filler} prove derive explain {filler}");
        assert_eq!(score(&buried, 1, 0), plain);
        for (text, more) in [
            (format!("prove derive explain {filler}"), 50),
            (format!("{filler} prove derive explain"), 50),
            (format!("{filler}{}{filler}", "if (x) { return y; } ".repeat(5_000)), 30),
        ] {
            assert!(score(&text, 1, 0) >= plain + more, "{} {plain}", score(&text, 1, 0));
        }
    }

    #[test]
    fn a_text_of_any_length_is_sampled_within_its_bounds() {
        for length in SAMPLE - 2..SAMPLE + 300 {
            let signs = Signs::of(&"word ".repeat(length / 5 + 1).as_bytes()[..length]);
            assert!((SAMPLE as u32 / 5 - 20..SAMPLE as u32 / 5 + 20).contains(&signs.words), "{length}: {}", signs.words);
        }
    }

    proptest! {
        #[test]
        fn words_are_runs_of_letters(text in "([a-zé`?@{\\[]{0,20}[ A-Z\n]{0,3}){0,20}|[a-z]{50,200}") {
            let mut found = Vec::new();
            for_each_word(text.as_bytes(), |at, length| found.push(&text.as_bytes()[at..at + length]));
            let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || !byte.is_ascii();
            let expected: Vec<&[u8]> = text.as_bytes().split(|byte| !is_letter(byte)).filter(|word| !word.is_empty()).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_text_has_one_score_of_at_most_a_hundred(text in "\\PC{0,300}", turns in 0usize..1_000, tools in 0usize..1_000) {
            let first = score(&text, turns, tools);
            prop_assert!(first <= 100);
            prop_assert_eq!(first, score(&text, turns, tools));
        }
    }
}
