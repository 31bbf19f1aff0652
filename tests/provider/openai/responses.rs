//! Responses: what a request asks, and the items and events that answer it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::prices::{self, Tier};
use super::write::now;
use super::{Stored, asked_model, refusals, request};
use crate::answer::{Answer, End, Form, Wish};
use crate::fields::Fields;
use crate::models::{Input, Model, Rates, WEB_SEARCH};
use crate::pace::{Part, Piece, Usage};
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::reply::{Ask, Dialect};

/// What a tool at the provider adds to what the model reads next.
const RESULT_TOKENS: u64 = 500;
/// What a search tool does when it is used, as far as `max_tool_calls` goes.
const ACTIONS: [&str; 3] = ["search", "open_page", "search"];

pub struct Response {
    id: String,
    model: &'static str,
    tier: Tier,
    created: u64,
    background: bool,
    previous: Option<String>,
    /// Everything that was said before the answer.
    said: Vec<Value>,
    stored: Option<Arc<Stored>>,
    /// Actions of the search tool.
    actions: &'static [&'static str],
    hides_usage: bool,
    /// Which function is called.
    tool: Option<String>,
    /// Events so far.
    sequence: u64,
    /// Items of the output that are done, and the one that is being written.
    done: Vec<Value>,
    open: Option<Part>,
}

pub fn read(fields: &Fields, id: &str, stored: &Arc<Stored>) -> Result<(Ask, Response), Refusal> {
    let model = asked_model(fields)?;
    let tier = Tier::asked(fields.text("service_tier")?)?;
    let cap = fields.count("max_output_tokens")?.unwrap_or(model.max_output);
    if cap > model.max_output {
        return Err(Refusal::OutputTooLong { field: "max_output_tokens", got: cap, most: model.max_output, model: model.name });
    }
    let previous = fields.text("previous_response_id")?.map(str::to_owned);
    let mut said = match &previous {
        Some(id) => stored.find(id).ok_or_else(|| Refusal::NotFound(format!("Previous response with id '{id}' not found.")))?,
        None => Vec::new(),
    };
    let input = fields.get("input").ok_or_else(|| Refusal::Missing("input".to_owned()))?;
    match input.as_array() {
        Some(items) => said.extend(items.iter().cloned()),
        None => said.push(json!({"type": "message", "role": "user", "content": input})),
    }
    let prompt = prompt(fields, &said)?;
    if prompt.tokens() > model.context_window {
        return Err(Refusal::PromptTooLong { tokens: prompt.tokens(), most: model.context_window });
    }
    let tools = fields.list("tools")?;
    let searches = tools.iter().any(|tool| tool["type"].as_str().is_some_and(|kind| kind.starts_with("web_search")));
    let calls = fields.count("max_tool_calls")?.map_or(ACTIONS.len(), |most| ACTIONS.len().min(most as usize));
    let form = form(fields, tools, &prompt);
    let effort = fields.get("reasoning").and_then(|r| r["effort"].as_str());
    let wish =
        Wish { seed: prompt.seed(), form: form.clone(), reasoning_tokens: request::reasoning(effort, prompt.seed())?, cap: cap as usize };
    let response = Response {
        id: format!("resp_{id}"),
        model: model.name,
        tier,
        created: now(),
        background: fields.flag("background")?,
        previous,
        said,
        stored: fields.get("store").is_none_or(|store| store == true).then(|| Arc::clone(stored)),
        actions: if searches { &ACTIONS[..calls] } else { &[] },
        hides_usage: false,
        tool: if let Form::ToolCall { name, .. } = form { Some(name) } else { None },
        sequence: 0,
        done: Vec::new(),
        open: None,
    };
    let label = request::label(fields)?;
    Ok((Ask { label, model, wishes: vec![wish], streamed: fields.flag("stream")?, prompt }, response))
}

fn prompt(fields: &Fields, said: &[Value]) -> Result<Prompt, Refusal> {
    let mut prompt = Prompt::new();
    fields.list("tools")?.iter().for_each(|tool| prompt.push_json(tool));
    if let Some(format) = fields.get("text").and_then(|text| text.get("format")) {
        prompt.push_json(format);
    }
    if let Some(instructions) = fields.get("instructions") {
        prompt.push_message("system", instructions);
    }
    for item in said {
        match item["type"].as_str().unwrap_or("message") {
            "message" => prompt.push_message(item["role"].as_str().unwrap_or_default(), &item["content"]),
            "function_call_output" => prompt.push_message("tool", &item["output"]),
            _ => prompt.push_json(item),
        }
    }
    Ok(prompt)
}

