//! Reading the members of a request, with refusals that name the field. A null is as good as absent.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// A request's body, as the extractor gives it: the error is a body over the limit, or a caller that left.
pub type Received = Result<Bytes, BytesRejection>;

pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(body: Received) -> Result<Fields, Refusal> {
        let body = body.map_err(|_| Refusal::TooLarge)?;
        let members = serde_json::from_slice(&body).map_err(|e| Refusal::NotJson(e.to_string()))?;
        Ok(Fields(members))
    }

    /// With a member in place of the caller's.
    pub fn with(mut self, field: &str, value: Value) -> Fields {
        self.0.insert(field.to_owned(), value);
        self
    }

    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub fn flag(&self, field: &str) -> Result<bool, Refusal> {
        self.get(field).map_or(Ok(false), |value| value.as_bool().ok_or_else(|| wrong_type(field, "a boolean")))
    }

    pub fn text(&self, field: &str) -> Result<Option<&str>, Refusal> {
        self.get(field).map(|value| value.as_str().ok_or_else(|| wrong_type(field, "a string"))).transpose()
    }

    /// A whole number of at least one.
    pub fn count(&self, field: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(0) => Err(below_one(field, value)),
            Some(count) => Ok(Some(count)),
            None if value.is_i64() => Err(below_one(field, value)),
            None => Err(wrong_type(field, "an integer")),
        }
    }

    /// An optional list.
    pub fn list(&self, field: &str) -> Result<&[Value], Refusal> {
        self.get(field).map_or(Ok(&[]), |value| value.as_array().map(Vec::as_slice).ok_or_else(|| wrong_type(field, "an array")))
    }

    /// The messages: at least one, each with a role that the protocol knows.
    pub fn messages(&self, roles: &'static [&'static str]) -> Result<&[Value], Refusal> {
        let messages = self.list("messages")?;
        if messages.is_empty() {
            return Err(Refusal::Missing("messages".to_owned()));
        }
        for (index, message) in messages.iter().enumerate() {
            let field = || format!("messages[{index}].role");
            let role = message["role"].as_str().ok_or_else(|| Refusal::Missing(field()))?;
            if !roles.contains(&role) {
                return Err(Refusal::NotOneOf { field: field(), got: role.to_owned(), allowed: roles });
            }
        }
        Ok(messages)
    }
}

fn wrong_type(field: &str, expected: &'static str) -> Refusal {
    Refusal::WrongType { field: field.to_owned(), expected }
}

fn below_one(field: &str, value: &Value) -> Refusal {
    Refusal::BelowLeast { field: field.to_owned(), least: 1, got: value.to_string() }
}
