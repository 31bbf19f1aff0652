//! Reading a request: what it asks, of which model, on whose account.

use serde_json::{Value, json};

use super::asked_model;
use super::prices::Tier;
use crate::answer::{Form, Wish};
use crate::bill::UNLABELLED;
use crate::fields::Fields;
use crate::models::Model;
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::reply::Ask;

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
const MOST_CHOICES: u64 = 128;

/// The request, the tier that it asks for, and whether its stream is to end with the usage.
pub fn read(fields: &Fields) -> Result<(Ask, Tier, bool), Refusal> {
    let model = asked_model(fields)?;
    let tier = Tier::asked(fields.text("service_tier")?)?;
    let cap = cap(fields, model)?;
    let prompt = prompt(fields)?;
    if prompt.tokens() > model.context_window {
        return Err(Refusal::PromptTooLong { tokens: prompt.tokens(), most: model.context_window });
    }
    let choices = fields.count("n")?.unwrap_or(1);
    if choices > MOST_CHOICES {
        return Err(Refusal::AboveMost { field: "n".to_owned(), most: MOST_CHOICES, got: choices.to_string() });
    }
    let form = form(fields, &prompt)?;
    let reasoning_tokens = reasoning(fields.text("reasoning_effort")?, prompt.seed())?;
    let wish = |choice: u64| Wish { seed: prompt.seed().wrapping_add(choice), form: form.clone(), reasoning_tokens, cap };
    let wishes = (0..choices).map(wish).collect();
    Ok((Ask { label: label(fields)?, model, wishes, streamed: fields.flag("stream")?, prompt }, tier, wants_usage(fields)))
}

/// On whose account: the end user's.
pub fn label(fields: &Fields) -> Result<String, Refusal> {
    Ok(fields.text("safety_identifier")?.or(fields.text("user")?).unwrap_or(UNLABELLED).to_owned())
}

pub fn wants_usage(fields: &Fields) -> bool {
    fields.get("stream_options").is_some_and(|options| options["include_usage"] == json!(true))
}

fn cap(fields: &Fields, model: &'static Model) -> Result<usize, Refusal> {
    for field in ["max_completion_tokens", "max_tokens"] {
        let Some(cap) = fields.count(field)? else { continue };
        if cap > model.max_output {
            return Err(Refusal::OutputTooLong { field, got: cap, most: model.max_output, model: model.name });
        }
        return Ok(cap as usize);
    }
    Ok(model.max_output as usize)
}

fn prompt(fields: &Fields) -> Result<Prompt, Refusal> {
    let messages = fields.messages(&ROLES)?;
    let mut prompt = Prompt::new();
    fields.list("tools")?.iter().chain(fields.list("functions")?).for_each(|tool| prompt.push_json(tool));
    if let Some(schema) = fields.get("response_format").and_then(|format| format.get("json_schema")) {
        prompt.push_json(schema);
    }
    for message in messages {
        prompt.push_message(message["role"].as_str().unwrap_or_default(), &message["content"]);
        message["tool_calls"].as_array().into_iter().flatten().for_each(|call| prompt.push_json(call));
    }
    Ok(prompt)
}

/// A tool is called only when it must be: an agent that merely offers tools gets an answer, and ends.
fn form(fields: &Fields, prompt: &Prompt) -> Result<Form, Refusal> {
    let tools = fields.list("tools")?;
    let named = |tool: &&Value, name: &Value| tool["function"]["name"] == *name;
    let called = match fields.get("tool_choice") {
        Some(choice) if choice == "required" => tools.first(),
        Some(choice) if choice["type"] == "function" => tools.iter().find(|tool| named(tool, &choice["function"]["name"])),
        _ => None,
    };
    if let Some(tool) = called {
        let name = tool["function"]["name"].as_str().unwrap_or("tool").to_owned();
        return Ok(Form::ToolCall { name, arguments: tool["function"]["parameters"].clone() });
    }
    let format = fields.get("response_format").unwrap_or(&Value::Null);
    Ok(match format["type"].as_str() {
        Some("json_schema") => Form::Json { schema: format["json_schema"]["schema"].clone() },
        Some("json_object") => {
            Form::Json { schema: json!({"properties": {"answer": {"type": "string"}, "confident": {"type": "boolean"}}}) }
        }
        _ => Form::Prose { words: prompt.wished_words() },
    })
}

