//! Not read yet.
use crate::llm::usage::ReportedUsage;

pub fn of_body(_: &[u8]) -> Option<ReportedUsage> {
    None
}
