"""Google's SDK through the sidecar, for the Gemini API and for Vertex AI: nothing that an app sees or sends is different, and
everything is accounted for."""

import asyncio
import http.client
import json
import unittest
from typing import Any

from google import genai
from google.auth.credentials import Credentials
from google.genai import errors, types
from harness import APP_KEY, PROVIDER_KEY, Call, Policy, Stack, backend, budget, model, policy, request

PRO, FLASH, EMBEDDING = "gemini-2.5-pro", "gemini-2.5-flash", "gemini-embedding-001"
# What only embeds writes nothing, so price lists have no figure for it.
MODELS = [model(PRO, "frontier"), model(FLASH), model(EMBEDDING, "economy", maxOutput=1)]
HELLO = "Say hello in about 30 words."
PROJECT = "/v1/projects/the-backends/locations/europe-west4"
LOOKUP = types.FunctionDeclaration(name="lookup", description="Looks a word up", parameters=types.Schema(type=types.Type.OBJECT, properties={"word": types.Schema(type=types.Type.STRING)}))
STREAM = f"/v1beta/models/{FLASH}:streamGenerateContent"
# `png` of one pixel.
PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082")


def gemini_backend(name: str = "gemini", **more: Any) -> dict[str, Any]:
    return backend(name, "Gemini", more.pop("models", MODELS), **{"serviceTier": "Standard", **more})


def vertex_backend(name: str = "vertex", **more: Any) -> dict[str, Any]:
    return backend(name, "VertexAI", more.pop("models", MODELS), **{"serviceTier": "Standard", "endpoint": PROJECT, **more})


class Token(Credentials):  # type: ignore[misc]
    """What an app on Google Cloud has, without asking Google for it."""

    def __init__(self) -> None:
        super().__init__()
        self.token = APP_KEY

    def refresh(self, _: object) -> None:
        pass


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told or policy(backends=[gemini_backend()]), provider_arguments=["--google-key", PROVIDER_KEY], **options))

    def client(self, stack: Stack, **options: Any) -> genai.Client:
        client = genai.Client(api_key=APP_KEY, http_options=types.HttpOptions(base_url=stack.url, **options))
        self.addCleanup(client.close)
        return client

    def vertex(self, stack: Stack, **options: Any) -> genai.Client:
        http = types.HttpOptions(base_url=stack.url, **options)
        client = genai.Client(vertexai=True, project="the-apps", location="us-central1", credentials=Token(), http_options=http)
        self.addCleanup(client.close)
        return client

    def both(self) -> list[tuple[Stack, genai.Client]]:
        google, cloud = self.stack(), self.stack(policy(backends=[vertex_backend()]))
        return [(google, self.client(google)), (cloud, self.vertex(cloud))]

    def assert_reported(self, call: Call, usage: Any) -> None:
        """The ledger has what the SDK was told."""
        prompt = (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)
        self.assertEqual((call.all_input, call.cached_read), (prompt, usage.cached_content_token_count or 0))
        self.assertEqual(call.output, (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0))
        self.assertEqual(call.all_input + call.output, usage.total_token_count)