/// More effort, more tokens that the caller pays for and never sees.
pub fn reasoning(effort: Option<&str>, seed: u64) -> Result<usize, Refusal> {
    const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];
    let least = match effort.unwrap_or("none") {
        "none" | "minimal" => return Ok(0),
        "low" => 40,
        "medium" => 120,
        "high" => 320,
        "xhigh" => 640,
        other => return Err(Refusal::NotOneOf { field: "reasoning_effort".to_owned(), got: other.to_owned(), allowed: &EFFORTS }),
    };
    Ok(least + (seed % 64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens;

    fn request(change: Value) -> Result<(Ask, Tier, bool), Refusal> {
        let mut body = json!({"model": "gpt-5.4", "messages": [{"role": "user", "content": "Why is my invoice wrong?"}]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read(&Fields::parse(Ok(body.to_string().into()))?)
    }

    fn refused(change: Value) -> Refusal {
        request(change).map(|_| ()).unwrap_err()
    }

    #[test]
    fn the_label_of_a_call_is_its_end_user() {
        let label = |change| request(change).unwrap().0.label;
        assert_eq!(label(json!({})), "unlabelled");
        assert_eq!(label(json!({"user": "bot"})), "bot");
        assert_eq!(label(json!({"user": "bot", "safety_identifier": "agent"})), "agent");
    }

    #[test]
    fn the_newer_name_of_the_cap_wins_and_every_choice_has_it() {
        let (ask, _, _) = request(json!({"max_tokens": 9, "max_completion_tokens": 5, "n": 3})).unwrap();
        assert_eq!(ask.wishes.iter().map(|wish| wish.cap).collect::<Vec<_>>(), [5, 5, 5]);
        assert_eq!(request(json!({"max_tokens": 9})).unwrap().0.wishes[0].cap, 9);
        assert_eq!(refused(json!({"max_tokens": 0})), Refusal::BelowLeast { field: "max_tokens".into(), least: 1, got: "0".into() });
        assert!(matches!(refused(json!({"max_tokens": 200_000})), Refusal::OutputTooLong { most: 128_000, .. }));
    }

    #[test]
    fn a_tool_is_called_when_it_must_be_and_only_then() {
        let tools = json!([{"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}]);
        let form = |choice: &str| request(json!({"tools": tools, "tool_choice": choice})).unwrap().0.wishes[0].form.clone();
        assert!(matches!(form("required"), Form::ToolCall { name, .. } if name == "lookup"));
        assert!(matches!(form("auto"), Form::Prose { .. }));
        let named = json!({"type": "function", "function": {"name": "lookup"}});
        assert!(matches!(&request(json!({"tools": tools, "tool_choice": named})).unwrap().0.wishes[0].form, Form::ToolCall { .. }));
    }

    #[test]
    fn a_malformed_request_is_refused_by_the_field_that_is_wrong() {
        assert_eq!(refused(json!({"messages": []})), Refusal::Missing("messages".into()));
        assert_eq!(refused(json!({"stream": "yes"})), Refusal::WrongType { field: "stream".into(), expected: "a boolean" });
        assert_eq!(refused(json!({"model": "gpt-9"})), Refusal::UnknownModel("gpt-9".into()));
        assert_eq!(refused(json!({"model": "claude-opus-5"})), Refusal::UnknownModel("claude-opus-5".into()));
        assert!(matches!(refused(json!({"messages": [{"role": "boss"}]})), Refusal::NotOneOf { field, .. } if field == "messages[0].role"));
        assert!(matches!(Fields::parse(Ok("{".into())).map(|_| ()).unwrap_err(), Refusal::NotJson(_)));
        assert!(matches!(refused(json!({"service_tier": "slow"})), Refusal::NotOneOf { field, .. } if field == "service_tier"));
    }

    #[test]
    fn tools_and_messages_are_input() {
        let tokens = |change| request(change).unwrap().0.prompt.tokens();
        let plain = tokens(json!({}));
        assert_eq!(plain, 3 + 4 + tokens::count("Why is my invoice wrong?"));
        let tool = json!({"type": "function", "function": {"name": "lookup", "parameters": {}}});
        assert_eq!(tokens(json!({"tools": [tool]})), plain + tokens::count_json(&tool));
    }
}
