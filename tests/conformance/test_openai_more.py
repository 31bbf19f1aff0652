"""The rest of OpenAI's family through the sidecar: Responses, Completions, Embeddings, service tiers and Azure's client."""

import base64
import struct
import unittest
from typing import Any

import httpx2
import openai

from harness import APP_KEY, Policy, Stack, backend, budget, model, openai_backend, policy, request

HELLO = "Say hello in about 30 words."
FUNCTION: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
    "strict": True,
}
SEARCH: Any = {"type": "web_search"}
INSTRUCT = model("gpt-3.5-turbo-instruct", contextWindow=4096, maxOutput=4096, price={"input": "1.50", "output": "2.00"})
EMBEDDING = [model("text-embedding-3-small", "economy", maxOutput=1), model("text-embedding-3-large", maxOutput=1)]


def more_models(**more: Any) -> dict[str, Any]:
    made = openai_backend(**more)
    made["models"] += [INSTRUCT, *EMBEDDING]
    return made


def everything(*budgets: dict[str, Any], **more: Any) -> Policy:
    return policy(budgets or None, [more_models(**more)])


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told or everything(), **options))

    def client(self, stack: Stack, **options: Any) -> openai.OpenAI:
        return self.enterContext(openai.OpenAI(base_url=stack.url + "/v1", api_key=APP_KEY, max_retries=0, **options))


