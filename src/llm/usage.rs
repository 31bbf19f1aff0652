//! What an answer says it used.

use serde::Deserialize;

use super::{anthropic, openai};
use crate::core::policy::Protocol;
use crate::core::usage::Usage;

/// A provider's own figures, in meters that do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedUsage {
    pub usage: Usage,
    /// The model that answered, by the provider's name for it.
    pub model: Option<String>,
}

#[derive(Deserialize)]
struct Answer<U> {
    model: Option<String>,
    usage: Option<U>,
}

/// Reads usage from a whole answer; `None` when it has none, which is not the same as zero.
pub fn usage_of_body(protocol: Protocol, body: &[u8]) -> Option<ReportedUsage> {
    let (usage, model) = match protocol {
        Protocol::OpenAIChat => {
            let answer: Answer<openai::usage::WireUsage> = serde_json::from_slice(body).ok()?;
            (answer.usage?.meters()?, answer.model)
        }
        Protocol::AnthropicMessages => {
            let answer: Answer<anthropic::usage::WireUsage> = serde_json::from_slice(body).ok()?;
            (answer.usage?.meters()?, answer.model)
        }
    };
    Some(ReportedUsage { usage, model })
}
