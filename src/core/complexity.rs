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
    /// Asks for reasoning, design or judgement.
    Reason,
    /// Belongs to mathematics or a quantitative science.
    Maths,
    /// Belongs to programming.
    Code,
    /// Limits what a good answer is.
    Constraint,
    /// Asks for something that every model does well.
    Simple,
}

/// Words by what they hint at; lower case.
const WORDS: [(Hint, &[&str]); 5] = [
    (
        Hint::Reason,
        &[
            "analyse",
            "analysis",
            "analyze",
            "architecture",
            "argue",
            "argument",
            "assess",
            "assume",
            "because",
            "compare",
            "conclude",
            "consequence",
            "contradiction",
            "contrast",
            "critique",
            "debug",
            "deduce",
            "derive",
            "design",
            "diagnose",
            "disprove",
            "evaluate",
            "explain",
            "hypothesis",
            "implication",
            "implies",
            "infer",
            "investigate",
            "justify",
            "logically",
            "optimal",
            "optimise",
            "optimize",
            "plan",
            "proof",
            "prove",
            "rationale",
            "reason",
            "reasoning",
            "refactor",
            "root",
            "strategy",
            "suppose",
            "therefore",
            "tradeoff",
            "tradeoffs",
            "why",
        ],
    ),
    (
        Hint::Maths,
        &[
            "algebra",
            "angle",
            "area",
            "calculate",
            "coefficient",
            "compute",
            "derivative",
            "determinant",
            "differential",
            "distribution",
            "divisible",
            "energy",
            "equation",
            "equilibrium",
            "factorial",
            "fraction",
            "function",
            "graph",
            "integer",
            "integers",
            "integral",
            "inverse",
            "isomorphic",
            "limit",
            "matrix",
            "maximum",
            "minimum",
            "modulo",
            "percent",
            "polynomial",
            "prime",
            "probability",
            "ratio",
            "remainder",
            "solve",
            "subgroup",
            "sum",
            "theorem",
            "triangle",
            "value",
            "variance",
            "vector",
            "velocity",
            "vertices",
        ],
    ),
    (
        Hint::Code,
        &[
            "algorithm",
            "api",
            "array",
            "async",
            "class",
            "code",
            "compile",
            "complexity",
            "concurrency",
            "const",
            "database",
            "deadlock",
            "def",
            "deploy",
            "exception",
            "fn",
            "implement",
            "import",
            "json",
            "kubernetes",
            "mutex",
            "performance",
            "pointer",
            "program",
            "python",
            "query",
            "recursion",
            "regex",
            "return",
            "rust",
            "schema",
            "script",
            "select",
            "sql",
            "struct",
            "template",
            "thread",
            "typescript",
        ],
    ),
    (
        Hint::Constraint,
        &[
            "all",
            "assuming",
            "at",
            "but",
            "cannot",
            "constraint",
            "constraints",
            "each",
            "ensure",
            "every",
            "exactly",
            "except",
            "following",
            "given",
            "if",
            "least",
            "most",
            "must",
            "never",
            "not",
            "only",
            "should",
            "unless",
            "without",
        ],
    ),
    (
        Hint::Simple,
        &[
            "capital",
            "define",
            "definition",
            "hello",
            "hey",
            "hi",
            "list",
            "name",
            "paraphrase",
            "please",
            "rephrase",
            "rewrite",
            "spell",
            "summarise",
            "summarize",
            "summary",
            "synonym",
            "thank",
            "thanks",
            "translate",
            "translation",
            "who",
            "when",
            "where",
        ],
    ),
];

const LONGEST_WORD: usize = 16;

/// The words of [`WORDS`] by their length, sorted.
static BY_LENGTH: LazyLock<[Vec<(&'static str, Hint)>; LONGEST_WORD + 1]> = LazyLock::new(|| {
    let mut table: [Vec<(&'static str, Hint)>; LONGEST_WORD + 1] = Default::default();
    for (hint, words) in WORDS {
        for word in words {
            table[word.len()].push((word, hint));
        }
    }
    table.iter_mut().for_each(|words| words.sort_by_key(|(word, _)| *word));
    table
});

fn hint(word: &[u8]) -> Option<Hint> {
    let words = BY_LENGTH.get(word.len())?;
    let mut lower = [0; LONGEST_WORD];
    let lower = &mut lower[..word.len()];
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    words.binary_search_by(|(known, _)| known.as_bytes().cmp(lower)).ok().map(|index| words[index].1)
}

/// What is counted in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    words: u32,
    /// Words of ten letters or more.
    long_words: u32,
    /// Words by [`Hint`].
    hints: [u32; WORDS.len()],
    numbers: u32,
    questions: u32,
    /// Operators, braces and other marks of formulas and code.
    symbols: u32,
    /// Code fences and the commands of LaTeX.
    fences: u32,
    latex: u32,
    lines: u32,
}

impl Signs {
    fn read(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some(&first) = rest.first() {
            let length = match first {
                b if b.is_ascii_alphabetic() || b >= 0x80 => self.word(rest),
                b if b.is_ascii_digit() => {
                    self.numbers += 1;
                    run(rest, |b| b.is_ascii_digit() || b == b'.' || b == b',')
                }
                b'`' => {
                    let length = run(rest, |b| b == b'`');
                    self.fences += u32::from(length >= 3);
                    length
                }
                other => {
                    self.mark(other);
                    1
                }
            };
            rest = &rest[length..];
        }
    }

    /// Counts the word at the start of `text`; answers its length.
    fn word(&mut self, text: &[u8]) -> usize {
        let length = run(text, |b| b.is_ascii_alphabetic() || b >= 0x80);
        self.words += 1;
        self.long_words += u32::from(length >= 10);
        if let Some(hint) = hint(&text[..length]) {
            self.hints[hint as usize] += 1;
        }
        length
    }

    fn mark(&mut self, byte: u8) {
        match byte {
            b'?' => self.questions += 1,
            b'\n' => self.lines += 1,
            b'\\' => self.latex += 1,
            b'=' | b'+' | b'*' | b'/' | b'^' | b'<' | b'>' | b'{' | b'}' | b'[' | b']' | b'|' | b'_' | b';' | b'$' => self.symbols += 1,
            _ => {}
        }
    }
}

fn run(text: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|b| !belongs(*b)).unwrap_or(text.len())
}

/// The score of a question in a conversation of `turns` messages whose model may call `tools` tools.
pub fn score(question: &str, turns: usize, tools: usize) -> u8 {
    let bytes = question.as_bytes();
    let mut signs = Signs::default();
    match bytes.len() > 2 * SAMPLE_BYTES {
        false => signs.read(bytes),
        true => {
            signs.read(&bytes[..SAMPLE_BYTES]);
            signs.read(&bytes[bytes.len() - SAMPLE_BYTES..]);
        }
    }
    points(&signs, turns, tools)
}

fn points(signs: &Signs, turns: usize, tools: usize) -> u8 {
    let [reason, maths, code, constraint, simple] = signs.hints;
    let context = u32::try_from(turns / 4 + tools / 4).unwrap_or(u32::MAX).min(8);
    let sum = signs.words.isqrt().min(20)
        + 12 * reason.min(3)
        + 4 * maths.min(4)
        + 6 * code.min(4)
        + 2 * constraint.min(6)
        + 2 * signs.symbols.min(6)
        + 8 * signs.fences.min(1)
        + signs.numbers.min(8)
        + 3 * signs.questions.saturating_sub(1).min(3)
        + context;
    u8::try_from(sum.saturating_sub(6 * simple.min(2)).min(100)).expect("at most 100")
}
