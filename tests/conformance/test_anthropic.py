"""Anthropic's SDK through the sidecar: nothing that an app sees or sends is different, and everything is accounted for."""

import asyncio
import base64
import time
import unittest
from typing import Any

import anthropic

from harness import APP_KEY, Policy, Stack, budget, policy

HELLO: list[Any] = [{"role": "user", "content": "Say hello in about 30 words."}]
GREP: Any = {
    "name": "grep",
    "description": "Searches files",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}}, "required": ["path"]},
}
LONG = "Be kind. " * 1_000


def kept(text: str, ttl: str | None = "5m") -> Any:
    block: dict[str, Any] = {"type": "text", "text": text}
    if ttl:
        block["cache_control"] = {"type": "ephemeral", "ttl": ttl}
    return block


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told, **options))

    def client(self, stack: Stack, **options: Any) -> anthropic.Anthropic:
        return self.enterContext(anthropic.Anthropic(base_url=stack.url, api_key=APP_KEY, **options))


class Messages(Case):
    def test_an_answer_is_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        answer = self.client(stack).messages.create(model="claude-haiku-4-5", max_tokens=200, messages=HELLO)
        self.assertEqual((answer.stop_reason, answer.model), ("end_turn", "claude-haiku-4-5"))
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual((call.input, call.output, call.backend), (answer.usage.input_tokens, answer.usage.output_tokens, "anthropic"))

    def test_the_headers_say_what_a_call_cost_and_what_is_left(self) -> None:
        stack = self.stack(policy([budget(usd="1.00")]))
        raw = self.client(stack).messages.with_raw_response.create(model="claude-opus-5", max_tokens=200, messages=HELLO)
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual(raw.headers["x-spend-cost-usd"], f"{call.cost / 1e12:.12f}".rstrip("0"))
        self.assertEqual(raw.headers["x-spend-budget-remaining-usd"], f"{1 - call.cost / 1e12:.12f}".rstrip("0"))

    def test_the_stream_helper_has_text_final_message_and_usage(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.messages.create(model="claude-haiku-4-5", max_tokens=200, messages=HELLO)
        with client.messages.stream(model="claude-haiku-4-5", max_tokens=200, messages=HELLO) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual(text, whole.content[0].text)
        self.assertEqual((final.usage.input_tokens, final.usage.output_tokens), (whole.usage.input_tokens, whole.usage.output_tokens))
        first, second = stack.assert_agrees(calls=2)
        self.assertEqual(first.cost, second.cost)

    def test_the_raw_stream_has_every_event_in_order(self) -> None:
        stack = self.stack()
        kinds = [
            event.type
            for event in self.client(stack).messages.create(model="claude-haiku-4-5", max_tokens=200, messages=HELLO, stream=True)
        ]
        self.assertEqual((kinds[0], kinds[-2:]), ("message_start", ["message_delta", "message_stop"]))
        self.assertIn("content_block_delta", kinds)
        stack.assert_agrees(calls=1)

    def test_a_system_prompt_counts(self) -> None:
        stack = self.stack()
        for system in ("Be brief.", [kept("Be brief.", None), kept("And kind.", None)]):
            self.client(stack).messages.create(model="claude-sonnet-5", max_tokens=50, system=system, messages=HELLO)
        stack.assert_agrees(calls=2)

    def test_thinking_is_shown_signed_and_charged_as_output(self) -> None:
        stack = self.stack()
        asked: Any = {
            "model": "claude-opus-5",
            "max_tokens": 4_000,
            "thinking": {"type": "enabled", "budget_tokens": 2_000},
            "messages": HELLO,
        }
        answer = self.client(stack).messages.create(**asked)
        self.assertEqual([block.type for block in answer.content], ["thinking", "text"])
        with self.client(stack).messages.stream(**asked) as stream:
            final = stream.get_final_message()
        self.assertTrue(final.content[0].signature)
        calls = stack.assert_agrees(calls=2)
        self.assertEqual([call.output for call in calls], [answer.usage.output_tokens] * 2)

    def test_a_cap_is_kept_and_the_reason_told(self) -> None:
        stack = self.stack()
        answer = self.client(stack).messages.create(model="claude-haiku-4-5", max_tokens=5, messages=HELLO)
        self.assertEqual((answer.stop_reason, answer.usage.output_tokens), ("max_tokens", 5))
        stack.assert_agrees(calls=1)

    def test_images_are_charged_by_what_they_are_and_not_by_their_bytes(self) -> None:
        stack = self.stack()
        data = base64.b64encode(bytes(15_000_000)).decode()
        content = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}, kept("What is this?", None)]
        self.client(stack).messages.create(model="claude-opus-5", max_tokens=50, messages=[{"role": "user", "content": content}])
        stack.assert_agrees(calls=1)

    def test_the_label_for_the_provider_arrives(self) -> None:
        stack = self.stack()
        self.client(stack).messages.create(model="claude-haiku-4-5", max_tokens=50, messages=HELLO, metadata={"user_id": "assistant"})
        self.assertIn("assistant", stack.bill().by_label)


