//! What a Chat Completions request says, for whichever format it is told in next.
//!
//! | member | what becomes of it |
//! |---|---|
//! | `messages`, `tools`, `tool_choice`, `response_format`, `stop`, `temperature`, `top_p`, `reasoning_effort`, `user`, `safety_identifier`, `stream_options.include_usage` | translated |
//! | `max_tokens`, `max_completion_tokens` | translated; without one the sidecar sets it |
//! | `parallel_tool_calls`, `seed`, `frequency_penalty`, `presence_penalty` | translated where the other format has it, else refused |
//! | [`HARMLESS`], [`HARMLESS_IN_MESSAGE`], `image_url.detail`, `prompt_cache_breakpoint` | left out: they change no word of the answer |
//! | what says the default ([`DEFAULTS`]) | left out: that is what happens anyway |
//! | anything else | refused by name |

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Untranslatable;
use super::json::{Json, Object, object_in, text};
use super::vocabulary::{Image, image_of_url};

/// Hints on caching, labels for the provider's own dashboard, and padding against eavesdroppers.
const HARMLESS: [&str; 4] = ["metadata", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"];
/// What SDKs add to an answer before they send it back. Earlier reasoning comes without the signature by which a provider would
/// know it for its own.
const HARMLESS_IN_MESSAGE: [&str; 3] = ["annotations", "parsed", "reasoning_content"];
/// Members that say nothing when they have this value.
const DEFAULTS: [(&str, &[&str]); 10] = [
    ("n", &["1"]),
    ("logprobs", &["false"]),
    ("top_logprobs", &["0"]),
    ("logit_bias", &["{}"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("presence_penalty", &["0", "0.0"]),
    ("store", &["false"]),
    ("service_tier", &["\"auto\"", "\"default\""]),
    ("verbosity", &["\"medium\""]),
    ("modalities", &["[\"text\"]"]),
];

/// A request, understood.
pub struct Chat<'a> {
    pub messages: Vec<Message<'a>>,
    pub tools: Vec<Tool<'a>>,
    pub tool_choice: Option<ToolChoice<'a>>,
    /// `false` when the model may make one call a turn only.
    pub parallel_tool_calls: Option<bool>,
    pub format: Format<'a>,
    pub temperature: Option<(&'a RawValue, f64)>,
    pub top_p: Option<&'a RawValue>,
    pub stop: Vec<Cow<'a, str>>,
    pub effort: Option<Cow<'a, str>>,
    pub user: Option<Cow<'a, str>>,
    pub seed: Option<&'a RawValue>,
    pub frequency_penalty: Option<&'a RawValue>,
    pub presence_penalty: Option<&'a RawValue>,
}

/// A turn of the conversation, and where it stands in the request.
pub struct Message<'a> {
    pub path: String,
    pub says: Says<'a>,
}

pub enum Says<'a> {
    /// Of `system` and `developer`.
    System(Vec<Part<'a>>),
    User(Vec<Part<'a>>),
    Assistant {
        parts: Vec<Part<'a>>,
        calls: Vec<Call<'a>>,
    },
    Tool {
        id: Cow<'a, str>,
        parts: Vec<Part<'a>>,
    },
}

pub enum Part<'a> {
    Text(Cow<'a, str>),
    Image(Image<'a>),
}

/// A call that the model made.
pub struct Call<'a> {
    pub id: Cow<'a, str>,
    pub name: Cow<'a, str>,
    /// An object.
    pub arguments: Json,
    /// What Gemini wants back with its own calls, where Google's own translation puts it.
    pub signature: Option<Cow<'a, str>>,
}

pub struct Tool<'a> {
    pub name: Cow<'a, str>,
    pub description: Option<Cow<'a, str>>,
    pub parameters: Option<&'a RawValue>,
    pub strict: bool,
}

pub enum ToolChoice<'a> {
    Auto,
    None,
    Required,
    Named(Cow<'a, str>),
}

pub enum Format<'a> {
    Text,
    JsonObject,
    Schema { name: Option<Cow<'a, str>>, description: Option<Cow<'a, str>>, schema: &'a RawValue },
}

impl Chat<'_> {
    /// How many messages at the beginning are the system's.
    pub fn preamble(&self) -> usize {
        self.messages.iter().take_while(|message| matches!(message.says, Says::System(_))).count()
    }
}

/// Reads a request.
///
/// # Errors
/// What of it no other format has, by name.
pub fn read(body: &[u8]) -> Result<Chat<'_>, Untranslatable> {
    let mut request = Object::of_body(body)?;
    // The cap and whether the answer streams were read when the request was admitted, the model's name goes with its address.
    request.leave_out(&HARMLESS);
    request.leave_out(&["model", "stream", "max_tokens", "max_completion_tokens"]);
    for (name, values) in DEFAULTS {
        leave_out_default(&mut request, name, values);
    }
    if let Some(mut options) = request.object("stream_options")? {
        options.leave_out(&["include_usage", "include_obfuscation"]);
        options.refuse_rest()?;
    }
    let messages: Vec<Message<'_>> = request.objects("messages")?.into_iter().map(message).collect::<Result<_, _>>()?;
    if messages.last().is_some_and(|last| matches!(last.says, Says::Assistant { .. })) {
        // Elsewhere that is the beginning of the answer, which the model goes on with.
        return Err(Untranslatable("an assistant's message at the end of `messages`".to_owned()));
    }
    let (user, safety_identifier) = (request.text("user")?, request.text("safety_identifier")?);
    let chat = Chat {
        messages,
        tools: request.objects("tools")?.into_iter().map(tool).collect::<Result<_, _>>()?,
        tool_choice: tool_choice(&mut request)?,
        parallel_tool_calls: request.flag("parallel_tool_calls")?,
        format: format(&mut request)?,
        temperature: request.number("temperature")?,
        top_p: request.number("top_p")?.map(|(written, _)| written),
        stop: stop(&mut request)?,
        effort: request.text("reasoning_effort")?,
        user: user.or(safety_identifier),
        seed: request.number("seed")?.map(|(written, _)| written),
        frequency_penalty: request.number("frequency_penalty")?.map(|(written, _)| written),
        presence_penalty: request.number("presence_penalty")?.map(|(written, _)| written),
    };
    request.refuse_rest()?;
    Ok(chat)
}

