"""The SDK of one vendor, answered by the other's models: an app cannot tell, and what it is told adds up to what it is charged for."""

import base64
import json
import unittest
from typing import Any

import anthropic
import openai
from harness import APP_KEY, PROVIDER_KEY, Policy, Stack, anthropic_backend, openai_backend, policy
from pydantic import BaseModel

CLAUDE, GPT = "claude-haiku-4-5", "gpt-5-mini"
HELLO: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say hello in about 30 words."}]
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "The weather of a city", "parameters": PARAMETERS}}
CLAUDES_WEATHER: Any = {"name": "weather", "description": "The weather of a city", "input_schema": PARAMETERS}
PIXEL = base64.b64encode(bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082")).decode()


class Sum(BaseModel):
    reason: str
    answer: int


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told or policy(), **options))


class OpenAIsSDK(Case):
    """`POST /v1/chat/completions`, answered by Anthropic's models."""

    def client(self, stack: Stack, **options: Any) -> openai.OpenAI:
        return self.enterContext(openai.OpenAI(base_url=stack.url + "/v1", api_key=APP_KEY, max_retries=0, **options))

    def test_an_answer_adds_up(self) -> None:
        stack = self.stack()
        answer = self.client(stack).chat.completions.create(model=CLAUDE, messages=HELLO, temperature=0.5, stop=["END"], user="u-1")
        assert answer.usage
        self.assertEqual((answer.object, answer.model, answer.choices[0].finish_reason), ("chat.completion", CLAUDE, "stop"))
        self.assertEqual(len((answer.choices[0].message.content or "").split()), 30)
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual((call.backend, call.all_input, call.output), ("anthropic", answer.usage.prompt_tokens, answer.usage.completion_tokens))

    def test_a_stream_has_the_same_text_and_usage_where_it_is_asked_for(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.chat.completions.create(model=CLAUDE, messages=HELLO, max_completion_tokens=100)
        asked: Any = {"model": CLAUDE, "messages": HELLO, "max_completion_tokens": 100, "stream": True}
        chunks = list(client.chat.completions.create(**asked))
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), whole.choices[0].message.content)
        self.assertEqual((chunks[0].choices[0].delta.role, chunks[-1].choices[0].finish_reason), ("assistant", "stop"))
        self.assertEqual({c.usage for c in chunks}, {None})
        *_, last = client.chat.completions.create(**asked, stream_options={"include_usage": True})
        self.assertEqual((last.choices, last.usage), ([], whole.usage))
        stack.assert_agrees(calls=3)

    def test_a_cap_cuts_the_answer(self) -> None:
        stack = self.stack()
        answer = self.client(stack).chat.completions.create(model=CLAUDE, messages=HELLO, max_tokens=7)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual(call.output, 7)

    def test_tools_are_called_and_their_answers_heard(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        asked: Any = {"model": CLAUDE, "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
        message = client.chat.completions.create(**asked, messages=HELLO).choices[0]
        assert message.message.tool_calls
        [call] = message.message.tool_calls
        self.assertEqual((message.finish_reason, call.type), ("tool_calls", "function"))
        arguments = json.loads(call.function.arguments)  # type: ignore[union-attr]
        self.assertIn("city", arguments)
        # As apps do it: the SDK's own object goes back.
        heard: list[Any] = [*HELLO, message.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        answer = client.chat.completions.create(model=CLAUDE, tools=[WEATHER], messages=heard)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        with client.chat.completions.stream(**asked, messages=HELLO) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.tool_calls
        self.assertEqual(json.loads(final.choices[0].message.tool_calls[0].function.arguments), arguments)
        stack.assert_agrees(calls=3)

    def test_an_answer_has_the_form_that_was_asked_for(self) -> None:
        stack = self.stack()
        parsed = self.client(stack).chat.completions.parse(model=CLAUDE, messages=HELLO, response_format=Sum)
        self.assertIsInstance(parsed.choices[0].message.parsed, Sum)
        stack.assert_agrees(calls=1)

    def test_images_go_over(self) -> None:
        stack = self.stack()
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}}
        seen: list[Any] = [{"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}]
        self.client(stack).chat.completions.create(model=CLAUDE, messages=seen)
        stack.assert_agrees(calls=1)

    def test_what_cannot_be_said_is_refused_by_name_and_costs_nothing(self) -> None:
        # With both vendors' models in one route, another of the same tier would take the call as it is.
        stack = self.stack(policy(backends=[anthropic_backend()]))
        for member, value in {"n": 2, "logprobs": True, "seed": 1, "temperature": 1.5, "logit_bias": {"1": 1}}.items():
            with self.assertRaisesRegex(openai.BadRequestError, f"`{member}"):
                self.client(stack).chat.completions.create(model=CLAUDE, messages=HELLO, **{member: value})  # type: ignore[call-overload]
        stack.assert_agrees(calls=0)

    def test_errors_are_of_the_sdks_own_kinds_with_the_providers_words(self) -> None:
        stack = self.stack()
        for kind, expected, words in [("Status429", openai.RateLimitError, "rate limit"), ("Status529", openai.InternalServerError, "Overloaded")]:
            stack.faults([{"kind": kind}])
            with self.assertRaisesRegex(expected, words):
                self.client(stack).chat.completions.create(model=CLAUDE, messages=HELLO)
        self.assertEqual(stack.bill().cost, 0)

    def test_a_stream_that_breaks_off_is_an_error(self) -> None:
        stack = self.stack(tokens_per_second=200)
        stack.faults([{"kind": "CutStream", "afterTokens": 5}])
        with self.assertRaises(Exception) as raised:
            list(self.client(stack).chat.completions.create(model=CLAUDE, messages=HELLO, stream=True))
        self.assertNotIsInstance(raised.exception, AssertionError)

    def test_the_apps_own_key_goes_where_the_provider_looks_for_it(self) -> None:
        stack = self.stack(policy(backends=[anthropic_backend(key=None)]))
        client = self.enterContext(openai.OpenAI(base_url=stack.url + "/v1", api_key=PROVIDER_KEY, max_retries=0))
        client.chat.completions.create(model=CLAUDE, messages=HELLO)
        stack.assert_agrees(calls=1)


class AnthropicsSDK(Case):
    """`POST /v1/messages`, answered by OpenAI's models."""

    HELLO: list[Any] = HELLO[1:]

    def client(self, stack: Stack, **options: Any) -> anthropic.Anthropic:
        return self.enterContext(anthropic.Anthropic(base_url=stack.url, api_key=APP_KEY, max_retries=0, **options))

    def test_an_answer_adds_up(self) -> None:
        stack = self.stack()
        answer = self.client(stack).messages.create(model=GPT, max_tokens=400, system="Be kind.", messages=self.HELLO, stop_sequences=["END"])
        self.assertEqual((answer.type, answer.role, answer.model, answer.stop_reason), ("message", "assistant", GPT, "end_turn"))
        self.assertEqual(len(answer.content[0].text.split()), 30)  # type: ignore[union-attr]
        [call] = stack.assert_agrees(calls=1)
        used = answer.usage
        self.assertEqual((call.backend, call.input, call.cached_read, call.output), ("openai", used.input_tokens, used.cache_read_input_tokens, used.output_tokens))

    def test_the_stream_helper_has_text_final_message_and_usage(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.messages.create(model=GPT, max_tokens=400, messages=self.HELLO)
        with client.messages.stream(model=GPT, max_tokens=400, messages=self.HELLO) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual((text, final.stop_reason), (whole.content[0].text, "end_turn"))  # type: ignore[union-attr]
        self.assertEqual((final.usage.input_tokens, final.usage.output_tokens), (whole.usage.input_tokens, whole.usage.output_tokens))
        stack.assert_agrees(calls=2)

    def test_tools_are_called_and_their_answers_heard(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        asked: Any = {"model": GPT, "max_tokens": 400, "tools": [CLAUDES_WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
        answer = client.messages.create(**asked, messages=self.HELLO)
        [call] = [block for block in answer.content if block.type == "tool_use"]
        self.assertEqual((answer.stop_reason, call.name), ("tool_use", "weather"))
        self.assertIn("city", call.input)
        for failed in (False, True):
            result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "rain", "is_error": failed}
            heard: list[Any] = [*self.HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
            again = client.messages.create(model=GPT, max_tokens=400, tools=[CLAUDES_WEATHER], messages=heard)
            self.assertEqual(again.stop_reason, "end_turn")
        with client.messages.stream(**asked, messages=self.HELLO) as stream:
            final = stream.get_final_message()
        self.assertEqual([block.input for block in final.content if block.type == "tool_use"], [call.input])
        stack.assert_agrees(calls=4)

    def test_an_answer_has_the_form_that_was_asked_for(self) -> None:
        stack = self.stack()
        form: Any = {"format": {"type": "json_schema", "schema": {**Sum.model_json_schema(), "additionalProperties": False}}}
        answer = self.client(stack).messages.create(model=GPT, max_tokens=800, messages=self.HELLO, output_config=form)
        Sum.model_validate_json(answer.content[0].text)  # type: ignore[union-attr]
        stack.assert_agrees(calls=1)

    def test_images_go_over(self) -> None:
        stack = self.stack()
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
        seen: list[Any] = [{"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}]
        self.client(stack).messages.create(model=GPT, max_tokens=400, messages=seen)
        stack.assert_agrees(calls=1)

    def test_what_cannot_be_said_is_refused_by_name_and_costs_nothing(self) -> None:
        # With both vendors' models in one route, another of the same tier would take the call as it is.
        stack = self.stack(policy(backends=[openai_backend()]))
        refused: dict[str, Any] = {
            "top_k": 5,
            "thinking": {"type": "enabled", "budget_tokens": 1_024},
            "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}],
        }
        for member, value in refused.items():
            with self.assertRaisesRegex(anthropic.BadRequestError, f"`{member}"):
                self.client(stack).messages.create(model=GPT, max_tokens=2_000, messages=self.HELLO, extra_body={member: value})
        stack.assert_agrees(calls=0)

    def test_errors_are_of_the_sdks_own_kinds_with_the_providers_words(self) -> None:
        stack = self.stack()
        for kind, expected in [("Status429", anthropic.RateLimitError), ("Status500", anthropic.InternalServerError)]:
            stack.faults([{"kind": kind}])
            with self.assertRaises(expected) as raised:
                self.client(stack).messages.create(model=GPT, max_tokens=400, messages=self.HELLO)
            self.assertEqual((raised.exception.body or {}).get("type"), "error")  # type: ignore[union-attr,attr-defined]
        self.assertEqual(stack.bill().cost, 0)

    def test_a_stream_that_breaks_off_is_an_error(self) -> None:
        stack = self.stack(tokens_per_second=200)
        stack.faults([{"kind": "CutStream", "afterTokens": 5}])
        with self.assertRaises(Exception) as raised:
            list(self.client(stack).messages.create(model=GPT, max_tokens=400, messages=self.HELLO, stream=True))
        self.assertNotIsInstance(raised.exception, AssertionError)


if __name__ == "__main__":
    unittest.main()
