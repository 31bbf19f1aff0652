//! Message content, which both protocols write as a string, nothing, or a list of typed parts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Content as parts; a string is one text part.
#[derive(Debug, Default)]
pub struct Content<'a>(pub Vec<Part<'a>>);

/// One part; fields that a type does not have stay empty, and unknown fields are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Part<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub refusal: Option<Cow<'a, str>>,
    /// OpenAI: `{"url": …}`.
    #[serde(borrow)]
    pub image_url: Option<Url<'a>>,
    /// Anthropic: `{"type": "base64", "data": …}`, or a URL or file.
    #[serde(borrow)]
    pub source: Option<Source<'a>>,
    pub input_audio: Option<IgnoredAny>,
    pub file: Option<IgnoredAny>,
    /// Anthropic: what a tool answered.
    #[serde(borrow)]
    pub content: Option<Content<'a>>,
    /// Anthropic: a tool's arguments.
    #[serde(borrow)]
    pub input: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Url<'a> {
    #[serde(borrow)]
    pub url: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Source<'a> {
    #[serde(borrow)]
    pub data: Option<Cow<'a, str>>,
}

impl Part<'_> {
    /// Bytes of base64 that the provider reads as an image, not as text.
    pub fn image_bytes(&self) -> Option<usize> {
        match (&self.image_url, &self.source) {
            (Some(image), _) => Some(image.url.len()),
            (None, Some(source)) if self.kind == "image" => Some(source.data.as_ref().map_or(0, |d| d.len())),
            _ => None,
        }
    }

    /// True for what no length of the request bounds: documents, files and audio.
    pub fn is_opaque(&self) -> bool {
        self.input_audio.is_some() || self.file.is_some() || (self.source.is_some() && self.kind != "image")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content<'a>, D::Error> {
        deserializer.deserialize_any(ContentVisitor(std::marker::PhantomData))
    }
}

struct ContentVisitor<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ContentVisitor<'a> {
    type Value = Content<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of content parts")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Content<'a>, E> {
        Ok(of_text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Content<'a>, E> {
        Ok(of_text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Content<'a>, E> {
        Ok(Content::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content<'a>, A::Error> {
        let mut content = Content::default();
        while let Some(part) = parts.next_element()? {
            content.0.push(part);
        }
        Ok(content)
    }
}

fn of_text(text: Cow<'_, str>) -> Content<'_> {
    Content(vec![Part { kind: Cow::Borrowed("text"), text: Some(text), ..Part::default() }])
}