class Generate(Case):
    def test_an_answer_is_billed_and_charged_alike(self) -> None:
        for stack, client in self.both():
            answer = client.models.generate_content(model=FLASH, contents=HELLO, config={"max_output_tokens": 200})
            self.assertEqual((answer.model_version, answer.candidates[0].finish_reason), (FLASH, types.FinishReason.STOP))  # type: ignore[index]
            self.assertTrue(answer.text)
            [call] = stack.assert_agrees(calls=1)
            self.assert_reported(call, answer.usage_metadata)

    def test_a_stream_has_the_same_text_and_figures(self) -> None:
        for stack, client in self.both():
            whole = client.models.generate_content(model=PRO, contents=HELLO)
            chunks = list(client.models.generate_content_stream(model=PRO, contents=HELLO))
            self.assertEqual("".join(chunk.text or "" for chunk in chunks), whole.text)
            self.assertGreater(len(chunks), 3)
            self.assertGreater(whole.usage_metadata.thoughts_token_count, 0)  # type: ignore[union-attr, operator]
            first, second = stack.assert_agrees(calls=2)
            self.assert_reported(second, chunks[-1].usage_metadata)
            self.assertEqual(first.cost, second.cost)

    def test_the_asynchronous_client_gets_the_same(self) -> None:
        stack = self.stack()
        client = self.client(stack)

        async def calls() -> list[str]:
            whole = await client.aio.models.generate_content(model=FLASH, contents=HELLO)
            stream = await client.aio.models.generate_content_stream(model=FLASH, contents=HELLO)
            return [whole.text or "", "".join([chunk.text or "" async for chunk in stream])]

        whole, streamed = asyncio.run(calls())
        self.assertEqual(whole, streamed)
        stack.assert_agrees(calls=2)

    def test_a_caller_without_sse_gets_its_array_byte_by_byte(self) -> None:
        stack = self.stack()
        body = {"contents": [{"role": "user", "parts": [{"text": HELLO}]}], "generationConfig": {"maxOutputTokens": 100}}
        status, headers, answer = request("POST", stack.url + STREAM, body, {"x-goog-api-key": APP_KEY})
        _, _, direct = request("POST", stack.provider_url + STREAM, body, {"x-goog-api-key": PROVIDER_KEY})
        self.assertEqual((status, headers["content-type"].split(";")[0]), (200, "application/json"))
        texts = ["".join(part["text"] for event in json.loads(one) for part in event["candidates"][0]["content"]["parts"]) for one in (answer, direct)]
        self.assertEqual(texts[0], texts[1])
        self.assertTrue(texts[0])
        [call] = stack.calls(1)
        self.assertEqual((call.outcome, 2 * call.cost), ("completed", stack.bill().cost))

    def test_the_cap_is_held_whether_the_caller_has_one_or_not(self) -> None:
        stack = self.stack(sidecar_arguments=["--default-max-output", "40"])
        client = self.client(stack)
        configs: list[Any] = [None, {}, {"temperature": 0.5}, {"max_output_tokens": 20}]
        for config in configs:
            answer = client.models.generate_content(model=FLASH, contents="Write about 900 words.", config=config)
            self.assertEqual(answer.candidates[0].finish_reason, types.FinishReason.MAX_TOKENS)  # type: ignore[index]
        self.assertEqual([call.output for call in stack.assert_agrees(calls=4)], [40, 40, 40, 20])

    def test_thoughts_are_shown_and_charged_as_output(self) -> None:
        stack = self.stack()
        config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=50))
        answer = self.client(stack).models.generate_content(model=FLASH, contents=HELLO, config=config)
        self.assertEqual([part.thought for part in answer.parts or []], [True, None])
        chunks = list(self.client(stack).models.generate_content_stream(model=FLASH, contents=HELLO, config=config))
        self.assertTrue(any(part.thought for chunk in chunks for part in chunk.parts or []))
        for call in stack.assert_agrees(calls=2):
            self.assert_reported(call, answer.usage_metadata)

    def test_functions_are_called_and_answered(self) -> None:
        for stack, client in self.both():
            config: Any = {"tools": [types.Tool(function_declarations=[LOOKUP])], "tool_config": {"function_calling_config": {"mode": "ANY"}}}
            answer = client.models.generate_content(model=FLASH, contents="What is a lease?", config=config)
            [called] = answer.function_calls or []
            self.assertEqual((called.name, list(called.args or {})), ("lookup", ["word"]))
            [streamed] = [call for chunk in client.models.generate_content_stream(model=FLASH, contents="What is a lease?", config=config) for call in chunk.function_calls or []]
            self.assertEqual(streamed, called)
            turns: Any = ["What is a lease?", answer.candidates[0].content, types.Part.from_function_response(name="lookup", response={"meaning": "a hold"})]  # type: ignore[index]
            self.assertTrue(client.models.generate_content(model=FLASH, contents=turns, config={"tools": [types.Tool(function_declarations=[LOOKUP])]}).text)
            stack.assert_agrees(calls=3)

    def test_a_schema_is_kept_to(self) -> None:
        stack = self.stack()
        schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
        config: Any = {"response_mime_type": "application/json", "response_schema": schema}
        answer = self.client(stack).models.generate_content(model=FLASH, contents="Where?", config=config)
        self.assertEqual(list(answer.parsed or {}), ["city"])  # type: ignore[arg-type]
        stack.assert_agrees(calls=1)

    def test_candidates_instructions_and_pictures_are_charged(self) -> None:
        stack = self.stack()
        contents: Any = [types.Part.from_bytes(data=PIXEL, mime_type="image/png"), "What is this, in about 20 words?"]
        config: Any = {"candidate_count": 2, "system_instruction": "Be kind.", "max_output_tokens": 100}
        answer = self.client(stack).models.generate_content(model=FLASH, contents=contents, config=config)
        self.assertEqual(len(answer.candidates or []), 2)
        chunks = list(self.client(stack).models.generate_content_stream(model=FLASH, contents=contents, config=config))
        self.assertEqual({candidate.index for chunk in chunks for candidate in chunk.candidates or []}, {0, 1})
        for call in stack.assert_agrees(calls=2):
            self.assertGreater(call.image_input, 0)

    def test_a_chat_remembers_and_the_cache_is_cheaper(self) -> None:
        stack = self.stack()
        chat = self.client(stack).chats.create(model=PRO, config={"system_instruction": "Be kind. " * 1_000})
        for _ in range(3):
            chat.send_message("And in about 20 words?")
        for _ in chat.send_message_stream("And in about 20 words?"):
            pass
        calls = stack.assert_agrees(calls=4)
        self.assertEqual(calls[0].cached_read, 0)
        self.assertTrue(all(call.cached_read > 1_000 for call in calls[1:]))

    def test_what_is_stored_at_the_provider_is_read_from_its_cache(self) -> None:
        stack = self.stack()
        answer = self.client(stack).models.generate_content(model=FLASH, contents=HELLO, config={"cached_content": "cachedContents/manual-50000"})
        [call] = stack.assert_agrees(calls=1)
        self.assertEqual(call.cached_read, 50_000)
        self.assert_reported(call, answer.usage_metadata)

    def test_a_long_prompt_reprices_the_whole_request(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        for stored, rate in ((100_000, 1_250_000), (200_000, 2_500_000)):
            client.models.generate_content(model=PRO, contents=HELLO, config={"cached_content": f"cachedContents/manual-{stored}"})
            call = stack.assert_agrees()[-1]
            self.assertEqual(call.cost, call.input * rate + call.cached_read * rate // 10 + call.output * (15_000_000 if stored >= 200_000 else 10_000_000))

    def test_other_versions_and_custom_members_pass(self) -> None:
        stack = self.stack()
        client = self.client(stack, api_version="v1alpha", extra_body={"customMember": {"kept": True}})
        self.assertTrue(client.models.generate_content(model=FLASH, contents=HELLO).text)
        stack.assert_agrees(calls=1)


class Tools(Case):
    """What runs at the provider: searches at a fee, pages that are input again."""

    CONFIG: Any = {"tools": [{"google_search": {}}, {"url_context": {}}]}

    def test_they_are_refused_by_name_where_nothing_bounds_them(self) -> None:
        stack = self.stack()
        with self.assertRaises(errors.ClientError) as refused:
            self.client(stack).models.generate_content(model=FLASH, contents=HELLO, config=self.CONFIG)
        self.assertEqual((refused.exception.code, refused.exception.status), (403, "PERMISSION_DENIED"))
        self.assertIn("googleSearch, urlContext", refused.exception.message or "")
        self.assertEqual(stack.bill().total.calls, 0)

    def test_they_are_charged_where_a_budget_allows_them(self) -> None:
        stack = self.stack(policy([budget(usd="100.00", unpricedModels="Allow")], [gemini_backend()]))
        client = self.client(stack)
        whole = client.models.generate_content(model=FLASH, contents=HELLO, config=self.CONFIG)
        chunks = list(client.models.generate_content_stream(model=FLASH, contents=HELLO, config=self.CONFIG))
        self.assertGreater(whole.usage_metadata.tool_use_prompt_token_count, 0)  # type: ignore[union-attr, operator]
        for call, usage in zip(stack.assert_agrees(calls=2), (whole.usage_metadata, chunks[-1].usage_metadata), strict=True):
            self.assertEqual(call.web_searches, 1)
            self.assert_reported(call, usage)


class Embeddings(Case):
    def test_contents_are_embedded_and_charged(self) -> None:
        for stack, client in self.both():
            answer = client.models.embed_content(model=EMBEDDING, contents="A lease.", config={"output_dimensionality": 128, "title": "Leases"})
            self.assertEqual([len(one.values or []) for one in answer.embeddings or []], [128])
            calls = stack.assert_agrees()
            self.assertEqual({(call.outcome, call.output) for call in calls}, {("completed", 0)})
            self.assertGreater(sum(call.cost for call in calls), 0)

    def test_many_contents_are_embedded_in_one_call(self) -> None:
        stack = self.stack()
        answer = self.client(stack).models.embed_content(model=EMBEDDING, contents=["A lease.", "A hold that ends by itself."])
        self.assertEqual(len(answer.embeddings or []), 2)
        stack.assert_agrees(calls=1)

    def test_instances_of_vertex_ai(self) -> None:
        stack = self.stack(policy(backends=[vertex_backend()]))
        place = f"{stack.url}/v1/projects/p/locations/l/publishers/google/models/{EMBEDDING}:predict"
        status, _, body = request("POST", place, {"instances": [{"content": "A lease.", "task_type": "RETRIEVAL_QUERY"}, {"content": "A hold."}]}, {"authorization": "Bearer " + APP_KEY})
        self.assertEqual((status, len(json.loads(body)["predictions"])), (200, 2))
        status, _, body = request("POST", place, {"instances": [{"prompt": "A picture of a lease."}]}, {"authorization": "Bearer " + APP_KEY})
        self.assertEqual((status, json.loads(body)["error"]["status"]), (400, "INVALID_ARGUMENT"))
        stack.assert_agrees(calls=1)

    def test_one_content_in_a_call_of_its_own(self) -> None:
        stack = self.stack()
        body = {"model": f"models/{EMBEDDING}", "content": {"parts": [{"text": "A lease."}]}}
        status, headers, _ = request("POST", f"{stack.url}/v1beta/models/{EMBEDDING}:embedContent", body, {"x-goog-api-key": APP_KEY})
        self.assertEqual(status, 200)
        self.assertIn("x-spend-cost-usd", headers)
        stack.assert_agrees(calls=1)

    def test_an_alias_is_named_in_the_body_too(self) -> None:
        told = policy(backends=[gemini_backend(models=MODELS[-1:])], aliases=[{"name": "vectors", "maxTier": "economy"}])
        stack = self.stack(told)
        answer = self.client(stack).models.embed_content(model="vectors", contents=["A lease.", "A hold."])
        self.assertEqual(len(answer.embeddings or []), 2)
        stack.assert_agrees(calls=1)

    def test_without_figures_a_call_is_charged_as_reserved(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "NoUsage"}])
        self.client(stack).models.embed_content(model=EMBEDDING, contents="A lease.")
        [call] = stack.calls(1)
        self.assertEqual(call.outcome, "unknown")
        # A token for each byte, and the frame.
        self.assertTrue(stack.bill().total.input <= call.input <= 100, call)


