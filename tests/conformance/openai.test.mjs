// OpenAI's SDK for Node through the sidecar. `test_openai_node.py` starts what it talks to and compares the books afterwards.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

const require = createRequire(`${process.env.CONFORMANCE_NODE}/`);
const { OpenAI } = require('openai');
const { SPENDKEEPER_URL, SPENDKEEPER_EMPTY_URL, PROVIDER_URL } = process.env;

const client = new OpenAI({ baseURL: `${SPENDKEEPER_URL}/v1`, apiKey: 'placeholder' });
const model = 'gpt-5-mini';
const messages = [{ role: 'user', content: 'Say hello in about 30 words.' }];
const tools = [{
  type: 'function',
  function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } },
}];
const faults = (rules) => fetch(`${PROVIDER_URL}/admin/faults`, { method: 'PUT', body: JSON.stringify(rules) });
const all = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};

test('an answer in one piece', async () => {
  const answer = await client.chat.completions.create({ model, messages });
  assert.equal(answer.choices[0].message.content.split(/\s+/).length, 30);
  assert.ok(answer.usage.completion_tokens > 0);
});

test('the headers of a raw answer say what it cost', async () => {
  const { response } = await client.chat.completions.create({ model, messages }).withResponse();
  assert.equal(response.headers.get('x-spend-model'), model);
  assert.match(response.headers.get('x-spend-cost-usd'), /^0\.\d+$/);
  assert.ok(response.headers.get('x-spend-budget-remaining-usd'));
});

test('a stream shows no usage that was not asked for', async () => {
  const whole = await client.chat.completions.create({ model, messages });
  const chunks = await all(await client.chat.completions.create({ model, messages, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), whole.choices[0].message.content);
  assert.ok(chunks.every((chunk) => !chunk.usage && chunk.choices.length === 1));
});

test('a stream shows the usage that was asked for', async () => {
  const chunks = await all(await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
});

test('the stream helper puts an answer together', async () => {
  const stream = client.chat.completions.stream({ model, messages });
  let text = '';
  stream.on('content', (delta) => { text += delta; });
  assert.equal((await stream.finalChatCompletion()).choices[0].message.content, text);
});

test('a tool call and its streamed arguments', async () => {
  const asked = { model, messages, tools, tool_choice: 'required' };
  const whole = await client.chat.completions.create(asked);
  const [call] = whole.choices[0].message.tool_calls;
  assert.equal(call.function.name, 'weather');
  assert.ok('city' in JSON.parse(call.function.arguments));
  const chunks = await all(await client.chat.completions.create({ ...asked, stream: true }));
  assert.equal(chunks.flatMap((c) => c.choices[0].delta.tool_calls ?? []).map((d) => d.function.arguments ?? '').join(''), call.function.arguments);
});

test('an answer that follows a schema', async () => {
  const schema = { type: 'object', properties: { title: { type: 'string' } }, required: ['title'], additionalProperties: false };
  const answer = await client.chat.completions.parse({ model, messages, response_format: { type: 'json_schema', json_schema: { name: 'ticket', schema, strict: true } } });
  assert.equal(typeof answer.choices[0].message.parsed.title, 'string');
});

test('two answers, and many calls at once', async () => {
  assert.equal((await client.chat.completions.create({ model, messages, n: 2 })).choices.length, 2);
  await Promise.all(Array.from({ length: 20 }, (_, i) => client.chat.completions.create({ model, messages: [{ role: 'user', content: `Number ${i}` }] })));
});

test('the models are listed', async () => {
  const names = (await all(await client.models.list())).map((listed) => listed.id);
  assert.ok(names.includes(model));
});

test('a stream that its reader leaves is charged like one that is read', async () => {
  const stream = await client.chat.completions.create({ model, messages: [{ role: 'user', content: 'about 300 words' }], stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  const aborted = await client.chat.completions.create({ model, messages, stream: true });
  aborted.controller.abort();
});

test('a call over its budget is a rate limit error with our words and is not tried again', async () => {
  const broke = new OpenAI({ baseURL: `${SPENDKEEPER_EMPTY_URL}/v1`, apiKey: 'placeholder', maxRetries: 5 });
  const started = Date.now();
  await assert.rejects(broke.chat.completions.create({ model, messages }), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.match(error.message, /budget default\/all: limit total/);
    assert.equal(error.code, 'spendkeeper_budget_exceeded');
    return true;
  });
  assert.ok(Date.now() - started < 2_000);
});

test('a model that there is not, and a request that is wrong', async () => {
  await assert.rejects(client.chat.completions.create({ model: 'gpt-99', messages }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ model, messages, n: 0 }), OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ model, messages, reasoning_effort: 'immense' }), OpenAI.BadRequestError);
});

test('errors of the provider arrive as they are, and are tried again where the SDK does', async () => {
  await faults([{ kind: 'Status500', times: 1 }]);
  await assert.rejects(client.chat.completions.create({ model, messages }, { maxRetries: 0 }), OpenAI.InternalServerError);
  await faults([{ kind: 'Status429', times: 1 }]);
  assert.ok((await client.chat.completions.create({ model, messages })).choices);
  await faults([{ kind: 'Slow', delayMs: 2500, times: 1 }]);
  await assert.rejects(client.chat.completions.create({ model, messages }, { timeout: 1000, maxRetries: 0 }), OpenAI.APIConnectionTimeoutError);
  await faults([]);
});
