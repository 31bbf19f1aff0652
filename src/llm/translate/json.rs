//! JSON as translations need it.
//!
//! It is read one object at a time, member by member, so that what nobody took can be refused by name. It is written as text, so that
//! schemas, arguments and numbers go over as they were written: a model reads the members of a schema in their order, and a number
//! that was read and printed again may be another one. Nothing here goes deeper into a text than the formats themselves do, so its
//! nesting costs nothing.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::Untranslatable;

/// An object whose members are taken one by one.
pub struct Object<'a> {
    /// Where it stands in the request, for messages; empty for the request itself.
    path: String,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// A value that is not of the form it should have.
fn malformed(path: &str, expected: &str) -> Untranslatable {
    Untranslatable(format!("`{path}`, which is not {expected}"))
}

impl<'a> Object<'a> {
    /// The object that is a whole body.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_body(body: &'a [u8]) -> Result<Object<'a>, Untranslatable> {
        let members: Members<'a> =
            serde_json::from_slice(body).map_err(|e| Untranslatable(format!("a body that is no JSON object: {e}")))?;
        Ok(Object { path: String::new(), members: members.0 })
    }

    /// The object that is a value.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(value: &'a RawValue, path: String) -> Result<Object<'a>, Untranslatable> {
        match serde_json::from_str::<Members<'a>>(value.get()) {
            Ok(members) => Ok(Object { path, members: members.0 }),
            Err(error) if error.is_data() && value.get().starts_with('{') => Err(Untranslatable(format!("`{path}`: {error}"))),
            Err(_) => Err(malformed(&path, "an object")),
        }
    }

    /// Where a member stands in the request.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// That a member has no equivalent.
    pub fn refuse(&self, name: &str) -> Untranslatable {
        Untranslatable(format!("`{}`", self.path(name)))
    }

    /// That a member's value has no equivalent.
    pub fn refuse_value(&self, name: &str, value: &str) -> Untranslatable {
        Untranslatable(format!("`{}: {}`", self.path(name), shortened(value)))
    }

    /// Takes a member; `null` says as little as its absence.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.members.iter().position(|(known, _)| known == name)?;
        let (_, value) = self.members.swap_remove(at);
        (value.get() != "null").then_some(value)
    }

    /// A member that stays where it is.
    pub fn peek(&self, name: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    pub fn text(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, Untranslatable> {
        let Some(value) = self.take(name) else { return Ok(None) };
        text(value).map(Some).ok_or_else(|| malformed(&self.path(name), "a string"))
    }

    /// A text that must be there.
    pub fn needed_text(&mut self, name: &str) -> Result<Cow<'a, str>, Untranslatable> {
        self.text(name)?.ok_or_else(|| Untranslatable(format!("a missing `{}`", self.path(name))))
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Untranslatable> {
        self.parsed(name, "true or false")
    }

    pub fn parsed<T: Deserialize<'a>>(&mut self, name: &str, expected: &str) -> Result<Option<T>, Untranslatable> {
        let Some(value) = self.take(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|_| malformed(&self.path(name), expected))
    }

    /// A number as it is written, and its value.
    pub fn number(&mut self, name: &str) -> Result<Option<(&'a RawValue, f64)>, Untranslatable> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match serde_json::from_str::<f64>(value.get()) {
            Ok(number) => Ok(Some((value, number))),
            Err(_) => Err(malformed(&self.path(name), "a number")),
        }
    }

    pub fn list(&mut self, name: &str) -> Result<Option<Vec<&'a RawValue>>, Untranslatable> {
        self.parsed(name, "a list")
    }

    /// The objects of a list.
    pub fn objects(&mut self, name: &str) -> Result<Vec<Object<'a>>, Untranslatable> {
        let path = self.path(name);
        let values = self.list(name)?.unwrap_or_default();
        values.into_iter().enumerate().map(|(at, value)| Object::of(value, format!("{path}[{at}]"))).collect()
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Object<'a>>, Untranslatable> {
        let path = self.path(name);
        self.take(name).map(|value| Object::of(value, path)).transpose()
    }

    /// Leaves out members that change nothing of the answer.
    pub fn leave_out(&mut self, harmless: &[&str]) {
        self.members.retain(|(name, _)| !harmless.contains(&name.as_ref()));
    }

    /// Refuses whatever was not taken.
    ///
    /// # Errors
    /// The first member that is left.
    pub fn refuse_rest(mut self) -> Result<(), Untranslatable> {
        self.members.retain(|(_, value)| value.get() != "null");
        match self.members.first() {
            Some((name, _)) => Err(self.refuse(&shortened(name))),
            None => Ok(()),
        }
    }
}