/// A function is called only when it must be.
fn form(fields: &Fields, tools: &[Value], prompt: &Prompt) -> Form {
    let is_function = |tool: &&Value| tool["type"] == "function";
    let called = match fields.get("tool_choice") {
        Some(choice) if choice == "required" => tools.iter().find(is_function),
        Some(choice) if choice["type"] == "function" => tools.iter().filter(is_function).find(|tool| tool["name"] == choice["name"]),
        _ => None,
    };
    if let Some(tool) = called {
        return Form::ToolCall { name: tool["name"].as_str().unwrap_or("tool").to_owned(), arguments: tool["parameters"].clone() };
    }
    let format = fields.get("text").and_then(|text| text.get("format")).cloned().unwrap_or_default();
    match format["type"].as_str() {
        Some("json_schema") => Form::Json { schema: format["schema"].clone() },
        _ => Form::Prose { words: prompt.wished_words() },
    }
}

impl Response {
    fn frame(&self, status: &str, output: &[Value], usage: Option<&Usage>) -> Value {
        let usage = usage.filter(|_| !self.hides_usage);
        let details = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        let mut response = json!({"id": self.id, "object": "response", "created_at": self.created, "status": status, "error": null,
            "incomplete_details": details, "instructions": null, "metadata": {}, "model": self.model, "output": output,
            "parallel_tool_calls": true, "previous_response_id": self.previous, "service_tier": self.tier.name(), "store": self.stored.is_some(),
            "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
            "truncation": "disabled", "background": self.background, "usage": usage.map(written)});
        // Some models say how often they searched, and of others the output has to be counted.
        if usage.is_some() && self.model == "gpt-5" {
            let none = json!({"input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "output_tokens": 0, "total_tokens": 0});
            response["tool_usage"] = json!({"web_search": {"num_requests": self.searches()}, "image_gen": none});
        }
        response
    }

    fn searches(&self) -> u64 {
        self.actions.iter().filter(|action| **action == "search").count() as u64
    }

    /// The items that come before the answer's text: searches and thoughts.
    fn search_items(&self) -> Vec<Value> {
        let action = |kind: &str| match kind {
            "search" => json!({"type": "search", "query": "what was asked", "queries": ["what was asked"]}),
            _ => json!({"type": kind, "url": "https://example.com"}),
        };
        let item = |(index, kind): (usize, &&str)| json!({"type": "web_search_call", "id": self.item_id("ws", index), "status": "completed", "action": action(kind)});
        self.actions.iter().enumerate().map(item).collect()
    }

    fn item_id(&self, prefix: &str, index: usize) -> String {
        format!("{prefix}_{}{index}", self.id)
    }

    fn reasoning_item(&self) -> Value {
        json!({"type": "reasoning", "id": self.item_id("rs", 0), "summary": []})
    }

    fn content_item(&self, text: &str, status: &str) -> Value {
        match &self.tool {
            Some(name) => json!({"type": "function_call", "id": self.item_id("fc", 0), "call_id": self.item_id("call", 0), "name": name,
                "arguments": text, "status": status}),
            None => {
                let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
                let content = if status == "in_progress" { json!([]) } else { json!([part]) };
                json!({"type": "message", "id": self.item_id("msg", 0), "role": "assistant", "status": status, "content": content})
            }
        }
    }

    fn output(&self, answer: &Answer) -> Vec<Value> {
        let mut output = self.search_items();
        if answer.reasoning.tokens() > 0 {
            output.push(self.reasoning_item());
        }
        if answer.content.tokens() > 0 {
            output.push(self.content_item(answer.content.text(), status(answer)));
        }
        output
    }

    fn keep(&self, output: &[Value]) {
        if let Some(stored) = &self.stored {
            stored.keep(self.id.clone(), self.said.iter().chain(output).cloned().collect());
        }
    }

    fn event(&mut self, kind: &str, more: Value) -> String {
        let mut event = json!({"type": kind, "sequence_number": self.sequence});
        if let (Some(event), Some(more)) = (event.as_object_mut(), more.as_object()) {
            event.extend(more.clone());
        }
        self.sequence += 1;
        format!("event: {kind}\ndata: {event}\n\n")
    }

    /// An event about the item that is being written.
    fn of_item(&mut self, kind: &str, more: Value) -> String {
        let prefix = if self.tool.is_some() { "fc" } else { "msg" };
        let mut members = json!({"item_id": self.item_id(prefix, 0), "output_index": self.done.len()});
        if self.tool.is_none() {
            members["content_index"] = json!(0);
        }
        if let (Some(members), Some(more)) = (members.as_object_mut(), more.as_object()) {
            members.extend(more.clone());
        }
        self.event(kind, members)
    }

    fn added(&mut self, item: &Value) -> String {
        let index = self.done.len();
        self.event("response.output_item.added", json!({"output_index": index, "item": item}))
    }

    fn finished(&mut self, item: Value) -> String {
        let event = self.event("response.output_item.done", json!({"output_index": self.done.len(), "item": item}));
        self.done.push(item);
        event
    }

    fn enter(&mut self, part: Part) -> String {
        if self.open == Some(part) {
            return String::new();
        }
        let mut events = self.leave_reasoning();
        self.open = Some(part);
        match part {
            Part::Reasoning => events += &self.added(&self.reasoning_item()),
            Part::Content => {
                events += &self.added(&self.content_item("", "in_progress"));
                if self.tool.is_none() {
                    events += &self
                        .of_item("response.content_part.added", json!({"part": {"type": "output_text", "text": "", "annotations": []}}));
                }
            }
        }
        events
    }

    fn leave_reasoning(&mut self) -> String {
        if self.open.take_if(|part| *part == Part::Reasoning).is_none() {
            return String::new();
        }
        self.finished(self.reasoning_item())
    }
}

impl Dialect for Response {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        refusals::refusal(refusal, &self.id)
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        let Some(answer) = answers.first() else { return Value::Null };
        let output = self.output(answer);
        self.keep(&output);
        if self.background {
            // It is done later, and says so to who asks for it then.
            return self.frame("queued", &[], None);
        }
        self.frame(status(answer), &output, Some(usage))
    }

    fn opening(&mut self, _: &[Answer], _: &Usage) -> String {
        let begun = self.frame("in_progress", &[], None);
        let mut events = self.event("response.created", json!({"response": begun}));
        events += &self.event("response.in_progress", json!({"response": begun}));
        for item in self.search_items() {
            let mut begun = item.clone();
            begun["status"] = json!("in_progress");
            events += &self.added(&begun);
            for step in ["in_progress", "searching", "completed"] {
                let members = json!({"output_index": self.done.len(), "item_id": item["id"]});
                events += &self.event(&format!("response.web_search_call.{step}"), members);
            }
            events += &self.finished(item);
        }
        events
    }

    /// Reasoning is paid for and not shown.
    fn piece(&mut self, piece: &Piece) -> String {
        let events = self.enter(piece.part);
        let kind = match (piece.part, &self.tool) {
            (Part::Reasoning, _) => return events,
            (Part::Content, Some(_)) => "response.function_call_arguments.delta",
            (Part::Content, None) => "response.output_text.delta",
        };
        events + &self.of_item(kind, json!({"delta": piece.text, "obfuscation": "x", "logprobs": []}))
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let Some(answer) = answers.first() else { return String::new() };
        let mut events = self.leave_reasoning();
        if self.open == Some(Part::Content) {
            let text = answer.content.text();
            if let Some(name) = self.tool.clone() {
                events += &self.of_item("response.function_call_arguments.done", json!({"name": name, "arguments": text}));
            } else {
                events += &self.of_item("response.output_text.done", json!({"text": text, "logprobs": []}));
                let part = json!({"type": "output_text", "text": text, "annotations": []});
                events += &self.of_item("response.content_part.done", json!({"part": part}));
            }
            events += &self.finished(self.content_item(text, status(answer)));
        }
        self.keep(&self.done);
        let last = self.frame(status(answer), &self.done, Some(usage));
        events + &self.event(&format!("response.{}", status(answer)), json!({"response": last}))
    }

    /// After each use of a tool everything so far is read again.
    fn all_input(&self, prompt: Input) -> Input {
        let passes = self.actions.len() as u64;
        let again = passes * prompt.tokens() + RESULT_TOKENS * passes * (passes + 1) / 2;
        Input { fresh: prompt.fresh + again, ..prompt }
    }

    fn rates(&self, model: &Model, input: &Input) -> Rates {
        prices::rates(model, self.tier, input)
    }

    fn fees(&self) -> u128 {
        u128::from(self.searches()) * WEB_SEARCH
    }

    fn other_tier(&mut self) {
        self.tier = Tier::Default;
    }

    fn hide_usage(&mut self) {
        self.hides_usage = true;
    }

    fn failure(&mut self) -> String {
        self.event("error", json!({"code": "server_error", "message": "The server had an error.", "param": null}))
    }
}

fn status(answer: &Answer) -> &'static str {
    match answer.end {
        End::Length => "incomplete",
        End::Complete => "completed",
    }
}

