//! Examples of what the parsers read, and inputs that once broke one.

pub const REQUESTS: [&str; 9] = [
    r#"{"model":"m","max_tokens":9,"stream":true,"stream_options":{"x":1},"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"Hi \u00e9"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"42"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]}"#,
    r#"{"model":"m","max_tokens":9,"system":[{"type":"text","text":"Be kind.","cache_control":{"type":"ephemeral","ttl":"1h"}}],"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}},{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"found"}]}]}],"tools":[{"name":"f","input_schema":{"type":"object"}},{"type":"web_search_20250305","name":"web_search","max_uses":2}],"thinking":{"type":"enabled","budget_tokens":5}}"#,
    r#"{"model":"m","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"Hi"}]},{"type":"function_call_output","call_id":"c","output":"1"}],"instructions":"Be kind.","max_output_tokens":null,"tools":[{"type":"web_search"}],"max_tool_calls":2,"previous_response_id":"r"}"#,
    r#"{"model":"m","prompt":["one",[1,2,3]],"n":2,"best_of":3,"max_tokens":5}"#,
    r#"{"model":"m","input":["one","two"],"encoding_format":"base64"}"#,
    r#"{"contents":[{"role":"user","parts":[{"text":"Hi"},{"inlineData":{"mimeType":"image/png","data":"AAAA"}},{"functionResponse":{"name":"f","response":{"a":1}}}]}],"systemInstruction":{"parts":[{"text":"Be kind."}]},"generationConfig":{"maxOutputTokens":"9","candidateCount":2},"tools":[{"googleSearch":{}}]}"#,
    r#"{"messages":[{"role":"user","content":[{"text":"Hi"},{"image":{"format":"png","source":{"bytes":"AAAA"}}},{"cachePoint":{"type":"default"}}]}],"system":[{"text":"Be kind."}],"inferenceConfig":{"maxTokens":9},"toolConfig":{"tools":[{"toolSpec":{"name":"f","inputSchema":{"json":{}}}}]}}"#,
    r#"{"model":"m","stream":false,"messages":[{"role":"user","content":"Hi","images":["AAAA"]}],"options":{"num_predict":-1,"num_ctx":8}}"#,
    r#"{"model":"m","requests":[{"model":"models/m","content":{"parts":[{"text":"Hi"}]}}],"content":{"parts":[{"text":"Hi"}]}}"#,
];

pub const ANSWERS: [&str; 6] = [
    r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}],"service_tier":"flex","usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":2}}}"#,
    r#"{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hi"},{"type":"tool_use","id":"t","name":"f","input":{}}],"stop_reason":"end_turn","usage":{"input_tokens":9,"output_tokens":3,"cache_creation_input_tokens":5,"cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":0},"server_tool_use":{"web_search_requests":1},"iterations":[{"type":"compaction","input_tokens":1,"output_tokens":1}]}}"#,
    r#"{"id":"r","object":"response","model":"m","output":[{"type":"web_search_call","action":{"type":"search"}},{"type":"message","content":[{"type":"output_text","text":"Hi"}]}],"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":3}}"#,
    r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"Hi"},{"functionCall":{"name":"f","args":{}}}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"cachedContentTokenCount":4,"candidatesTokenCount":3,"thoughtsTokenCount":2,"totalTokenCount":14},"modelVersion":"m"}"#,
    r#"{"output":{"message":{"role":"assistant","content":[{"text":"Hi"},{"toolUse":{"toolUseId":"t","name":"f","input":{}}}]}},"stopReason":"end_turn","usage":{"inputTokens":9,"outputTokens":3,"totalTokens":12,"cacheReadInputTokens":4,"cacheDetails":[{"ttl":"1h","inputTokens":1}]}}"#,
    r#"{"model":"m","message":{"role":"assistant","content":"Hi"},"done":true,"done_reason":"stop","prompt_eval_count":9,"eval_count":3}"#,
];

pub const STREAMS: [&str; 6] = [
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}],\"usage\":null}\n\ndata: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":4}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"m\"}}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"m\",\"usage\":{\"input_tokens\":9,\"output_tokens\":3}}}\n\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":9,\"candidatesTokenCount\":3,\"totalTokenCount\":12}}\r\n\r\n",
    "[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"H]i\"}]}}]}\n,\r\n{\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":9,\"totalTokenCount\":12}}]",
    "{\"model\":\"m\",\"message\":{\"content\":\"Hi\"},\"done\":false}\n{\"model\":\"m\",\"done\":true,\"prompt_eval_count\":9,\"eval_count\":3}\n",
];

pub const EVENTS: [&str; 6] = [
    r#"{"choices":[{"index":0,"delta":{"content":"Hi","tool_calls":[{"index":0,"id":"1","function":{"name":"f","arguments":"{\"x\""}}]}}]}"#,
    r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"1","name":"f","input":{}}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"x\":1}"}}"#,
    r#"{"type":"response.completed","response":{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"Hi"}]}]}}"#,
    r#"{"contentBlockDelta":{"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"hm"}}}}"#,
    r#"{"contentBlockStart":{"contentBlockIndex":1,"start":{"toolUse":{"toolUseId":"1","name":"f"}}}}"#,
];