class Budgets(Case):
    def test_a_refusal_has_googles_shape_and_costs_nothing(self) -> None:
        stack = self.stack(policy([budget(usd="0.000001")], [gemini_backend()]))
        client = self.client(stack)
        for call in (client.models.generate_content, lambda **asked: list(client.models.generate_content_stream(**asked))):
            with self.assertRaises(errors.ClientError) as refused:
                call(model=FLASH, contents=HELLO)
            self.assertEqual((refused.exception.code, refused.exception.status), (429, "RESOURCE_EXHAUSTED"))
            self.assertIn("default/all", refused.exception.message or "")
        self.assertEqual(stack.bill().total.calls, 0)

    def test_the_worst_case_of_documents_is_the_window(self) -> None:
        stack = self.stack(policy([budget(usd="1.00")], [gemini_backend()]))
        document: Any = [types.Part.from_uri(file_uri="gs://bucket/report.pdf", mime_type="application/pdf"), "Sum it up."]
        with self.assertRaises(errors.ClientError) as refused:
            self.client(stack).models.generate_content(model=FLASH, contents=document, config={"max_output_tokens": 10})
        self.assertEqual(refused.exception.code, 429)
        # A document may have sound in it, at a dollar per million tokens.
        stack = self.stack(policy([budget(usd="1.10")], [gemini_backend()]))
        self.client(stack).models.generate_content(model=FLASH, contents=document, config={"max_output_tokens": 10})
        stack.assert_agrees(calls=1)


