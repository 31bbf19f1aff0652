//! Reading a request to generate: what it asks, of which model.

use serde_json::{Value, json};

use crate::answer::{Form, Wish};
use crate::bill::UNLABELLED;
use crate::fields::{Fields, Received};
use crate::models::Model;
use crate::prompt::{IMAGE_TOKENS, Prompt};
use crate::refusal::Refusal;
use crate::reply::Ask;

const ROLES: [&str; 3] = ["user", "model", "function"];
const MOST_CHOICES: u64 = 8;
/// What is stored under a name of cached content: the number that the name ends with, or this.
const STORED_TOKENS: u64 = 4_096;
/// A page of the web.
const PAGE_TOKENS: u64 = 900;

/// A request that was understood, and what only this protocol knows of it.
pub struct Asked {
    pub ask: Ask,
    /// Input tokens of pictures.
    pub image_tokens: u64,
    /// Input tokens that are stored at the provider, and named by the request.
    pub stored_tokens: u64,
    pub shows_thoughts: bool,
    /// Searches are made for the answer.
    pub grounded: bool,
    /// Input tokens of pages that the model reads by itself.
    pub page_tokens: u64,
}

pub fn read(body: Received, model: &'static Model, streamed: bool) -> Result<Asked, Refusal> {
    let fields = Fields::parse(body)?;
    let config = in_camel_case(fields.get("generationConfig").unwrap_or(&Value::Null));
    let mut images = 0;
    let prompt = prompt(&fields, &config, &mut images)?;
    let stored_tokens = fields.text("cachedContent")?.map_or(0, stored);
    let tokens = prompt.tokens() + stored_tokens;
    if tokens > model.context_window {
        return Err(Refusal::PromptTooLong { tokens, most: model.context_window });
    }
    let cap = count(&config, "maxOutputTokens")?.unwrap_or(model.max_output);
    if cap > model.max_output {
        return Err(Refusal::OutputTooLong { field: "maxOutputTokens", got: cap, most: model.max_output, model: model.name });
    }
    let choices = count(&config, "candidateCount")?.unwrap_or(1);
    if choices > MOST_CHOICES {
        return Err(Refusal::AboveMost { field: "candidateCount".to_owned(), most: MOST_CHOICES, got: choices.to_string() });
    }
    let form = form(&fields, &config, &prompt)?;
    let thinking = &in_camel_case(&config["thinkingConfig"]);
    let reasoning_tokens = thoughts(thinking, model, prompt.seed());
    let wish = |choice: u64| Wish { seed: prompt.seed().wrapping_add(choice), form: form.clone(), reasoning_tokens, cap: cap as usize };
    let wishes = (0..choices).map(wish).collect();
    let label = fields.get("labels").and_then(|labels| labels["user"].as_str()).unwrap_or(UNLABELLED).to_owned();
    let shows_thoughts = thinking["includeThoughts"] == json!(true);
    let tools = fields.list("tools")?;
    let has = |name: &str| tools.iter().any(|tool| tool.get(name).is_some());
    Ok(Asked {
        ask: Ask { label, model, prompt, wishes, streamed },
        image_tokens: images * IMAGE_TOKENS,
        stored_tokens,
        shows_thoughts,
        grounded: has("googleSearch"),
        page_tokens: if has("urlContext") { PAGE_TOKENS } else { 0 },
    })
}

fn count(config: &Value, field: &str) -> Result<Option<u64>, Refusal> {
    match (&config[field], config[field].as_u64()) {
        (Value::Null, _) => Ok(None),
        (value, None | Some(0)) => Err(Refusal::BelowLeast { field: field.to_owned(), least: 1, got: value.to_string() }),
        (_, count) => Ok(count),
    }
}

fn prompt(fields: &Fields, config: &Value, images: &mut u64) -> Result<Prompt, Refusal> {
    let contents = fields.list("contents")?;
    if contents.is_empty() {
        return Err(Refusal::Missing("contents".to_owned()));
    }
    let mut prompt = Prompt::new();
    functions(fields)?.iter().for_each(|function| prompt.push_json(function));
    for schema in ["responseSchema", "responseJsonSchema"] {
        config.get(schema).into_iter().for_each(|schema| prompt.push_json(schema));
    }
    let mut push = |role: &str, content: &Value| {
        let parts: Vec<Value> = content["parts"].as_array().into_iter().flatten().map(|given| part(given, images)).collect();
        prompt.push_message(role, &Value::Array(parts));
    };
    fields.get("systemInstruction").into_iter().for_each(|system| push("system", system));
    for (index, content) in contents.iter().enumerate() {
        let role = content["role"].as_str().unwrap_or("user");
        if !ROLES.contains(&role) {
            return Err(Refusal::NotOneOf { field: format!("contents[{index}].role"), got: role.to_owned(), allowed: &ROLES });
        }
        push(role, content);
    }
    Ok(prompt)
}

/// An object's own names as the protocol writes them; it takes the others too, and Google's own SDK writes either.
fn in_camel_case(value: &Value) -> Value {
    let Value::Object(members) = value else { return value.clone() };
    let camel = |name: &String| {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| name + &word.get(..1).unwrap_or_default().to_ascii_uppercase() + word.get(1..).unwrap_or_default())
    };
    Value::Object(members.iter().map(|(name, value)| (camel(name), value.clone())).collect())
}

