//! What an answer says it used.

use super::bedrock;
use super::format::format;
use crate::core::policy::Protocol;
use crate::core::tariff::ServiceTier;
use crate::core::usage::Usage;

/// A provider's own figures, in meters that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportedUsage {
    pub usage: Usage,
    /// The model that answered, by the provider's name for it.
    pub model: Option<String>,
    /// The service tier that the call was billed in, where the provider says so.
    pub tier: Option<ServiceTier>,
    /// Whether inference was bound to a region, where the provider says so.
    pub regional: Option<bool>,
    /// What the call used beyond `usage`: passes that the provider counts apart.
    pub beyond: Vec<Beyond>,
    /// It ran on capacity that was bought ahead: its tokens count, and cost nothing by the token.
    pub prepaid: bool,
}

/// Usage that a provider counts apart from the call's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// The model that it was of; `None` for the one that was called.
    pub model: Option<String>,
    pub usage: Usage,
}

impl ReportedUsage {
    /// Figures without a word on tier, place or other models.
    pub fn of(usage: Usage, model: Option<String>) -> ReportedUsage {
        ReportedUsage { usage, model, ..ReportedUsage::default() }
    }
}

/// Reads usage from a whole answer; `None` when it has none, which is not the same as zero.
pub fn usage_of_body(protocol: Protocol, body: &[u8]) -> Option<ReportedUsage> {
    (format(protocol).usage)(body)
}

/// Reads usage from the headers of a whole answer whose body has none. `choices` are the answers that were asked for: what only
/// takes input reports no output.
pub fn usage_of_headers(protocol: Protocol, choices: u64, header: &dyn Fn(&str) -> Option<String>) -> Option<ReportedUsage> {
    match protocol {
        Protocol::BedrockInvoke => bedrock::usage::of_headers(choices, header),
        _ => None,
    }
}

/// The service tier that the headers of an answer, whole or streamed, say that it was served in.
pub fn tier_of_headers(protocol: Protocol, header: &dyn Fn(&str) -> Option<String>) -> Option<ServiceTier> {
    match protocol {
        Protocol::BedrockInvoke => bedrock::usage::tier_of_headers(header),
        _ => None,
    }
}