class Tools(Case):
    def test_a_tool_call_has_its_input_whole_and_streamed(self) -> None:
        stack = self.stack()
        asked: Any = {"model": "claude-haiku-4-5", "max_tokens": 500, "tools": [GREP], "tool_choice": {"type": "any"}, "messages": HELLO}
        answer = self.client(stack).messages.create(**asked)
        self.assertEqual((answer.stop_reason, answer.content[0].name), ("tool_use", "grep"))
        with self.client(stack).messages.stream(**asked) as stream:
            parts = [event.partial_json for event in stream if event.type == "input_json"]
            final = stream.get_final_message()
        self.assertGreater(len(parts), 1)
        self.assertEqual(final.content[0].input, answer.content[0].input)
        stack.assert_agrees(calls=2)

    def test_a_conversation_with_tool_results_goes_on(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        asked: Any = {"model": "claude-haiku-4-5", "max_tokens": 500, "tools": [GREP]}
        first = client.messages.create(**asked, tool_choice={"type": "any"}, messages=HELLO)
        results = [{"type": "tool_result", "tool_use_id": first.content[0].id, "content": [kept("a.py:3: found ☀", None)]}]
        second = client.messages.create(
            **asked, messages=[*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        )
        self.assertEqual(second.stop_reason, "end_turn")
        stack.assert_agrees(calls=2)


class Caching(Case):
    def test_what_is_written_to_the_cache_and_read_from_it_has_its_own_price(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        for stream in (False, True):
            for ttl in ("5m", "1h"):
                system = [kept(f"{stream} {ttl} {LONG}", ttl)]
                for _ in range(2):
                    answer: Any = client.messages.create(model="claude-opus-5", max_tokens=20, system=system, messages=HELLO, stream=stream)
                    if stream:
                        list(answer)
        calls = stack.assert_agrees(calls=8)
        for written, read in zip(calls[::2], calls[1::2], strict=True):
            self.assertGreater(written.cache_write + written.cache_write_long, 1_024)
            self.assertEqual(read.cached_read, written.cache_write + written.cache_write_long)
        self.assertEqual([bool(call.cache_write_long) for call in calls[::2]], [False, True, False, True])

    def test_a_conversation_that_grows_reads_what_it_wrote_and_writes_the_rest(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        turns: list[Any] = []
        for turn in range(4):
            turns.append({"role": "user", "content": [kept(f"Turn {turn}. {LONG}")]})
            answer = client.messages.create(model="claude-sonnet-5", max_tokens=20, messages=turns)
            turns.append({"role": "assistant", "content": answer.content})
        calls = stack.assert_agrees(calls=4)
        self.assertEqual([call.cached_read > 0 for call in calls], [False, True, True, True])
        self.assertTrue(all(call.cache_write > 1_024 for call in calls))


class Clients(Case):
    def test_the_async_client_with_many_calls_at_once(self) -> None:
        stack = self.stack()

        async def calls() -> None:
            async with anthropic.AsyncAnthropic(base_url=stack.url, api_key=APP_KEY) as client:

                async def one(number: int) -> None:
                    asked: Any = {
                        "model": "claude-haiku-4-5",
                        "max_tokens": 60,
                        "messages": [{"role": "user", "content": f"Number {number}"}],
                    }
                    if number % 2:
                        async with client.messages.stream(**asked) as stream:
                            await stream.get_final_message()
                    else:
                        await client.messages.create(**asked)

                await asyncio.gather(*(one(number) for number in range(60)))

        asyncio.run(calls())
        stack.assert_agrees(calls=60)

    def test_the_models_are_listed(self) -> None:
        stack = self.stack()
        names = [listed.id for listed in self.client(stack).models.list()]
        self.assertLessEqual({"claude-opus-5", "claude-haiku-4-5"}, set(names))
        self.assertEqual(stack.rows(), [])

    def test_counting_tokens_is_answered_by_the_provider_and_free(self) -> None:
        stack = self.stack(policy([budget(usd="0.000001")]))
        counted = self.client(stack).messages.count_tokens(model="claude-opus-5", messages=HELLO)
        self.assertGreater(counted.input_tokens, 5)
        self.assertEqual((stack.bill().cost, stack.settled()), (0, 0))


class Refusals(Case):
    def test_a_call_over_its_budget_is_a_rate_limit_error_with_our_words_and_is_not_tried_again(self) -> None:
        stack = self.stack(policy([budget("tiny", usd="0.000001")]))
        for stream in (False, True):
            started = time.monotonic()
            with self.assertRaises(anthropic.RateLimitError) as caught:
                self.client(stack, max_retries=5).messages.create(model="claude-opus-5", max_tokens=50, messages=HELLO, stream=stream)
            self.assertLess(time.monotonic() - started, 2)
            self.assertIn("budget default/tiny: limit total ($0.000001, lifetime)", caught.exception.message)
            self.assertEqual(caught.exception.response.headers["x-should-retry"], "false")
            self.assertEqual(caught.exception.type, "rate_limit_error")
        self.assertEqual(stack.metrics()["spendkeeper_sidecar_refusals_total"], 2)
        self.assertEqual(stack.bill().total.calls, 0)

    def test_a_model_that_no_route_offers_is_not_found(self) -> None:
        stack = self.stack()
        with self.assertRaises(anthropic.NotFoundError) as caught:
            self.client(stack).messages.create(model="claude-9", max_tokens=50, messages=HELLO)
        self.assertIn("claude-9", caught.exception.message)

    def test_a_bad_request_is_told_by_whoever_knows(self) -> None:
        stack = self.stack()
        for change, said in [
            ({"thinking": {"type": "enabled", "budget_tokens": 1}}, "thinking"),
            ({"messages": [{"role": "boss", "content": "?"}]}, "role"),
            ({"messages": 3}, "expected a sequence"),
        ]:
            with self.subTest(change=change), self.assertRaises(anthropic.BadRequestError) as caught:
                self.client(stack).messages.create(**{"model": "claude-haiku-4-5", "max_tokens": 50, "messages": HELLO, **change})
            self.assertIn(said, caught.exception.message)
        stack.settle()
        self.assertEqual((stack.bill().cost, sum(call.cost for call in stack.rows())), (0, 0))

    def test_the_providers_own_errors_arrive_as_they_are_and_cost_nothing(self) -> None:
        stack = self.stack()
        client = self.client(stack, max_retries=0)
        for kind, status, said in [
            ("Status429", 429, "rate limit"),
            ("Status500", 500, "Internal server error"),
            ("Status529", 529, "Overloaded"),
        ]:
            stack.faults([{"kind": kind}])
            for stream in (False, True):
                with self.subTest(kind=kind, stream=stream), self.assertRaises(anthropic.APIStatusError) as caught:
                    client.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=HELLO, stream=stream)
                self.assertEqual(caught.exception.status_code, status)
                self.assertIn(said, caught.exception.message)
        self.assertEqual({(call.outcome, call.cost) for call in stack.assert_agrees(calls=6)}, {("failed", 0)})

    def test_the_sdk_tries_again_after_the_providers_own_529_as_it_would_without_us(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "Status529", "times": 1}])
        self.client(stack).messages.create(model="claude-haiku-4-5", max_tokens=50, messages=HELLO)
        self.assertEqual([call.outcome for call in stack.assert_agrees(calls=2)], ["failed", "completed"])

    def test_an_app_that_gives_up_waiting_gets_its_timeout_and_the_call_is_still_charged(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "Slow", "delayMs": 2_500, "times": 1}])
        with self.assertRaises(anthropic.APITimeoutError):
            self.client(stack, timeout=1, max_retries=0).messages.create(model="claude-haiku-4-5", max_tokens=50, messages=HELLO)
        self.assertGreater(stack.assert_agrees(calls=1)[0].output, 0)
