//! The members of a JSON object as they stand in the body, whatever their names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::llm::request::RequestError;

/// An object's members by name. No name is there twice: which of both counts would be up to whoever reads it.
#[derive(Debug, Default)]
pub struct Object<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Object<'a> {
    pub fn all(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// A member, be it null.
    pub fn any(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied()
    }

    /// A member that is not null.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.any(name).filter(|value| value.get() != "null")
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The members of an object within it; of none where it has no such object.
    ///
    /// # Errors
    /// When a name is there twice.
    pub fn object(&self, name: &str) -> Result<Object<'a>, RequestError> {
        object(self.get(name))
    }
}

/// The members of an object; of none where there is none. Another shape than an object's is the provider's to refuse.
///
/// # Errors
/// When a name is there twice.
pub fn object(value: Option<&RawValue>) -> Result<Object<'_>, RequestError> {
    let Some(value) = value.filter(|value| value.get().starts_with('{')) else { return Ok(Object::default()) };
    serde_json::from_str(value.get()).map_err(|e| RequestError::Malformed(e.to_string()))
}

/// Names by which one maker or another caps the output.
const CAPS: [&str; 7] =
    ["max_tokens", "maxTokens", "max_tokens_to_sample", "max_completion_tokens", "max_new_tokens", "max_gen_len", "maxTokenCount"];

/// The caps on output of a request.
#[derive(Debug, Default)]
pub struct Caps<'a> {
    pub most: Option<u64>,
    pub values: Vec<&'a RawValue>,
}

/// The caps that hold for the model that is asked, `known`, and those of `others` by any maker's name.
///
/// A model may prefer another name to its own, or leave it alone. So each is lowered with the known ones, the largest of all counts,
/// and without a known one there must be no other. A null is the place of a cap that there is none of yet.
///
/// # Errors
/// When one is no positive whole number, or there are only others.
pub fn caps<'a>(known: Vec<&'a RawValue>, others: &[&Object<'a>], field: &'static str) -> Result<Caps<'a>, RequestError> {
    let is_capped = !known.is_empty();
    let mut values = known;
    for value in others.iter().flat_map(|object| CAPS.iter().filter_map(|name| object.any(name))) {
        if !values.iter().any(|seen| std::ptr::eq(*seen, value)) {
            values.push(value);
        }
    }
    if !is_capped && !values.is_empty() {
        let problem =
            "is missing: a cap on output by another name needs it beside it, so that it holds whatever the model makes of that name";
        return Err(RequestError::Field { field, problem });
    }
    let mut most = None;
    for value in values.iter().filter(|value| value.get() != "null") {
        let cap = value.get().parse().ok().filter(|cap| *cap > 0);
        most = most.max(Some(cap.ok_or(RequestError::Field { field, problem: "must be a positive whole number" })?));
    }
    Ok(Caps { most, values })
}

/// An object that a cap is to stand in: it is one, or is not there.
///
/// # Errors
/// When it is neither, so that a cap could stand nowhere.
pub fn config<'a>(value: Option<&'a RawValue>, field: &'static str) -> Result<Object<'a>, RequestError> {
    match value {
        Some(value) if !value.get().starts_with('{') => Err(RequestError::Field { field, problem: "must be an object" }),
        _ => object(value),
    }
}

/// Answers asked for, by whichever name a maker has for it.
///
/// # Errors
/// When they are no number from 1 to 128.
pub fn choices(object: &Object<'_>) -> Result<u64, RequestError> {
    const NAMES: [&str; 6] = ["n", "num_generations", "num_completions", "numResults", "best_of", "num_return_sequences"];
    let mut most = 1;
    for value in NAMES.iter().filter_map(|name| object.get(name)) {
        let asked = value.get().parse().ok().filter(|asked| (1..=128).contains(asked));
        most = most.max(asked.ok_or(RequestError::Field { field: "n", problem: "must be between 1 and 128" })?);
    }
    Ok(most)
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'a>, D::Error> {
        deserializer.deserialize_map(Members(std::marker::PhantomData))
    }
}

struct Members<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
    type Value = Object<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Object<'a>, A::Error> {
        let mut object = Object::default();
        while let Some((Text(name), value)) = members.next_entry()? {
            if let Some((name, _)) = object.0.get_key_value(&name) {
                return Err(A::Error::custom(format_args!("duplicate member {name:?}")));
            }
            object.0.insert(name, value);
        }
        Ok(object)
    }
}

/// A text that is copied only where JSON escaped it.
#[derive(Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);