/// Leaves a member out when it says what happens anyway.
fn leave_out_default(request: &mut Object<'_>, name: &'static str, values: &[&str]) {
    let says_nothing = request.peek(name).is_some_and(|value| {
        let bare: String = value.get().chars().filter(|c| !c.is_ascii_whitespace()).take(32).collect();
        values.contains(&bare.as_str())
    });
    if says_nothing {
        request.leave_out(&[name]);
    }
}

fn message(mut message: Object<'_>) -> Result<Message<'_>, Untranslatable> {
    let role = message.needed_text("role")?;
    let parts = parts(&mut message)?;
    let says = match role.as_ref() {
        "system" | "developer" => Says::System(parts),
        "user" => Says::User(parts),
        "tool" => Says::Tool { id: message.needed_text("tool_call_id")?, parts },
        "assistant" => {
            let mut parts = parts;
            parts.extend(message.text("refusal")?.filter(|text| !text.is_empty()).map(Part::Text));
            message.leave_out(&HARMLESS_IN_MESSAGE);
            let calls = message.objects("tool_calls")?.into_iter().map(call).collect::<Result<_, _>>()?;
            Says::Assistant { parts, calls }
        }
        other => return Err(message.refuse_value("role", other)),
    };
    let path = message.path("content");
    message.refuse_rest()?;
    Ok(Message { path, says })
}

/// A message's content; empty texts say nothing, and other formats do not take them.
fn parts<'a>(message: &mut Object<'a>) -> Result<Vec<Part<'a>>, Untranslatable> {
    if let Some(text) = message.peek("content").and_then(text) {
        message.leave_out(&["content"]);
        return Ok(if text.is_empty() { Vec::new() } else { vec![Part::Text(text)] });
    }
    let mut parts = Vec::new();
    for part in message.objects("content")? {
        parts.extend(content_part(part)?);
    }
    Ok(parts)
}

