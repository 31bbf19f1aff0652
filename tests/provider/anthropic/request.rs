//! Reading a request: what it asks, of which model, on whose account.

use serde_json::Value;

use crate::answer::{Form, Wish};
use crate::bill::UNLABELLED;
use crate::fields::{Fields, Received};
use crate::models::{Model, Vendor, find};
use crate::prompt::{Prompt, ttl};
use crate::refusal::Refusal;
use crate::reply::Ask;

const ROLES: [&str; 3] = ["user", "assistant", "system"];
const LEAST_THINKING: u64 = 1_024;

pub fn read(body: Received) -> Result<Ask, Refusal> {
    let fields = Fields::parse(body)?;
    let name = fields.text("model")?.ok_or_else(|| Refusal::Missing("model".to_owned()))?;
    let model = find(Vendor::Anthropic, name).ok_or_else(|| Refusal::UnknownModel(name.to_owned()))?;
    ask(&fields, model, fields.flag("stream")?)
}

/// What a body asks of a model, wherever that and whether to stream are said.
pub fn ask(fields: &Fields, model: &'static Model, streamed: bool) -> Result<Ask, Refusal> {
    let max_tokens = fields.count("max_tokens")?.ok_or_else(|| Refusal::Missing("max_tokens".to_owned()))?;
    let mut prompt = prompt(fields)?;
    if max_tokens > model.max_output {
        return Err(Refusal::OutputTooLong { field: "max_tokens", got: max_tokens, most: model.max_output, model: model.name });
    }
    if prompt.tokens() > model.context_window {
        return Err(Refusal::PromptTooLong { tokens: prompt.tokens(), most: model.context_window });
    }
    prompt.searches = searches(fields, prompt.seed());
    let wish = Wish {
        seed: prompt.seed(),
        form: form(fields, &prompt)?,
        reasoning_tokens: thinking(fields, prompt.seed(), max_tokens)?,
        cap: max_tokens as usize,
    };
    let user = fields.get("metadata").and_then(|metadata| metadata["user_id"].as_str());
    let label = user.unwrap_or(UNLABELLED).to_owned();
    Ok(Ask { label, model, wishes: vec![wish], streamed, prompt })
}

/// The input tokens of a request that is not to be answered.
pub fn count(body: Received) -> Result<u64, Refusal> {
    let fields = Fields::parse(body)?;
    let name = fields.text("model")?.ok_or_else(|| Refusal::Missing("model".to_owned()))?;
    find(Vendor::Anthropic, name).ok_or_else(|| Refusal::UnknownModel(name.to_owned()))?;
    Ok(prompt(&fields)?.tokens())
}

fn prompt(fields: &Fields) -> Result<Prompt, Refusal> {
    let messages = fields.messages(&ROLES)?;
    let mut prompt = Prompt::new();
    fields.list("tools")?.iter().for_each(|tool| prompt.push_json(tool));
    if let Some(system) = fields.get("system") {
        prompt.push_message("system", system);
    }
    if let Some(schema) = fields.get("output_config").and_then(|config| config["format"].get("schema")) {
        prompt.push_json(schema);
    }
    for message in messages {
        prompt.push_message(message["role"].as_str().unwrap_or_default(), &message["content"]);
    }
    // A mark on the request is one on its last block.
    if let Some(mark) = fields.get("cache_control") {
        prompt.keep(ttl(mark));
    }
    Ok(prompt)
}

/// A search tool is used, at the provider and unasked: one to three times, as the prompt decides, within what the caller allows.
fn searches(fields: &Fields, seed: u64) -> u64 {
    let tools = fields.list("tools").unwrap_or_default();
    let search = tools.iter().find(|tool| tool["type"].as_str().is_some_and(|kind| kind.starts_with("web_search")));
    search.map_or(0, |tool| (1 + seed % 3).min(tool["max_uses"].as_u64().unwrap_or(u64::MAX)))
}

