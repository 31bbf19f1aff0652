//! Why a call is not answered. Each protocol has its own words and shape for it.

/// Fields are named as the request names them.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    NoKey,
    WrongKey,
    /// Anthropic's `anthropic-version` header is missing.
    NoVersion,
    TooLarge,
    NotJson(String),
    Missing(String),
    WrongType {
        field: String,
        expected: &'static str,
    },
    BelowLeast {
        field: String,
        least: u64,
        got: String,
    },
    AboveMost {
        field: String,
        most: u64,
        got: String,
    },
    NotOneOf {
        field: String,
        got: String,
        allowed: &'static [&'static str],
    },
    UnknownModel(String),
    /// More output asked for than the model can write.
    OutputTooLong {
        field: &'static str,
        got: u64,
        most: u64,
        model: &'static str,
    },
    /// The prompt exceeds the context window.
    PromptTooLong {
        tokens: u64,
        most: u64,
    },
    NotFound(String),
    RateLimited,
    ServerError,
    Overloaded,
}