class Faults(Case):
    def test_errors_of_the_provider_reach_the_app_and_cost_nothing(self) -> None:
        stack = self.stack()
        for kind, code in (("Status429", 429), ("Status500", 500), ("Status529", 503)):
            stack.faults([{"kind": kind}])
            with self.assertRaises(errors.APIError) as refused:
                self.client(stack).models.generate_content(model=FLASH, contents=HELLO)
            self.assertEqual(refused.exception.code, code)
        self.assertEqual(stack.assert_agrees(calls=3)[0].cost, 0)

    def test_a_stream_that_breaks_off_is_charged_as_reserved(self) -> None:
        for query in ("?alt=sse", ""):
            for kind in ("CutStream", "EndStream", "FailStream", "NoUsage"):
                with self.subTest(query=query, kind=kind):
                    stack = self.stack()
                    after = {"afterTokens": 12} if kind != "NoUsage" else {}
                    stack.faults([{"kind": kind, **after}])
                    body = {"contents": [{"parts": [{"text": HELLO}]}], "generationConfig": {"maxOutputTokens": 100}}
                    try:
                        request("POST", stack.url + STREAM + query, body, {"x-goog-api-key": APP_KEY})
                    except (OSError, http.client.HTTPException):
                        pass
                    [call] = stack.calls(1)
                    self.assertEqual((call.outcome, call.output), ("unknown" if kind == "NoUsage" else "interrupted", 100))
                    self.assertGreaterEqual(call.cost, stack.bill().cost)

    def test_a_caller_that_hangs_up_pays_for_what_was_generated(self) -> None:
        stack = self.stack(tokens_per_second=2_000)
        stream = self.client(stack).models.generate_content_stream(model=FLASH, contents="Write about 200 words.", config={"max_output_tokens": 400})
        next(iter(stream))
        del stream
        [call] = stack.assert_agrees(calls=1)
        self.assertGreater(call.output, 100)


if __name__ == "__main__":
    unittest.main()
