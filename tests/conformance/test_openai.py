"""OpenAI's SDK for Python through the sidecar: nothing that an app sees or sends is different, and everything is accounted for."""

import asyncio
import base64
import json
import threading
import time
import unittest
from typing import Any, Literal

import httpx2
import openai
from pydantic import BaseModel

from harness import APP_KEY, PROVIDER_KEY, Policy, Stack, backend, budget, model, policy, request, until

HELLO: list[Any] = [{"role": "user", "content": "Say hello in about 30 words."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    },
}
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
    )
).decode()


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told, **options))

    def client(self, stack: Stack, **options: Any) -> openai.OpenAI:
        return self.enterContext(openai.OpenAI(base_url=stack.url + "/v1", api_key=APP_KEY, **options))


class Chat(Case):
    def test_an_answer_is_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        answer = self.client(stack).chat.completions.create(model="gpt-5-mini", messages=HELLO)
        assert answer.usage
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(len((answer.choices[0].message.content or "").split()), 30)
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual(
            (call.input, call.output, call.outcome, call.status),
            (answer.usage.prompt_tokens, answer.usage.completion_tokens, "completed", 200),
        )
        self.assertEqual((call.backend, call.model, call.requested_model), ("openai", "gpt-5-mini", "gpt-5-mini"))

    def test_the_headers_say_what_a_call_cost_and_what_is_left(self) -> None:
        stack = self.stack(policy([budget(usd="1.00")]))
        raw = self.client(stack).chat.completions.with_raw_response.create(model="gpt-5", messages=HELLO)
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual(raw.headers["x-spend-model"], "gpt-5")
        self.assertEqual(raw.headers["x-spend-cost-usd"], f"{call.cost / 1e12:.12f}".rstrip("0"))
        self.assertEqual(raw.headers["x-spend-budget-remaining-usd"], f"{1 - call.cost / 1e12:.12f}".rstrip("0"))
        self.assertTrue(raw.parse().choices[0].message.content)

    def test_a_stream_has_the_text_of_the_answer_and_no_usage_that_was_not_asked_for(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.chat.completions.create(model="gpt-5-mini", messages=HELLO)
        chunks = list(client.chat.completions.create(model="gpt-5-mini", messages=HELLO, stream=True))
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), whole.choices[0].message.content)
        self.assertTrue(all(chunk.choices and chunk.usage is None for chunk in chunks))
        first, second = stack.assert_agrees(calls=2)
        self.assertEqual((first.cost, first.output), (second.cost, second.output))

    def test_a_stream_ends_with_the_usage_that_was_asked_for(self) -> None:
        stack = self.stack()
        asked = {"include_usage": True}
        chunks = list(self.client(stack).chat.completions.create(model="gpt-5-mini", messages=HELLO, stream=True, stream_options=asked))
        self.assertEqual(chunks[-1].choices, [])
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual((chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens), (call.input, call.output))

    def test_the_stream_helper_works(self) -> None:
        stack = self.stack()
        with self.client(stack).chat.completions.stream(model="gpt-5-mini", messages=HELLO) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        self.assertEqual("".join(deltas), final.choices[0].message.content)
        stack.assert_agrees(calls=1)

    def test_the_bytes_of_a_whole_answer_are_the_providers(self) -> None:
        stack = self.stack()
        body = {"model": "gpt-5", "messages": HELLO, "max_completion_tokens": 50}
        direct = request("POST", stack.provider_url + "/v1/chat/completions", body, {"authorization": "Bearer sk-of-the-backend"})
        through = request("POST", stack.url + "/v1/chat/completions", body)
        differs = ("id", "created")
        self.assertEqual(*({k: v for k, v in json.loads(b).items() if k not in differs} for _, _, b in (direct, through)))
        self.assertEqual(direct[1]["content-type"], through[1]["content-type"])

    def test_several_answers_of_one_call_are_all_charged(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        answer = client.chat.completions.create(model="gpt-5-nano", messages=HELLO, n=2)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        chunks = list(client.chat.completions.create(model="gpt-5-nano", messages=HELLO, n=2, stream=True))
        self.assertEqual({choice.index for chunk in chunks for choice in chunk.choices}, {0, 1})
        first, second = stack.assert_agrees(calls=2)
        self.assertEqual(first.output, second.output)

    def test_reasoning_that_nobody_sees_is_charged_as_output(self) -> None:
        stack = self.stack()
        answer = self.client(stack).chat.completions.create(model="gpt-5.4", messages=HELLO, reasoning_effort="high")
        assert answer.usage and answer.usage.completion_tokens_details
        self.assertGreater(answer.usage.completion_tokens_details.reasoning_tokens or 0, 300)
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual(call.output, answer.usage.completion_tokens)

    def test_a_cached_prompt_is_read_at_the_cached_price(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        rules = {"role": "system", "content": "Be kind. " * 1_000}
        for question in ("One?", "Two?", "Three?"):
            client.chat.completions.create(
                model="gpt-5.4", messages=[rules, {"role": "user", "content": question}], max_completion_tokens=20
            )
        calls = stack.assert_agrees(calls=3)
        self.assertEqual(calls[0].cached_read, 0)
        self.assertTrue(all(call.cached_read > 1_024 for call in calls[1:]))

    def test_a_cap_is_kept_and_the_reason_told(self) -> None:
        stack = self.stack()
        for name in ("max_completion_tokens", "max_tokens"):
            answer = self.client(stack).chat.completions.create(model="gpt-5-mini", messages=HELLO, **{name: 5})
            self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual([call.output for call in stack.assert_agrees(calls=2)], [5, 5])

    def test_members_that_only_the_provider_knows_arrive(self) -> None:
        stack = self.stack()
        extra = {"user": "known-to-the-provider", "x_unknown": {"kept": [1, 2.50]}}
        self.client(stack).chat.completions.create(model="gpt-5", messages=HELLO, extra_body=extra)
        self.assertIn("known-to-the-provider", stack.bill().by_label)


class Tools(Case):
    def test_a_tool_call_has_its_arguments(self) -> None:
        stack = self.stack()
        answer = self.client(stack).chat.completions.create(model="gpt-5-mini", messages=HELLO, tools=[WEATHER], tool_choice="required")
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        [call] = answer.choices[0].message.tool_calls or []
        self.assertEqual(call.function.name, "weather")
        self.assertIn("city", json.loads(call.function.arguments))
        stack.assert_agrees(calls=1)

    def test_streamed_arguments_are_whole_when_put_together(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        asked: Any = {"model": "gpt-5-mini", "messages": HELLO, "tools": [WEATHER], "tool_choice": "required"}
        whole = client.chat.completions.create(**asked).choices[0].message.tool_calls[0].function.arguments
        deltas = [
            c.choices[0].delta.tool_calls[0] for c in client.chat.completions.create(**asked, stream=True) if c.choices[0].delta.tool_calls
        ]
        self.assertEqual(deltas[0].function.name, "weather")
        self.assertGreater(len(deltas), 2)
        self.assertEqual("".join(delta.function.arguments or "" for delta in deltas), whole)
        stack.assert_agrees(calls=2)

    def test_a_conversation_with_tool_results_goes_on(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        messages: list[Any] = list(HELLO)
        asked = (
            client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=[WEATHER], tool_choice="required")
            .choices[0]
            .message
        )
        called = [
            {"id": f"call_{i}", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern \\u2600"}'}}
            for i in range(2)
        ]
        messages += [asked.model_dump(exclude_none=True) | {"tool_calls": called}]
        messages += [{"role": "tool", "tool_call_id": f"call_{i}", "content": "sunny, 21°"} for i in range(2)]
        answer = client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=[WEATHER], parallel_tool_calls=True)
        self.assertTrue(answer.choices[0].message.content)
        stack.assert_agrees(calls=2)

    def test_a_structured_answer_parses_into_the_apps_own_type(self) -> None:
        class Ticket(BaseModel):
            title: str
            priority: Literal["low", "high"]
            steps: list[str]

        stack = self.stack()
        answer = self.client(stack).chat.completions.parse(model="gpt-5-mini", messages=HELLO, response_format=Ticket)
        self.assertIsInstance(answer.choices[0].message.parsed, Ticket)
        stack.assert_agrees(calls=1)

    def test_images_are_charged_by_what_they_are_and_not_by_their_bytes(self) -> None:
        stack = self.stack()
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
        content = [{"type": "text", "text": "What is this?"}, image, image]
        self.client(stack).chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": content}])
        stack.assert_agrees(calls=1)

    def test_a_body_of_twenty_megabytes_is_no_problem(self) -> None:
        stack = self.stack()
        picture = base64.b64encode(bytes(15_000_000)).decode()
        content = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        ]
        for _ in range(2):
            self.client(stack).chat.completions.create(
                model="gpt-5", messages=[{"role": "user", "content": content}], max_completion_tokens=50
            )
        stack.assert_agrees(calls=2)

    def test_a_body_beyond_the_limit_is_refused_and_said_so(self) -> None:
        stack = self.stack(sidecar_arguments=["--body-limit-mib", "1"])
        with self.assertRaises(openai.APIStatusError) as caught:
            self.client(stack).chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x" * 2_000_000}])
        self.assertEqual(caught.exception.status_code, 413)
        self.assertIn("--body-limit-mib", caught.exception.message)
        self.assertEqual(stack.bill().total.calls, 0)


class Clients(Case):
    def test_the_async_client_with_many_calls_at_once(self) -> None:
        stack = self.stack()

        async def calls() -> None:
            async with openai.AsyncOpenAI(base_url=stack.url + "/v1", api_key=APP_KEY) as client:

                async def one(number: int) -> None:
                    messages: Any = [{"role": "user", "content": f"Number {number}"}]
                    if number % 2:
                        stream = await client.chat.completions.create(model="gpt-5-nano", messages=messages, stream=True)
                        self.assertTrue([chunk async for chunk in stream])
                    else:
                        await client.chat.completions.create(model="gpt-5-nano", messages=messages)

                await asyncio.gather(*(one(number) for number in range(60)))

        asyncio.run(calls())
        stack.assert_agrees(calls=60)

    def test_threads_share_one_client(self) -> None:
        stack = self.stack()
        client, failures = self.client(stack), []

        def work(number: int) -> None:
            try:
                for turn in range(3):
                    client.chat.completions.create(model="gpt-5-nano", messages=[{"role": "user", "content": f"{number}.{turn}"}])
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=[number]) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        stack.assert_agrees(calls=48)

    def test_connections_are_used_again_as_often_as_without_us(self) -> None:
        """The SDK leaves a stream at its `[DONE]`, which costs it the connection, with and without a sidecar."""
        stack = self.stack()

        def connections(url: str, key: str) -> int:
            opened: list[str] = []

            def trace(asked: httpx2.Request) -> None:
                asked.extensions["trace"] = lambda name, _: opened.append(name) if name == "connection.connect_tcp.complete" else None

            transport = httpx2.Client(event_hooks={"request": [trace]})
            with openai.OpenAI(base_url=url + "/v1", api_key=key, http_client=transport) as client:
                for stream in (False, False, True, False, False, True, False):
                    answer: Any = client.chat.completions.create(model="gpt-5-nano", messages=HELLO, stream=stream)
                    if stream:
                        list(answer)
            return len(opened)

        direct = connections(stack.provider_url, PROVIDER_KEY)
        self.assertLessEqual(connections(stack.url, APP_KEY), direct)
        self.assertLess(direct, 7)

    def test_a_client_that_takes_compressed_answers_can_read_what_comes(self) -> None:
        stack = self.stack()
        headers = {"Accept-Encoding": "gzip, deflate, br, zstd"}
        raw = self.client(stack).chat.completions.with_raw_response.create(model="gpt-5-nano", messages=HELLO, extra_headers=headers)
        self.assertTrue(raw.parse().choices[0].message.content)
        stack.assert_agrees(calls=1)

    def test_base_urls_with_and_without_a_version_work(self) -> None:
        stack = self.stack()
        for path in ("/v1", "/v1/", "", "/"):
            with openai.OpenAI(base_url=stack.url + path, api_key=APP_KEY) as client:
                client.chat.completions.create(model="gpt-5-nano", messages=HELLO)
        stack.assert_agrees(calls=4)

    def test_the_models_are_listed(self) -> None:
        stack = self.stack()
        names = {listed.id for listed in self.client(stack).models.list()}
        self.assertLessEqual({"gpt-5", "gpt-5-mini"}, names)
        self.assertEqual(stack.rows(), [])

    def test_one_model_is_described(self) -> None:
        stack = self.stack()
        self.assertEqual(self.client(stack).models.retrieve("gpt-5").id, "gpt-5")

    def test_the_apps_key_never_reaches_the_provider_and_the_backends_does(self) -> None:
        stack = self.stack()
        self.client(stack).chat.completions.create(model="gpt-5-nano", messages=HELLO)
        self.assertEqual(stack.bill().refused_keys, 0)

    def test_a_model_that_another_vendor_serves_by_this_protocol_has_the_price_it_was_given(self) -> None:
        price = {"input": "7.25", "output": "11.5", "cachedRead": "0.5"}
        own = backend("own", "OpenAI", [model("gpt-5-nano", price=price, contextWindow=200_000, maxOutput=8_000)])
        stack = self.stack(policy(backends=[own]))
        self.client(stack).chat.completions.create(model="gpt-5-nano", messages=HELLO)
        [call] = stack.calls(1)
        self.assertEqual(call.cost, call.input * 7_250_000 + call.output * 11_500_000)


class Refusals(Case):
    def test_a_call_over_its_budget_is_a_rate_limit_error_with_our_words_and_is_not_tried_again(self) -> None:
        stack = self.stack(policy([budget("tiny", usd="0.000001")]))
        started = time.monotonic()
        with self.assertRaises(openai.RateLimitError) as caught:
            self.client(stack, max_retries=5).chat.completions.create(model="gpt-5", messages=HELLO)
        self.assertLess(time.monotonic() - started, 2)
        error = caught.exception
        self.assertIn("budget default/tiny: limit total ($0.000001, lifetime)", error.message)
        self.assertEqual((error.code, error.type), ("spendkeeper_budget_exceeded", "insufficient_quota"))
        self.assertEqual(error.response.headers["x-should-retry"], "false")
        self.assertEqual(stack.metrics()["spendkeeper_sidecar_refusals_total"], 1)
        self.assertEqual((stack.bill().total.calls, stack.bill().cost), (0, 0))

    def test_a_stream_over_its_budget_is_refused_like_any_call(self) -> None:
        stack = self.stack(policy([budget(usd="0.000001")]))
        with self.assertRaises(openai.RateLimitError):
            self.client(stack, max_retries=5).chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        self.assertEqual(stack.metrics()["spendkeeper_sidecar_refusals_total"], 1)

    def test_the_refusal_says_when_a_budget_with_a_window_has_room_again(self) -> None:
        stack = self.stack(policy([daily()]))
        with self.assertRaises(openai.RateLimitError) as caught:
            self.client(stack).chat.completions.create(model="gpt-5", messages=HELLO)
        self.assertIn("it resets in", caught.exception.message)
        self.assertLessEqual(int(caught.exception.response.headers["retry-after"]), 86_400)

    def test_a_model_that_no_route_offers_is_not_found(self) -> None:
        stack = self.stack()
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client(stack).chat.completions.create(model="gpt-99", messages=HELLO)
        self.assertIn("gpt-99", caught.exception.message)
        self.assertEqual(stack.bill().total.calls, 0)

    def test_a_bad_request_is_told_by_whoever_knows(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        for body, said in [
            ({"messages": "no list"}, "expected a sequence"),
            ({"messages": [{"role": "boss", "content": "?"}]}, "Supported values"),
            ({"messages": HELLO, "n": 0}, "n"),
            ({"messages": HELLO, "max_tokens": -1}, "max_tokens"),
            ({"messages": HELLO, "reasoning_effort": "immense"}, "Supported values"),
        ]:
            with self.subTest(body=body), self.assertRaises(openai.BadRequestError) as caught:
                client.chat.completions.create(model="gpt-5", **body)
            self.assertIn(said, caught.exception.message)
        stack.settle()
        self.assertEqual((stack.bill().cost, sum(call.cost for call in stack.rows())), (0, 0))

    def test_an_endpoint_that_there_is_not_is_said_so(self) -> None:
        stack = self.stack()
        with self.assertRaises(openai.NotFoundError):
            self.client(stack).files.list()

    def test_the_providers_own_errors_arrive_as_they_are_and_cost_nothing(self) -> None:
        stack = self.stack()
        client = self.client(stack, max_retries=0)
        for kind, error, said in [
            ("Status429", openai.RateLimitError, "Rate limit reached"),
            ("Status500", openai.InternalServerError, "The server had an error"),
            ("Status529", openai.InternalServerError, "overloaded"),
        ]:
            stack.faults([{"kind": kind}])
            for stream in (False, True):
                with self.subTest(kind=kind, stream=stream), self.assertRaises(error) as caught:
                    client.chat.completions.create(model="gpt-5", messages=HELLO, stream=stream)
                self.assertIn(said, caught.exception.message)
        calls = stack.assert_agrees(calls=6)
        self.assertEqual({(call.outcome, call.cost) for call in calls}, {("failed", 0)})

    def test_the_sdk_tries_again_after_the_providers_own_429_as_it_would_without_us(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "Status429", "times": 1}])
        answer = self.client(stack).with_options(max_retries=2).chat.completions.create(model="gpt-5", messages=HELLO)
        self.assertTrue(answer.choices)
        self.assertEqual([call.outcome for call in stack.assert_agrees(calls=2)], ["failed", "completed"])