class Responses(Case):
    def test_an_answer_is_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        answer = self.client(stack).responses.create(model="gpt-5-mini", input=HELLO, instructions="Be kind.")
        assert answer.usage
        self.assertEqual((answer.status, len(answer.output_text.split())), ("completed", 30))
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual((call.input, call.output, call.outcome), (answer.usage.input_tokens, answer.usage.output_tokens, "completed"))

    def test_a_stream_has_every_event_and_is_charged_by_its_last(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.responses.create(model="gpt-5", input=HELLO, reasoning={"effort": "low"})
        with client.responses.stream(model="gpt-5", input=HELLO, reasoning={"effort": "low"}) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertEqual((kinds[0], kinds[-1], final.output_text), ("response.created", "response.completed", whole.output_text))
        first, second = stack.assert_agrees(calls=2)
        self.assertEqual((first.cost, first.output), (second.cost, second.output))
        self.assertGreater(final.usage.output_tokens_details.reasoning_tokens, 0)

    def test_a_cap_makes_it_incomplete_and_a_budget_can_lower_it(self) -> None:
        stack = self.stack()
        answer = self.client(stack).responses.create(model="gpt-5", input=HELLO, max_output_tokens=16)
        self.assertEqual((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual(call.output, 16)
        fitted = self.stack(everything(budget(usd="0.0005", enforcement="Fit")))
        answer = self.client(fitted).responses.create(model="gpt-5", input=HELLO, extra_body={"max_output_tokens": None})
        self.assertEqual(answer.status, "incomplete")
        fitted.assert_agrees(calls=1)

    def test_a_function_is_called_and_answered(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        asked: list[Any] = [{"role": "user", "content": "Weather in Bern?"}]
        first = client.responses.create(model="gpt-5", input=asked, tools=[FUNCTION], tool_choice="required")
        [called] = [item for item in first.output if item.type == "function_call"]
        output = {"type": "function_call_output", "call_id": called.call_id, "output": "Sunny."}
        client.responses.create(model="gpt-5", input=[*asked, called.model_dump(exclude_none=True), output], tools=[FUNCTION])
        events = list(client.responses.create(model="gpt-5", input=asked, tools=[FUNCTION], tool_choice="required", stream=True))
        self.assertIn("response.function_call_arguments.delta", {event.type for event in events})
        stack.assert_agrees(calls=3)

    def test_searches_have_their_fee_and_every_pass_is_charged(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        for name in ("gpt-5", "gpt-5-mini"):
            client.responses.create(model=name, input=HELLO, tools=[SEARCH], max_tool_calls=3)
            list(client.responses.create(model=name, input=HELLO, tools=[SEARCH], max_tool_calls=1, stream=True))
        calls = stack.assert_agrees(calls=4)
        self.assertEqual([call.web_searches for call in calls], [2, 1, 2, 1])

    def test_searches_that_nothing_bounds_are_refused_by_name(self) -> None:
        stack = self.stack()
        for tool in (SEARCH, {"type": "code_interpreter", "container": {"type": "auto"}}):
            with self.assertRaises(openai.PermissionDeniedError) as refused:
                self.client(stack).responses.create(model="gpt-5", input=HELLO, tools=[tool])
            self.assertIn(tool["type"], str(refused.exception))
        self.assertEqual(stack.bill().total.calls, 0)

    def test_a_response_goes_on_from_an_earlier_one(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        first = client.responses.create(model="gpt-5-nano", input=HELLO)
        second = client.responses.create(model="gpt-5-nano", input="Go on.", previous_response_id=first.id)
        self.assertGreater(second.usage.input_tokens, first.usage.input_tokens)
        stack.assert_agrees(calls=2)

    def test_what_is_done_in_the_background_stays_charged_as_reserved(self) -> None:
        stack = self.stack()
        answer = self.client(stack).responses.create(model="gpt-5-nano", input=HELLO, background=True, max_output_tokens=100)
        self.assertEqual((answer.status, answer.usage), ("queued", None))
        [call] = stack.calls(1)
        self.assertEqual((call.outcome, call.output), ("unknown", 100))
        self.assertGreaterEqual(call.cost, stack.bill().cost)

    def test_a_stream_that_fails_or_breaks_off_is_charged_as_reserved(self) -> None:
        for kind in ("FailStream", "CutStream", "EndStream"):
            stack = self.stack()
            stack.faults([{"kind": kind, "afterTokens": 5}])
            try:
                list(self.client(stack).responses.create(model="gpt-5-nano", input=HELLO, stream=True, max_output_tokens=50))
            except (openai.APIError, httpx2.HTTPError):
                pass
            [call] = stack.calls(1)
            self.assertEqual((call.outcome, call.output), ("interrupted", 50), kind)
            self.assertGreaterEqual(call.cost, stack.bill().cost)

    def test_the_bytes_of_an_answer_are_the_providers(self) -> None:
        stack = self.stack()
        body = {"model": "gpt-5", "input": HELLO, "max_output_tokens": 50, "store": False}
        direct = request("POST", stack.provider_url + "/v1/responses", body, {"authorization": "Bearer sk-of-the-backend"})
        through = request("POST", stack.url + "/v1/responses", body)
        self.assertEqual((direct[0], len(direct[2]), direct[1]["content-type"]), (through[0], len(through[2]), through[1]["content-type"]))


class Tiers(Case):
    def test_a_call_is_charged_in_the_tier_that_served_it(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        message: Any = [{"role": "user", "content": HELLO}]
        costs = {}
        for name in ("gpt-5", "gpt-5.4"):
            for tier in ("default", "flex", "priority"):
                answer = client.responses.create(model=name, input=HELLO, service_tier=tier)
                self.assertEqual(answer.service_tier, tier)
                client.chat.completions.create(model=name, messages=message, service_tier=tier)
                list(client.chat.completions.create(model=name, messages=message, service_tier=tier, stream=True))
                costs[name, tier] = stack.calls()[-1].cost
            self.assertEqual((costs[name, "flex"] * 2, costs[name, "priority"]), (costs[name, "default"], costs[name, "default"] * 2))
        stack.assert_agrees(calls=18)

    def test_a_tier_that_was_not_to_be_had_is_not_charged(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "OtherTier"}])
        client = self.client(stack)
        for tier in ("flex", "priority"):
            self.assertEqual(client.responses.create(model="gpt-5", input=HELLO, service_tier=tier).service_tier, "default")
            list(client.responses.create(model="gpt-5", input=HELLO, service_tier=tier, stream=True))
            client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": HELLO}], service_tier=tier)
        calls = stack.assert_agrees(calls=6)
        self.assertEqual(calls[0].cost, calls[3].cost)

    def test_a_long_input_has_the_price_of_long_ones(self) -> None:
        stack = self.stack(everything(serviceTier="Standard"))
        client = self.client(stack)
        for words in (200_000, 300_000):
            client.responses.create(model="gpt-5.4", input="Go on. " + "a " * words, max_output_tokens=20)
        short, long = stack.assert_agrees(calls=2)
        self.assertGreater(long.cost, short.cost * 2)


class Completions(Case):
    def test_prompts_candidates_and_streams_are_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        plain = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=HELLO)
        self.assertEqual((plain.choices[0].finish_reason, plain.usage.completion_tokens), ("length", 16))
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt=HELLO, n=2, best_of=3, max_tokens=40)
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt=["One.", "Two."], max_tokens=7, suffix="Three.")
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt=[[1, 2, 3], [4, 5]], max_tokens=7)
        chunks = list(client.completions.create(model="gpt-3.5-turbo-instruct", prompt=HELLO, max_tokens=9, stream=True))
        self.assertTrue(all(chunk.choices and chunk.usage is None for chunk in chunks))
        calls = stack.assert_agrees(calls=5)
        self.assertEqual([call.output for call in calls][2:], [14, 14, 9])
        # Two are shown, and three were made.
        self.assertGreater(calls[1].output, 2 * 40)


class Embeddings(Case):
    def test_vectors_come_as_asked_for_and_are_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        for name, dimensions in (("text-embedding-3-small", 1536), ("text-embedding-3-large", 3072)):
            numbers = client.embeddings.create(model=name, input=["One.", "Two."], encoding_format="float")
            self.assertEqual([len(found.embedding) for found in numbers.data], [dimensions, dimensions])
            # The SDK asks for base64 by itself, and decodes it.
            decoded = client.embeddings.create(model=name, input=["One.", "Two."])
            for ours, theirs in zip(decoded.data, numbers.data, strict=True):
                self.assertTrue(all(abs(a - b) < 1e-6 for a, b in zip(ours.embedding, theirs.embedding, strict=True)))
            raw = client.embeddings.create(model=name, input=[1, 2, 3], encoding_format="base64", dimensions=8).data[0].embedding
            self.assertEqual(len(struct.unpack("<8f", base64.b64decode(raw))), 8)
        calls = stack.assert_agrees(calls=6)
        self.assertEqual({call.output for call in calls}, {0})


class Azure(Case):
    AZURE = [model("dep-gpt-5", "frontier", baseModel="gpt-5"), model("gpt-5-mini"), *EMBEDDING]

    def azure(self, stack: Stack, **options: Any) -> openai.AzureOpenAI:
        made = openai.AzureOpenAI(azure_endpoint=stack.url, api_key=APP_KEY, api_version="2025-04-01-preview", max_retries=0, **options)
        return self.enterContext(made)

    def calls(self, client: openai.OpenAI, name: str) -> int:
        message: Any = [{"role": "user", "content": HELLO}]
        client.chat.completions.create(model=name, messages=message)
        chunks = list(client.chat.completions.create(model=name, messages=message, stream=True))
        self.assertTrue(all(chunk.usage is None for chunk in chunks))
        client.responses.create(model=name, input=HELLO)
        list(client.responses.create(model=name, input=HELLO, stream=True))
        client.embeddings.create(model="text-embedding-3-small", input=HELLO)
        return 5

    def test_azures_client_reaches_azure_by_its_older_paths(self) -> None:
        stack = self.stack(policy(None, [backend("azure", "AzureOpenAI", self.AZURE)]))
        calls = self.calls(self.azure(stack), "dep-gpt-5")
        chunks = list(self.azure(stack).chat.completions.create(model="dep-gpt-5", messages=[{"role": "user", "content": "Hi"}], stream=True))
        # What the filters found comes first, in a chunk without choices.
        self.assertEqual(chunks[0].choices, [])
        deployed = self.azure(stack, azure_deployment="dep-gpt-5")
        deployed.chat.completions.create(model="ignored", messages=[{"role": "user", "content": HELLO}])
        rows = stack.calls(calls + 2)
        self.assertEqual({row.outcome for row in rows}, {"completed"})
        self.assertEqual(sum(row.cost for row in rows), stack.bill().cost)

    def test_openais_client_reaches_azure_by_its_newer_paths(self) -> None:
        stack = self.stack(policy(None, [backend("azure", "AzureOpenAI", self.AZURE)]))
        for url in ("/v1", "/openai/v1"):
            client = self.enterContext(openai.OpenAI(base_url=stack.url + url, api_key=APP_KEY, max_retries=0))
            self.calls(client, "gpt-5-mini")
        stack.assert_agrees(calls=10)

    def test_azures_client_reaches_openai(self) -> None:
        stack = self.stack()
        calls = self.calls(self.azure(stack), "gpt-5-mini")
        deployed = self.azure(stack, azure_deployment="gpt-5-nano")
        deployed.chat.completions.create(model="another", messages=[{"role": "user", "content": HELLO}])
        rows = stack.assert_agrees(calls=calls + 1)
        self.assertEqual(rows[-1].model, "gpt-5-nano")


if __name__ == "__main__":
    unittest.main()