/// A part as the tokenizer knows parts.
fn part(part: &Value, images: &mut u64) -> Value {
    let part = in_camel_case(part);
    if let Some(text) = part["text"].as_str() {
        return json!({"type": "text", "text": text});
    }
    if let Some(call) = part.get("functionCall") {
        return json!({"type": "tool_use", "name": call["name"], "input": call["args"]});
    }
    if let Some(answer) = part.get("functionResponse") {
        return json!({"type": "tool_result", "content": [{"type": "response", "response": answer["response"]}]});
    }
    let blob = in_camel_case(part.get("inlineData").or(part.get("fileData")).unwrap_or(&Value::Null));
    let kind = match blob["mimeType"].as_str().unwrap_or_default().split('/').next() {
        Some("image") => "image",
        Some("audio") => "input_audio",
        _ => "document",
    };
    *images += u64::from(kind == "image");
    json!({"type": kind, "data": blob})
}

fn functions(fields: &Fields) -> Result<Vec<Value>, Refusal> {
    let of_tool = |tool: &Value| tool["functionDeclarations"].as_array().cloned().unwrap_or_default();
    Ok(fields.list("tools")?.iter().flat_map(of_tool).collect())
}

/// A function is called only when one must be: an agent that merely offers some gets an answer, and ends.
fn form(fields: &Fields, config: &Value, prompt: &Prompt) -> Result<Form, Refusal> {
    let functions = functions(fields)?;
    let choice = fields.get("toolConfig").map_or(Value::Null, |config| config["functionCallingConfig"].clone());
    if choice["mode"] == "ANY" {
        let allowed = |function: &&Value| choice["allowedFunctionNames"].as_array().is_none_or(|names| names.contains(&function["name"]));
        if let Some(function) = functions.iter().find(allowed) {
            let arguments = function.get("parametersJsonSchema").or(function.get("parameters")).unwrap_or(&Value::Null);
            let name = function["name"].as_str().unwrap_or("function").to_owned();
            return Ok(Form::ToolCall { name, arguments: json_schema(arguments) });
        }
    }
    let schema = config.get("responseJsonSchema").or(config.get("responseSchema"));
    Ok(match (schema, config["responseMimeType"].as_str()) {
        (Some(schema), _) => Form::Json { schema: json_schema(schema) },
        (None, Some("application/json")) => Form::Json { schema: json!({"properties": {"answer": {"type": "string"}}}) },
        _ => Form::Prose { words: prompt.wished_words() },
    })
}

/// Google's own schemas have their types in capitals.
fn json_schema(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(json_schema).collect(),
        Value::Object(members) => {
            let lower = |(name, value): (&String, &Value)| match (name.as_str(), value.as_str()) {
                ("type", Some(kind)) => (name.clone(), json!(kind.to_ascii_lowercase())),
                _ => (name.clone(), json_schema(value)),
            };
            Value::Object(members.iter().map(lower).collect())
        }
        other => other.clone(),
    }
}

/// The Pro model always thinks, the other when it is asked to; neither more than it may.
fn thoughts(thinking: &Value, model: &Model, seed: u64) -> usize {
    let usual = 60 + (seed % 64) as usize;
    match thinking["thinkingBudget"].as_i64() {
        Some(0) if model.name != "gemini-2.5-pro" => 0,
        Some(budget) if budget > 0 => usual.min(budget as usize),
        Some(_) => usual,
        None if model.name == "gemini-2.5-pro" || thinking.is_object() => usual,
        None => 0,
    }
}

fn stored(name: &str) -> u64 {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().unwrap_or(STORED_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Vendor, find};

    fn request(change: Value) -> Result<Asked, Refusal> {
        let mut body = json!({"contents": [{"role": "user", "parts": [{"text": "Why is my invoice wrong?"}]}]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read(Ok(body.to_string().into()), find(Vendor::Google, "gemini-2.5-flash").unwrap(), false)
    }

    fn refused(change: Value) -> Refusal {
        request(change).map(|_| ()).unwrap_err()
    }

    #[test]
    fn the_cap_and_the_candidates_are_the_callers() {
        let asked = request(json!({"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2}, "labels": {"user": "bot"}})).unwrap();
        assert_eq!(asked.ask.wishes.iter().map(|wish| wish.cap).collect::<Vec<_>>(), [9, 9]);
        assert_eq!(asked.ask.label, "bot");
        assert!(matches!(refused(json!({"generationConfig": {"maxOutputTokens": 0}})), Refusal::BelowLeast { .. }));
        assert!(matches!(refused(json!({"generationConfig": {"maxOutputTokens": 65_536}})), Refusal::OutputTooLong { .. }));
        assert!(matches!(refused(json!({"generationConfig": {"candidateCount": 9}})), Refusal::AboveMost { .. }));
        assert_eq!(refused(json!({"contents": []})), Refusal::Missing("contents".into()));
    }

    #[test]
    fn pictures_and_what_is_stored_are_input() {
        let picture = json!([{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}]);
        let asked = request(json!({"contents": picture, "cachedContent": "cachedContents/manual-5000"})).unwrap();
        assert_eq!((asked.image_tokens, asked.stored_tokens), (IMAGE_TOKENS, 5_000));
        assert!(asked.ask.prompt.tokens() >= IMAGE_TOKENS);
        assert_eq!(request(json!({"cachedContent": "cachedContents/manual"})).unwrap().stored_tokens, STORED_TOKENS);
    }

    #[test]
    fn a_function_is_called_when_one_must_be() {
        let tools = json!([{"functionDeclarations": [{"name": "lookup", "parameters": {"type": "OBJECT", "properties": {"q": {"type": "STRING"}}}}]}]);
        let form = |mode: &str| {
            let choice = json!({"functionCallingConfig": {"mode": mode}});
            request(json!({"tools": tools, "toolConfig": choice})).unwrap().ask.wishes[0].form.clone()
        };
        assert!(
            matches!(form("ANY"), Form::ToolCall { name, arguments } if name == "lookup" && arguments["properties"]["q"]["type"] == "string")
        );
        assert!(matches!(form("AUTO"), Form::Prose { .. }));
    }
}