class Waiting(Case):
    def test_an_app_that_gives_up_waiting_gets_its_timeout_and_the_call_is_still_charged(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "Slow", "delayMs": 2_500, "times": 1}])
        client = self.client(stack, timeout=1, max_retries=0)
        with self.assertRaises(openai.APITimeoutError):
            client.chat.completions.create(model="gpt-5", messages=HELLO)
        [call] = stack.assert_agrees(calls=1)
        self.assertGreater(call.output, 0)

    def test_a_provider_that_is_late_is_waited_for(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "Slow", "delayMs": 400}])
        started = time.monotonic()
        chunks = list(self.client(stack).chat.completions.create(model="gpt-5", messages=HELLO, stream=True))
        self.assertTrue(chunks and time.monotonic() - started > 0.4)
        stack.assert_agrees(calls=1)

    def test_tokens_arrive_as_they_are_generated(self) -> None:
        stack = self.stack(tokens_per_second=100)
        arrivals = [time.monotonic() for _ in self.client(stack).chat.completions.create(model="gpt-5", messages=HELLO, stream=True)]
        self.assertGreater(arrivals[-2] - arrivals[1], 0.15)
        stack.assert_agrees(calls=1)

    def test_a_cut_stream_is_seen_as_cut_and_not_as_an_answer(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "CutStream", "afterTokens": 8}])
        with self.assertRaises((openai.APIError, httpx2.HTTPError)):
            list(self.client(stack).chat.completions.create(model="gpt-5", messages=HELLO, stream=True))
        [call] = stack.calls(1)
        self.assertEqual(call.outcome, "interrupted")
        self.assertGreaterEqual(call.cost, stack.bill().cost)

    def test_a_provider_that_is_away_is_said_to_be_and_costs_nothing(self) -> None:
        stack = self.stack()
        stack.provider.end()
        with self.assertRaises(openai.InternalServerError) as caught:
            self.client(stack, max_retries=0).chat.completions.create(model="gpt-5", messages=HELLO)
        self.assertIn("cannot be reached", caught.exception.message)
        [call] = until("the call is in the ledger", stack.rows)
        self.assertEqual((call.outcome, call.cost), ("failed", 0))


def daily() -> dict[str, Any]:
    made = budget(usd="0.000001", period="Day")
    made["spec"]["limits"][0]["timeZone"] = "UTC"
    return made