/// A tool is called only when it must be: an agent that merely offers tools gets an answer, and ends.
fn form(fields: &Fields, prompt: &Prompt) -> Result<Form, Refusal> {
    let tools = fields.list("tools")?;
    let choice = fields.get("tool_choice").unwrap_or(&Value::Null);
    let called = match choice["type"].as_str() {
        Some("any") => tools.iter().find(|tool| tool.get("input_schema").is_some()),
        Some("tool") => tools.iter().find(|tool| tool["name"] == choice["name"]),
        _ => None,
    };
    if let Some(tool) = called {
        let name = tool["name"].as_str().unwrap_or("tool").to_owned();
        return Ok(Form::ToolCall { name, arguments: tool["input_schema"].clone() });
    }
    let schema = fields.get("output_config").and_then(|config| config["format"].get("schema"));
    Ok(match schema {
        Some(schema) => Form::Json { schema: schema.clone() },
        None => Form::Prose { words: prompt.wished_words() },
    })
}

fn thinking(fields: &Fields, seed: u64, max_tokens: u64) -> Result<usize, Refusal> {
    let Some(thinking) = fields.get("thinking") else { return Ok(0) };
    let usual = 60 + seed % 200;
    let tokens = match thinking["type"].as_str() {
        Some("adaptive") => usual,
        Some("enabled") => {
            let field = "thinking.budget_tokens".to_owned();
            let budget = thinking["budget_tokens"].as_u64().ok_or_else(|| Refusal::Missing(field.clone()))?;
            if budget < LEAST_THINKING {
                return Err(Refusal::BelowLeast { field, least: LEAST_THINKING, got: budget.to_string() });
            }
            if budget >= max_tokens {
                return Err(Refusal::AboveMost { field, most: max_tokens - 1, got: budget.to_string() });
            }
            usual.min(budget)
        }
        _ => 0,
    };
    Ok(tokens as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prompt::Ttl;

    fn request(change: Value) -> Result<Ask, Refusal> {
        let mut body = json!({"model": "claude-opus-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Refactor this."}]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read(Ok(body.to_string().into()))
    }

    fn refused(change: Value) -> Refusal {
        request(change).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_request_without_a_cap_is_refused_and_a_cap_holds() {
        assert_eq!(refused(json!({"max_tokens": null})), Refusal::Missing("max_tokens".into()));
        assert!(matches!(refused(json!({"model": "claude-haiku-4-5", "max_tokens": 64_001})), Refusal::OutputTooLong { most: 64_000, .. }));
        assert_eq!(request(json!({})).unwrap().wishes[0].cap, 64);
    }

    #[test]
    fn the_label_of_a_call_is_its_end_user() {
        assert_eq!(request(json!({})).unwrap().label, "unlabelled");
        assert_eq!(request(json!({"metadata": {"user_id": "assistant"}})).unwrap().label, "assistant");
    }

    #[test]
    fn a_tool_is_called_when_it_must_be_and_only_then() {
        let form = |choice: &str| {
            let tools = json!([{"name": "grep", "input_schema": {"type": "object"}}]);
            request(json!({"tools": tools, "tool_choice": {"type": choice, "name": "grep"}})).unwrap().wishes.remove(0).form
        };
        assert!(matches!(form("any"), Form::ToolCall { name, .. } if name == "grep"));
        assert!(matches!(form("tool"), Form::ToolCall { .. }));
        assert!(matches!(form("auto"), Form::Prose { .. }));
    }

    #[test]
    fn marks_of_the_cache_are_read_wherever_they_are() {
        let marks = |change| -> Vec<_> { request(change).unwrap().prompt.boundaries.iter().filter_map(|b| b.keep).collect() };
        let system = json!([{"type": "text", "text": "Rules", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]);
        assert_eq!(marks(json!({"system": system, "cache_control": {"type": "ephemeral"}})), [Ttl::Hour, Ttl::Minutes]);
        assert_eq!(marks(json!({})), []);
    }

    #[test]
    fn thinking_has_a_budget_below_the_cap() {
        let thinking = |budget: u64| json!({"max_tokens": 4_000, "thinking": {"type": "enabled", "budget_tokens": budget}});
        assert!(request(thinking(2_000)).unwrap().wishes[0].reasoning_tokens > 0);
        assert!(matches!(refused(thinking(10)), Refusal::BelowLeast { .. }));
        assert!(matches!(refused(thinking(4_000)), Refusal::AboveMost { .. }));
    }

    #[test]
    fn counting_is_what_a_call_is_billed_for() {
        let body = json!({"model": "claude-opus-5", "max_tokens": 64, "system": "Be brief.", "messages": [{"role": "user", "content": "Hello there"}]});
        let ask = read(Ok(body.to_string().into())).unwrap();
        assert_eq!(count(Ok(body.to_string().into())), Ok(ask.prompt.tokens()));
    }
}