pub const HTTP: [&str; 5] = [
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\nabcde",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4;x=\"y\"\r\nabcd\r\n00a\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\nconnection: close\r\n\r\nok",
    "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\nuntil it closes",
    "HTTP/1.1 200 OK\ncontent-length: 2\ntransfer-encoding: chunked\n\n2\r\nok\r\n0\r\n\r\n",
];

pub const HTTP_REQUESTS: [&str; 5] = [
    "POST /v1/chat/completions?x=y HTTP/1.1\r\nhost: 127.0.0.1:4400\r\nauthorization: Bearer k\r\ncontent-length: 5\r\n\r\nabcde",
    "POST /v1/messages HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n4;x=\"y\"\r\nabcd\r\n0\r\nTrailer: 1\r\n\r\n",
    "GET http://other:1/a HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, x\r\n\r\nGET /b HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2, 2\r\n\r\nok",
    "PUT / HTTP/1.1\nhost: h\ncontent-length: 2\ntransfer-encoding: chunked\n\n2\r\nok\r\n0\r\n\r\n",
];

pub const PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/openai/deployments/d/chat/completions?api-version=2024-10-21",
    "/v1beta/models/m:streamGenerateContent?alt=sse&key=k",
    "/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
    "/model/us.m-v1%3A0/converse-stream",
    "/api/chat",
    "/model/arn%3Aaws%3Abedrock%3A%2F%2E%2E/invoke",
];

pub const LITELLM: &str = r#"{"m":{"input_cost_per_token":2.5e-06,"output_cost_per_token":0.000015,"input_cost_per_token_above_272k_tokens":5e-06,"input_cost_per_token_priority":5e-06,"output_cost_per_token_priority":3e-05,"provider_specific_entry":{"us":1.1,"fast":2},"max_input_tokens":1000,"mode":"chat"}}"#;

pub const PRICES: &str = "- model: m\n  effectiveFrom: \"2026-01-01\"\n  input: \"1.25\"\n  output: \"10\"\n  steps: [{above: 1000, input: \"2\", output: \"3\"}]\n  tiers: {Flex: {input: \"1\", output: \"5\"}}\n";

/// Events of Amazon's streams, a line each, with their names: a conversation's, and a model's own.
pub const AMAZON: [&str; 2] = [
    "messageStart {\"role\":\"assistant\"}\ncontentBlockStart {\"contentBlockIndex\":1,\"start\":{\"toolUse\":{\"toolUseId\":\"t\",\"name\":\"f\"}}}\ncontentBlockDelta {\"contentBlockIndex\":0,\"delta\":{\"text\":\"Hi\"}}\ncontentBlockDelta {\"contentBlockIndex\":1,\"delta\":{\"toolUse\":{\"input\":\"{}\"}}}\ncontentBlockStop {\"contentBlockIndex\":0}\nmessageStop {\"stopReason\":\"tool_use\"}\nmetadata {\"usage\":{\"inputTokens\":9,\"outputTokens\":3,\"totalTokens\":12}}",
    "chunk {\"bytes\":\"eyJ0eXBlIjoibWVzc2FnZV9kZWx0YSIsInVzYWdlIjp7Im91dHB1dF90b2tlbnMiOjR9fQ==\"}\nchunk {\"bytes\":\"eyJ0eXBlIjoibWVzc2FnZV9zdG9wIn0=\"}\nthrottlingException {\"message\":\"slow down\"}",
];

/// Answers of OpenAI's services that are no models of text, whole and streamed.
pub const MEDIA: [&str; 3] = [
    r#"{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"input_tokens":9,"input_tokens_details":{"text_tokens":5,"image_tokens":4},"output_tokens":3,"total_tokens":12}}"#,
    r#"{"text":"Hi","usage":{"type":"tokens","input_tokens":9,"input_token_details":{"text_tokens":1,"audio_tokens":8},"output_tokens":3,"total_tokens":12}}"#,
    "data: {\"type\":\"transcript.text.delta\",\"delta\":\"Hi\"}\n\ndata: {\"type\":\"transcript.text.done\",\"text\":\"Hi\",\"usage\":{\"input_tokens\":9,\"output_tokens\":3}}\n\n",
];

/// A frame of Amazon's event stream with this JSON in it.
pub fn amazon_frame(event: &[u8], json: &[u8]) -> Vec<u8> {
    let event = &event[..event.len().min(255)];
    let (kind, name): (&[u8], &[u8]) = match event.ends_with(b"Exception") {
        true => (b"exception", b":exception-type"),
        false => (b"event", b":event-type"),
    };
    let mut headers = Vec::new();
    for (name, value) in [(&b":message-type"[..], kind), (name, event)] {
        headers.push(name.len() as u8);
        headers.extend_from_slice(name);
        headers.extend_from_slice(&[7, 0, value.len() as u8]);
        headers.extend_from_slice(value);
    }
    let total = 16 + headers.len() + json.len();
    let mut frame = Vec::with_capacity(total);
    frame.extend_from_slice(&(total as u32).to_be_bytes());
    frame.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(json);
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}