fn content_part(mut part: Object<'_>) -> Result<Option<Part<'_>>, Untranslatable> {
    let kind = part.needed_text("type")?;
    part.leave_out(&["prompt_cache_breakpoint"]);
    let read = match kind.as_ref() {
        "text" => Some(part.needed_text("text")?).filter(|text| !text.is_empty()).map(Part::Text),
        "refusal" => Some(part.needed_text("refusal")?).filter(|text| !text.is_empty()).map(Part::Text),
        "image_url" => {
            let mut image = part.object("image_url")?.ok_or_else(|| part.refuse("image_url"))?;
            // How closely to look; other families decide by the image's size.
            image.leave_out(&["detail"]);
            let url = image.needed_text("url")?;
            let read = image_of_url(url).ok_or_else(|| image.refuse("url"))?;
            image.refuse_rest()?;
            Some(Part::Image(read))
        }
        other => return Err(part.refuse_value("type", other)),
    };
    part.refuse_rest()?;
    Ok(read)
}

fn call(mut call: Object<'_>) -> Result<Call<'_>, Untranslatable> {
    // Its place among the calls, which SDKs add up from a stream.
    call.leave_out(&["index"]);
    let kind = call.text("type")?;
    if let Some(other) = kind.filter(|kind| kind != "function") {
        return Err(call.refuse_value("type", &other));
    }
    let id = call.needed_text("id")?;
    let mut function = call.object("function")?.ok_or_else(|| call.refuse("function"))?;
    function.leave_out(&["parsed_arguments"]);
    let (name, arguments) = (function.needed_text("name")?, function.text("arguments")?.unwrap_or_default());
    let arguments =
        object_in(&arguments).ok_or_else(|| Untranslatable(format!("`{}`, which is not a JSON object", function.path("arguments"))))?;
    function.refuse_rest()?;
    let mut signature = None;
    if let Some(mut extra) = call.object("extra_content")? {
        if let Some(mut google) = extra.object("google")? {
            signature = google.text("thought_signature")?;
            google.refuse_rest()?;
        }
        extra.refuse_rest()?;
    }
    call.refuse_rest()?;
    Ok(Call { id, name, arguments, signature })
}

fn tool(mut tool: Object<'_>) -> Result<Tool<'_>, Untranslatable> {
    let kind = tool.needed_text("type")?;
    if kind != "function" {
        return Err(tool.refuse_value("type", &kind));
    }
    let mut function = tool.object("function")?.ok_or_else(|| tool.refuse("function"))?;
    let read = Tool {
        name: function.needed_text("name")?,
        description: function.text("description")?.filter(|text| !text.is_empty()),
        parameters: function.take("parameters"),
        strict: function.flag("strict")?.unwrap_or(false),
    };
    function.refuse_rest()?;
    tool.refuse_rest()?;
    Ok(read)
}

fn tool_choice<'a>(request: &mut Object<'a>) -> Result<Option<ToolChoice<'a>>, Untranslatable> {
    if let Some(word) = request.peek("tool_choice").and_then(text) {
        request.leave_out(&["tool_choice"]);
        return match word.as_ref() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" => Ok(Some(ToolChoice::Required)),
            other => Err(request.refuse_value("tool_choice", other)),
        };
    }
    let Some(mut choice) = request.object("tool_choice")? else { return Ok(None) };
    let kind = choice.needed_text("type")?;
    if kind != "function" {
        return Err(choice.refuse_value("type", &kind));
    }
    let mut function = choice.object("function")?.ok_or_else(|| choice.refuse("function"))?;
    let name = function.needed_text("name")?;
    function.refuse_rest()?;
    choice.refuse_rest()?;
    Ok(Some(ToolChoice::Named(name)))
}

fn format<'a>(request: &mut Object<'a>) -> Result<Format<'a>, Untranslatable> {
    let Some(mut format) = request.object("response_format")? else { return Ok(Format::Text) };
    let kind = format.needed_text("type")?;
    let read = match kind.as_ref() {
        "text" => Format::Text,
        "json_object" => Format::JsonObject,
        "json_schema" => {
            let mut wanted = format.object("json_schema")?.ok_or_else(|| format.refuse("json_schema"))?;
            // Whoever is not strict is content with an answer that is.
            wanted.leave_out(&["strict"]);
            let schema = wanted.take("schema").ok_or_else(|| Untranslatable(format!("a missing `{}`", wanted.path("schema"))))?;
            let read = Format::Schema { name: wanted.text("name")?, description: wanted.text("description")?, schema };
            wanted.refuse_rest()?;
            read
        }
        other => return Err(format.refuse_value("type", other)),
    };
    format.refuse_rest()?;
    Ok(read)
}

fn stop<'a>(request: &mut Object<'a>) -> Result<Vec<Cow<'a, str>>, Untranslatable> {
    if let Some(one) = request.peek("stop").and_then(text) {
        request.leave_out(&["stop"]);
        return Ok(vec![one]);
    }
    let path = request.path("stop");
    let all = request.list("stop")?.unwrap_or_default();
    all.into_iter().map(|value| text(value).ok_or_else(|| Untranslatable(format!("`{path}`, which is not of strings")))).collect()
}