/// Input includes what was cached, output includes reasoning.
fn written(usage: &Usage) -> Value {
    let input = usage.input.tokens();
    json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": usage.input.cached_read, "cache_write_tokens": 0},
        "output_tokens": usage.output, "output_tokens_details": {"reasoning_tokens": usage.reasoning}, "total_tokens": input + usage.output})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(change: Value) -> (Ask, Response) {
        let mut body = json!({"model": "gpt-5", "input": "Explain leases in about 30 words."});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read(&Fields::parse(Ok(body.to_string().into())).unwrap(), "1", &Arc::default()).unwrap()
    }

    fn events(change: Value) -> Vec<Value> {
        let (ask, mut response) = asked(change);
        let answers: Vec<_> = ask.wishes.into_iter().map(Wish::answer).collect();
        let usage = Usage { input: Input { fresh: 100, ..Input::default() }, output: 7, reasoning: 2 };
        let mut all = response.opening(&answers, &usage);
        for part in [Part::Reasoning, Part::Content] {
            all.push_str(&response.piece(&Piece { choice: 0, part, text: "Hi".to_owned() }));
        }
        all.push_str(&response.closing(&answers, &usage));
        all.split_terminator("\n\n").map(|event| serde_json::from_str(event.split_once("data: ").unwrap().1).unwrap()).collect()
    }

    #[test]
    fn a_stream_has_the_events_of_the_real_one_in_order() {
        let kinds = |change| {
            events(change).iter().map(|e| e["type"].as_str().unwrap().strip_prefix("response.").unwrap().to_owned()).collect::<Vec<_>>()
        };
        let text = [
            "created",
            "in_progress",
            "output_item.added",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ];
        assert_eq!(kinds(json!({"reasoning": {"effort": "low"}})), text);
        let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
        let called = kinds(json!({"tools": tools, "tool_choice": "required"}));
        assert_eq!(
            called[4..],
            ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed"]
        );
        let searched = kinds(json!({"tools": [{"type": "web_search"}], "max_tool_calls": 1}));
        let search = [
            "output_item.added",
            "web_search_call.in_progress",
            "web_search_call.searching",
            "web_search_call.completed",
            "output_item.done",
        ];
        assert_eq!(searched[2..7], search);
        let numbers: Vec<_> = events(json!({})).iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn each_use_of_a_tool_reads_everything_again() {
        let (_, response) = asked(json!({"tools": [{"type": "web_search"}], "max_tool_calls": 2}));
        let input = response.all_input(Input { fresh: 100, cached_read: 10, ..Input::default() });
        assert_eq!(input, Input { fresh: 100 + 2 * 110 + 500 + 1_000, cached_read: 10, ..Input::default() });
        assert_eq!((response.fees(), response.searches()), (WEB_SEARCH, 1));
    }

    #[test]
    fn a_later_response_reads_what_was_said_before() {
        let stored = Arc::<Stored>::default();
        let body = |more: Value| {
            let mut body = json!({"model": "gpt-5", "input": "Go on."});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Fields::parse(Ok(body.to_string().into())).unwrap()
        };
        let (ask, response) = read(&body(json!({})), "1", &stored).unwrap();
        let tokens = ask.prompt.tokens();
        let answers: Vec<_> = ask.wishes.into_iter().map(Wish::answer).collect();
        response.whole(&answers, &Usage { input: Input::default(), output: 0, reasoning: 0 });
        let (later, _) = read(&body(json!({"previous_response_id": "resp_1"})), "2", &stored).unwrap();
        assert!(later.prompt.tokens() > tokens + answers[0].tokens() as u64);
        assert!(read(&body(json!({"previous_response_id": "resp_9"})), "3", &stored).is_err());
    }
}
