//! Parts of a row that no query looks into, as JSON text.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::LedgerError;

/// `value` as text.
///
/// # Errors
/// When it cannot be written down, which for the ledger's own types does not happen.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| LedgerError::Storage(error.to_string()))
}

/// What [`encode`] made of it.
///
/// # Errors
/// When somebody else changed it; `what` says what it should be.
pub fn decode<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|_| LedgerError::Corrupt(format!("{what} that is none")))
}

/// A whole number of any size, which is kept as decimal text.
///
/// # Errors
/// As [`decode`].
pub fn integer(text: &str) -> Result<i128, LedgerError> {
    text.parse().map_err(|_| LedgerError::Corrupt("an amount that is none".to_owned()))
}
