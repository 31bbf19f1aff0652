//! A value that fits a JSON schema, for structured outputs and the arguments of tools.

use serde_json::{Map, Value, json};

use crate::prose::{self, Rng};

/// Values in all, so that a schema that refers to itself ends.
const MOST_VALUES: u32 = 2_000;
/// Levels of nesting; below them lists are empty and references lead nowhere.
const MOST_LEVELS: u32 = 12;

/// A value of the schema, the same for the same seed.
pub fn value_of(schema: &Value, seed: u64) -> Value {
    Filler { root: schema, rng: Rng::new(seed), left: MOST_VALUES }.fill(schema, MOST_LEVELS)
}

struct Filler<'a> {
    root: &'a Value,
    rng: Rng,
    left: u32,
}

impl<'a> Filler<'a> {
    fn fill(&mut self, schema: &'a Value, levels: u32) -> Value {
        if levels == 0 || self.left == 0 {
            return Value::Null;
        }
        self.left -= 1;
        if let Some(target) = schema["$ref"].as_str().and_then(|path| self.root.pointer(path.strip_prefix('#')?)) {
            return self.fill(target, levels - 1);
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.is_empty()) {
            return choices[self.rng.below(choices.len() as u64) as usize].clone();
        }
        if let Some(first) = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema[key].as_array()?.first()) {
            return self.fill(first, levels - 1);
        }
        match kind(schema) {
            "object" => self.object(schema, levels),
            "array" => self.array(schema, levels),
            "integer" => json!(self.number(schema)),
            "number" => json!(self.number(schema) as f64 + 0.5),
            "boolean" => json!(self.rng.below(2) == 0),
            "null" => Value::Null,
            _ => self.string(schema),
        }
    }

    fn object(&mut self, schema: &'a Value, levels: u32) -> Value {
        let properties = schema["properties"].as_object().into_iter().flatten();
        Value::Object(properties.map(|(name, property)| (name.clone(), self.fill(property, levels - 1))).collect::<Map<_, _>>())
    }

    fn array(&mut self, schema: &'a Value, levels: u32) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(1);
        let most = schema["maxItems"].as_u64().unwrap_or(3).max(least);
        let items = if levels > 1 { (least + self.rng.below(most - least + 1)).min(u64::from(self.left)) } else { 0 };
        (0..items).map(|_| self.fill(&schema["items"], levels - 1)).collect()
    }

    fn number(&mut self, schema: &Value) -> i64 {
        let least = schema["minimum"].as_i64().unwrap_or(0);
        let most = schema["maximum"].as_i64().unwrap_or(least.saturating_add(99)).max(least);
        least.saturating_add_unsigned(self.rng.below(most.abs_diff(least).saturating_add(1)))
    }

    fn string(&mut self, schema: &Value) -> Value {
        match schema["format"].as_str() {
            Some("date") => json!("2026-11-24"),
            Some("date-time") => json!("2026-11-24T12:00:00Z"),
            Some("email") => json!("someone@example.com"),
            Some("uri") => json!("https://example.com/article"),
            Some("uuid") => json!("5f0c2f6e-8f0e-4d55-9b6f-2d9f5c1a7e10"),
            _ => {
                let words = 3 + self.rng.below(10) as usize;
                json!(prose::words(self.rng.next(), words))
            }
        }
    }
}

/// A type, or the first of several; untyped schemas tell by what they describe.
fn kind(schema: &Value) -> &str {
    let first = schema["type"].as_array().and_then(|kinds| kinds.first()).unwrap_or(&schema["type"]);
    match first.as_str() {
        Some(kind) => kind,
        None if schema.get("properties").is_some() => "object",
        None if schema.get("items").is_some() => "array",
        None => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_types_of_its_schema() {
        let schema = json!({"type": "object", "properties": {
            "category": {"enum": ["billing", "access"]}, "priority": {"type": "integer", "minimum": 1, "maximum": 3},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}, "note": {"type": ["string", "null"]}},
            "$defs": {"tag": {"type": "string"}}});
        let value = value_of(&schema, 3);
        assert!(["billing", "access"].contains(&value["category"].as_str().unwrap()));
        assert!((1..=3).contains(&value["priority"].as_i64().unwrap()));
        assert!(value["tags"].as_array().unwrap().iter().all(Value::is_string));
        assert!(value["note"].is_string());
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"type": "object", "properties": {
            "left": {"$ref": "#"}, "right": {"$ref": "#"}, "many": {"type": "array", "minItems": 900, "items": {"$ref": "#"}}}});
        assert!(value_of(&schema, 1).is_object());
        assert!(value_of(&json!({"$ref": "#"}), 1).is_null());
    }
}