/// The text that a JSON string is.
pub fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// The JSON object that a text is, such as a call's arguments; nothing is one without members.
pub fn object_in(text: &str) -> Option<Json> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Json("{}".to_owned()));
    }
    (text.starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok()).then(|| Json(text.to_owned()))
}

/// A schema with a description that stood beside it.
///
/// # Errors
/// When it has one of its own, or is no object.
pub fn described(schema: &RawValue, description: Option<&str>) -> Result<Json, Untranslatable> {
    let path = "response_format.json_schema";
    let object = Object::of(schema, format!("{path}.schema"))?;
    let Some(description) = description else { return Ok(schema.into()) };
    if object.peek("description").is_some() {
        return Err(Untranslatable(format!("`{path}.description` beside the schema's own")));
    }
    let after = if object.members.is_empty() { "" } else { "," };
    Ok(Json(format!("{{\"description\":{}{after}{}", Json::from(description).0, &schema.get()[1..])))
}

/// Enough of a text to know it by.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct ReadMembers<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for ReadMembers<'a> {
            type Value = Members<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'a>, &'a RawValue>()? {
                    members.push((name.0, value));
                }
                // Whoever reads the first and whoever reads the last would read different requests.
                let mut names: Vec<&str> = members.iter().map(|(name, _): &(Cow<'a, str>, _)| name.as_ref()).collect();
                names.sort_unstable();
                match names.windows(2).find(|pair| pair[0] == pair[1]) {
                    Some(pair) => Err(serde::de::Error::custom(format_args!("duplicate member `{}`", shortened(pair[0])))),
                    None => Ok(Members(members)),
                }
            }
        }
        deserializer.deserialize_map(ReadMembers(std::marker::PhantomData))
    }
}

/// A text that is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(String);

impl Json {
    pub fn list(values: impl IntoIterator<Item = Json>) -> Json {
        let mut text = String::from("[");
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(&value.0);
        }
        text.push(']');
        Json(text)
    }

    pub fn null() -> Json {
        Json("null".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json(serde_json::to_string(text).expect("a text can be written as JSON"))
    }
}

impl From<&RawValue> for Json {
    fn from(value: &RawValue) -> Json {
        Json(value.get().to_owned())
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json(value.to_string())
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Json {
        Json(value.to_string())
    }
}

impl From<i64> for Json {
    fn from(value: i64) -> Json {
        Json(value.to_string())
    }
}

impl From<Written> for Json {
    fn from(object: Written) -> Json {
        let mut text = object.0;
        text.push('}');
        Json(text)
    }
}

/// An object that is being written, in the order of its members.
#[derive(Clone, Debug)]
pub struct Written(String);

/// An object without members.
pub fn object() -> Written {
    Written(String::from("{"))
}

impl Written {
    /// `name` is one of the formats' own, which need no escaping.
    pub fn with(mut self, name: &'static str, value: impl Into<Json>) -> Written {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
        self.0.push_str(&value.into().0);
        self
    }

    /// A member, if there is a value.
    pub fn maybe(self, name: &'static str, value: Option<impl Into<Json>>) -> Written {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// `None` when nothing was written.
    pub fn unless_empty(self) -> Option<Json> {
        (!self.is_empty()).then(|| self.into())
    }
}
