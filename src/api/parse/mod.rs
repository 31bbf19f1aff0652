//! From specs to the domain's own types: parsed once, right by construction afterwards.
//!
//! The API server has already checked what a schema can say. These checks stand for what it cannot (time zones, CEL),
//! and they check the rest again, because files and older schemas come this way too.

mod allocation;
mod budget;
mod route;

pub use allocation::allocation;
pub use budget::budget;
pub use route::route;

use std::fmt;

/// Everything that is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(pub Vec<Problem>);

/// One thing that is wrong: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.limits[0].usd`.
    pub field: String,
    /// What is wrong and the remedy.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", problem.field, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}

/// Collects problems while a spec is read, so that all of them are said at once.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, message: impl fmt::Display) {
        self.0.push(Problem { field: field.into(), message: message.to_string() });
    }

    /// The value, or `None` and a problem.
    fn check<T, E: fmt::Display>(&mut self, field: impl Into<String>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }

    /// `value` when nothing was wrong.
    fn finish<T>(self, value: Option<T>) -> Result<T, ParseError> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(ParseError(self.0)),
        }
    }
}

/// A positive count from the API's signed integers.
fn positive(value: i64) -> Result<u64, &'static str> {
    u64::try_from(value).ok().filter(|n| *n > 0).ok_or("must be a positive whole number")
}

#[cfg(test)]
mod tests;
