//! The bound by words against the tokenizers themselves.

use bpe_openai::{Tokenizer, cl100k_base, o200k_base};
use proptest::prelude::*;

use super::*;

fn counts(text: &str) -> [u64; 2] {
    [cl100k_base(), o200k_base()].map(|tokenizer| tokenizer.count(text) as u64)
}

fn is_sound(text: &str) -> bool {
    counts(text).iter().all(|tokens| *tokens <= bound(text))
}

/// Small, capitals, or one capital first: what both tokenizers keep together.
fn is_of_one_case(word: &[u8]) -> bool {
    let small = |letters: &[u8]| letters.iter().all(u8::is_ascii_lowercase);
    match word {
        [] => false,
        [first, rest @ ..] => first.is_ascii_alphabetic() && (small(rest) || word.iter().all(u8::is_ascii_uppercase)),
    }
}

/// The list as it must be, from one vocabulary and held against the other.
fn of_the_vocabularies() -> String {
    let vocabulary: &Tokenizer = o200k_base();
    let tokens = (0..vocabulary.bpe.num_tokens()).map(|id| vocabulary.bpe.token_bytes(u32::try_from(id).unwrap()));
    let words = tokens.filter_map(|token| token.strip_prefix(b" ")).filter(|word| is_of_one_case(word));
    let words = words.map(|word| std::str::from_utf8(word).unwrap());
    let mut words: Vec<&str> = words.filter(|word| counts(&format!(" {word}")) == [1, 1]).collect();
    words.sort_unstable_by_key(|word| (word.len(), *word));
    words.iter().map(|word| format!("{word}\n")).collect()
}

/// With `WORDS=write` (`make words`) it writes what it holds the file to.
#[test]
fn the_list_is_that_of_both_vocabularies() {
    let expected = of_the_vocabularies();
    if std::env::var("WORDS").is_ok_and(|what| what == "write") {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/llm/words.txt"), &expected).unwrap();
        return;
    }
    assert!(WORDS == expected, "src/llm/words.txt is not what the vocabularies have; run `make words`");
    assert!(expected.lines().all(|word| is_listed(word.as_bytes())), "every word is found");
    assert!(!is_listed(b"") && !is_listed(b"xqzv") && !is_listed(&[b'a'; 99]));
}

#[test]
fn blanks_and_digits_are_as_few_tokens_as_is_said() {
    for length in 1..=MOST_BLANKS {
        assert_eq!(counts(&" ".repeat(length)), [1, 1], "{length} blanks");
    }
    for number in 0..1_000 {
        for text in [format!("{number}"), format!("{number:02}"), format!("{number:03}")] {
            assert_eq!(counts(&text), [1, 1], "{text}");
        }
    }
}

#[test]
fn a_word_counts_once_where_it_is_sure_to_be_one_piece() {
    for (text, tokens) in [
        // The first has no blank, the last may go on.
        ("Where is the money now", 5 + 3 + 4),
        ("x The END.", 1 + 2 + 1),
        // Another case is another piece, and so is a contraction.
        ("x tHe y.", 1 + 4 + 1 + 1),
        ("x don't.", 1 + 6 + 1),
        // Escapes may hide a letter, and a quotation mark the end of the text.
        ("x the\\u0301.", 1 + 4 + 7),
        ("\" the\"", 6),
        ("x the\u{301}.", 1 + 4 + 2 + 1),
        // Blanks and digits.
        ("x    the y.", 1 + 2 + 1 + 1),
        ("\tx\n    the.", 1 + 1 + 1 + 2 + 1),
        ("x\t   the.", 1 + 1 + 3 + 1),
        ("   the.", 3 + 4),
        ("x 12345.", 1 + 1 + 2 + 1),
        ("x ²345.", 1 + 1 + 2 + 3 + 1),
        ("12345", 5),
        ("", 0),
    ] {
        assert_eq!(bound(text), tokens, "{text:?}");
        assert!(is_sound(text), "{text:?}");
    }
}

#[test]
fn prose_needs_a_third_of_its_bytes() {
    let prose = include_str!("../../../docs/concepts.md");
    let (bytes, tokens) = (prose.len() as u64, bound(prose));
    assert!(is_sound(prose));
    assert!(tokens * 10 < bytes * 5, "{tokens} of {bytes}");
}

#[test]
fn only_openais_own_models_count_so() {
    use Provider::{AzureOpenAI, OpenAI};
    for (provider, endpoint, model, expected) in [
        (OpenAI, "https://api.openai.com", "gpt-5-mini", true),
        (OpenAI, "https://eu.api.openai.com", "gpt-4o-2024-11-20", true),
        (OpenAI, "https://api.openai.com", "ft:gpt-4o-mini:shop::x", true),
        (OpenAI, "https://api.openai.com", "text-embedding-3-small", true),
        (AzureOpenAI, "https://shop.openai.azure.com", "gpt-4.1", true),
        // Not in the table: whoever made it may have changed the vocabulary.
        (OpenAI, "https://api.openai.com", "gpt-5.2", false),
        (OpenAI, "https://api.openai.com", "gpt-6", false),
        (OpenAI, "https://api.openai.com", "o1x", false),
        // Another server calls its model as it likes.
        (OpenAI, "http://vllm:8000", "gpt-4o", false),
        (OpenAI, "https://api.openai.com.example.org", "gpt-4o", false),
        (Provider::Ollama, "https://api.openai.com", "gpt-4o", false),
    ] {
        assert_eq!(are_tokens_of(provider, endpoint, model), expected, "{endpoint} {model}");
    }
}

