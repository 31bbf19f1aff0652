"""Ollama's SDK through the sidecar: nothing that an app sees or sends is different, and everything is accounted for."""

import asyncio
import unittest
from typing import Any

import ollama
from harness import Policy, Stack, backend, budget, model, policy, request

LOCAL, VECTORS = "qwen3:8b", "nomic-embed-text"
FREE = {"input": "0", "output": "0"}
PRICED = {"input": "0.10", "output": "0.40", "cachedRead": "0.01"}
HELLO: list[Any] = [{"role": "user", "content": "Say hello in about 30 words."}]
TOOL: Any = {"type": "function", "function": {"name": "lookup", "description": "Looks a word up", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}}


def ollama_backend(price: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    names = (LOCAL, VECTORS)
    return backend("ollama", "Ollama", [model(name, "economy", contextWindow=32_768, maxOutput=8_192, price=price or FREE) for name in names], key=None, **more)


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told or policy(backends=[ollama_backend()]), **options))

    def client(self, stack: Stack) -> ollama.Client:
        client = ollama.Client(host=stack.url)
        self.addCleanup(client.close)
        return client


class Chat(Case):
    def test_an_answer_is_counted_as_it_was_and_costs_nothing(self) -> None:
        stack = self.stack()
        answer = self.client(stack).chat(model=LOCAL, messages=HELLO)
        self.assertEqual((answer.model, answer.done, answer.done_reason), (LOCAL, True, "stop"))
        self.assertTrue(answer.message.content)
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual((call.all_input, call.output, call.cost, call.unpriced), (answer.prompt_eval_count, answer.eval_count, 0, False))

    def test_a_stream_has_the_same_text_and_figures(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.chat(model=LOCAL, messages=HELLO)
        chunks = list(client.chat(model=LOCAL, messages=HELLO, stream=True))
        self.assertEqual("".join(chunk.message.content or "" for chunk in chunks), whole.message.content)
        self.assertGreater(len(chunks), 3)
        self.assertEqual((chunks[-1].prompt_eval_count, chunks[-1].eval_count), (whole.prompt_eval_count, whole.eval_count))
        first, second = stack.assert_agrees(calls=2)
        self.assertEqual((first.all_input, first.output, second.outcome), (second.all_input, second.output, "completed"))

    def test_the_asynchronous_client_gets_the_same(self) -> None:
        stack = self.stack()

        async def calls() -> list[str]:
            client = ollama.AsyncClient(host=stack.url)
            whole = await client.chat(model=LOCAL, messages=HELLO)
            stream = await client.chat(model=LOCAL, messages=HELLO, stream=True)
            texts = [whole.message.content or "", "".join([chunk.message.content or "" async for chunk in stream])]
            await client.close()
            return texts

        whole, streamed = asyncio.run(calls())
        self.assertEqual(whole, streamed)
        stack.assert_agrees(calls=2)

    def test_without_a_word_on_streaming_an_answer_streams(self) -> None:
        stack = self.stack()
        status, headers, body = request("POST", stack.url + "/api/chat", {"model": LOCAL, "messages": HELLO})
        self.assertEqual((status, headers["content-type"]), (200, "application/x-ndjson"))
        _, _, direct = request("POST", stack.provider_url + "/api/chat", {"model": LOCAL, "messages": HELLO, "options": {"num_predict": 4_096}})
        self.assertEqual(body, direct)
        self.assertEqual(stack.calls(1)[0].outcome, "completed")

    def test_no_limit_is_no_way_around_the_cap(self) -> None:
        stack = self.stack(sidecar_arguments=["--default-max-output", "40"])
        options: list[Any] = [None, {}, {"seed": 1}, {"num_predict": -1}, {"num_predict": -2}, {"num_predict": 20}]
        for one in options:
            for stream in (False, True):
                answer: Any = self.client(stack).chat(model=LOCAL, messages=[{"role": "user", "content": "Write about 900 words."}], options=one, stream=stream)  # type: ignore[call-overload]
                last = list(answer)[-1] if stream else answer
                self.assertEqual(last.done_reason, "length")
        self.assertEqual([call.output for call in stack.assert_agrees(calls=12)], [40] * 10 + [20] * 2)

    def test_tools_thinking_formats_and_pictures(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        asked: Any = {"model": LOCAL, "messages": [{"role": "user", "content": "Use the tool."}], "tools": [TOOL]}
        called = client.chat(**asked)
        [[streamed]] = [chunk.message.tool_calls for chunk in client.chat(**asked, stream=True) if chunk.message.tool_calls]
        self.assertEqual(streamed, (called.message.tool_calls or [])[0])
        self.assertTrue(client.chat(model=LOCAL, messages=[*asked["messages"], called.message, {"role": "tool", "content": "a hold", "tool_name": "lookup"}]).message.content)
        self.assertTrue(client.chat(model=LOCAL, messages=HELLO, think=True).message.thinking)
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        self.assertIn("city", client.chat(model=LOCAL, messages=HELLO, format=schema).message.content or "")
        picture = client.chat(model=LOCAL, messages=[{"role": "user", "content": "What is this?", "images": [b"\x89PNG"]}])
        self.assertGreater(picture.prompt_eval_count or 0, 1_000)
        stack.assert_agrees(calls=6)


class Others(Case):
    def test_completions_whole_and_streamed(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.generate(model=LOCAL, prompt="Say hello in about 30 words.", system="Be kind.")
        chunks = list(client.generate(model=LOCAL, prompt="Say hello in about 30 words.", system="Be kind.", stream=True))
        self.assertEqual("".join(chunk.response for chunk in chunks), whole.response)
        for call in stack.assert_agrees(calls=2):
            self.assertEqual((call.all_input, call.output), (whole.prompt_eval_count, whole.eval_count))

    def test_loading_a_model_uses_nothing(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        self.assertEqual(client.generate(model=LOCAL).done_reason, "load")
        self.assertEqual(client.generate(model=LOCAL, keep_alive=0).done_reason, "unload")
        self.assertEqual([chunk.done_reason for chunk in client.chat(model=LOCAL, stream=True)], ["load"])
        self.assertEqual([(call.outcome, call.all_input, call.output) for call in stack.calls(3)], [("completed", 0, 0)] * 3)

    def test_embeddings(self) -> None:
        stack = self.stack()
        for given, count in (("A lease.", 1), (["A lease.", "A hold that ends by itself."], 2)):
            answer = self.client(stack).embed(model=VECTORS, input=given)
            self.assertEqual(len(answer.embeddings), count)
        for call in stack.assert_agrees(calls=2):
            self.assertEqual((call.outcome, call.output), ("completed", 0))

    def test_a_local_model_can_have_a_price_of_its_own(self) -> None:
        stack = self.stack(policy([budget(usd="1.00")], [ollama_backend(PRICED)]))
        client = self.client(stack)
        long = [{"role": "system", "content": "Be kind. " * 1_000}, *HELLO]
        for _ in range(2):
            client.chat(model=LOCAL, messages=long)
        first, second = stack.calls(2)
        self.assertGreater(second.cached_read, 1_000)
        for call in (first, second):
            self.assertEqual(call.cost, call.input * 100_000 + call.cached_read * 10_000 + call.output * 400_000)

    def test_a_refusal_has_ollamas_shape(self) -> None:
        stack = self.stack(policy([budget(tokens=100)], [ollama_backend()]))
        with self.assertRaises(ollama.ResponseError) as refused:
            self.client(stack).chat(model=LOCAL, messages=HELLO)
        self.assertEqual(refused.exception.status_code, 429)
        self.assertIn("default/all", refused.exception.error)
        self.assertEqual(stack.bill().total.calls, 0)

    def test_a_stream_that_fails_is_charged_as_reserved_and_the_app_sees_it(self) -> None:
        for kind in ("FailStream", "EndStream", "CutStream"):
            stack = self.stack()
            stack.faults([{"kind": kind, "afterTokens": 12}])
            try:
                list(self.client(stack).chat(model=LOCAL, messages=HELLO, options={"num_predict": 100}, stream=True))
                self.assertEqual(kind, "EndStream")
            except Exception as error:  # noqa: BLE001
                self.assertNotEqual(kind, "EndStream", error)
            [call] = stack.calls(1)
            self.assertEqual((call.outcome, call.output), ("interrupted", 100))


if __name__ == "__main__":
    unittest.main()