/// What looks like words, and what comes between.
fn fragment() -> impl Strategy<Value = String> {
    static LISTED: LazyLock<Vec<&str>> = LazyLock::new(|| WORDS.lines().collect());
    let listed = any::<prop::sample::Index>().prop_map(|index| format!(" {}", index.get(&LISTED)));
    let between = prop::sample::select(vec![
        " ",
        "  ",
        "     ",
        "\n",
        "\r\n",
        "\t",
        ".",
        ",",
        "'",
        "'s",
        "'T",
        "\"",
        "\\",
        "\\n",
        "/",
        "//\n",
        "(",
        "{\"",
        "\u{a0}",
        "\u{301}",
        "\u{2028}",
        "²",
        "١",
        "é",
        "ß",
        "中",
        "ก",
        "😀",
        "<|endoftext|>",
        "ﬁ",
        "İ",
        "ǅ",
        "ʰ",
    ]);
    prop_oneof![
        4 => listed,
        3 => between.prop_map(str::to_owned),
        1 => "[0-9]{1,7}",
        1 => "[a-zA-Z]{1,9}",
        1 => any::<char>().prop_map(String::from),
        1 => "\\PC{0,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn never_under_whatever_the_text(fragments in prop::collection::vec(fragment(), 0..40)) {
        let text = fragments.concat();
        prop_assert!(is_sound(&text), "{:?}: {:?} > {}", text, counts(&text), bound(&text));
        prop_assert!(bound(&text) <= text.len() as u64);
    }

    #[test]
    fn never_under_as_a_part_of_what_the_provider_makes_of_it(
        before in fragment(), fragments in prop::collection::vec(fragment(), 0..20), after in fragment(),
    ) {
        let text = fragments.concat();
        for whole in [format!("{before}{text}{after}"), format!("{before}{}{after}", text.trim())] {
            let around = (before.len() + after.len()) as u64;
            prop_assert!(counts(&whole).iter().all(|tokens| *tokens <= bound(&text) + around), "{:?} in {:?}", text, whole);
        }
    }

    #[test]
    fn never_under_when_it_stands_in_json(fragments in prop::collection::vec(fragment(), 0..30)) {
        let text = fragments.concat();
        let json = serde_json::to_string(&serde_json::json!({ "query": text })).unwrap();
        prop_assert!(counts(&text).iter().all(|tokens| *tokens <= bound(&json)));
    }
}

fn chat(texts: &[String]) -> serde_json::Value {
    let messages: Vec<_> = texts.iter().map(|text| serde_json::json!({ "role": "user", "content": text })).collect();
    serde_json::json!({ "model": "gpt-5", "messages": messages })
}

fn parsed(body: &serde_json::Value) -> crate::llm::Request {
    crate::llm::parse(crate::llm::Addressed::plain(crate::core::policy::Protocol::OpenAIChat), body.to_string().into()).unwrap()
}

#[test]
fn a_request_of_prose_reserves_far_less_by_words_and_nothing_else_changes() {
    let prose = "Summarise the report below in three short sentences for the board, without any figures. ".repeat(50);
    let request = parsed(&chat(&[prose]));
    let (bytes, words) = (request.billable_input(1_000_000), request.billable_by_words(1_000_000));
    assert!(words * 3 < bytes, "{words} of {bytes}");
    // What is stored elsewhere, or read several times, fills the window whatever the words are.
    let mut searches = chat(&["What is new in the world today?".to_owned()]);
    searches["web_search_options"] = serde_json::json!({});
    let request = parsed(&searches);
    assert_eq!(request.billable_by_words(1_000), request.billable_input(1_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// By OpenAI's own account of what a chat adds: three tokens a message and three for the answer (openai-cookbook,
    /// `How_to_count_tokens_with_tiktoken`).
    #[test]
    fn a_chat_is_never_under(texts in prop::collection::vec(prop::collection::vec(fragment(), 0..20), 1..5)) {
        let texts: Vec<String> = texts.iter().map(|fragments| fragments.concat()).collect();
        let request = parsed(&chat(&texts));
        let bound = request.billable_by_words(1_000_000);
        prop_assert!(bound <= request.billable_input(1_000_000));
        for vocabulary in 0..2 {
            let billed: u64 = texts.iter().map(|text| counts(text)[vocabulary] + 4).sum();
            prop_assert!(billed + 3 <= bound, "{:?}: {} > {}", texts, billed + 3, bound);
        }
    }
}
