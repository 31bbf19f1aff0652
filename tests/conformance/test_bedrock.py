"""boto3 through the sidecar: Converse, InvokeModel and their streams, whole and billed alike; signatures; refusals."""

import datetime
import http.server
import json
import threading
import unittest
import urllib.parse
import urllib.request
from typing import Any
from unittest import mock

import boto3
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EventStreamError
from harness import PROVIDER_KEY, Policy, Stack, backend, budget, model, policy

CLAUDE_US = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
CLAUDE = "anthropic.claude-haiku-4-5-20251001-v1:0"
NOVA = "amazon.nova-lite-v1:0"
MISTRAL = "mistral.mistral-7b-instruct-v0:2"
TITAN = "amazon.titan-embed-text-v2:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/" + CLAUDE_US

KEYS = json.dumps({"accessKeyId": PROVIDER_KEY, "secretAccessKey": "wJalrXUtnFEMI/K7MDENG", "sessionToken": "to/ken==", "region": "eu-west-1"})
HELLO: list[Any] = [{"role": "user", "content": [{"text": "Say hello in about 30 words."}]}]
TOOL: dict[str, Any] = {"toolSpec": {"name": "grep", "inputSchema": {"json": {"type": "object", "properties": {"path": {"type": "string"}}}}}}
LONG = "Be kind. " * 1_000


MODELS = [
    model(CLAUDE_US),
    model(PROFILE, baseModel=CLAUDE_US),
    model(CLAUDE),
    model(NOVA),
    model(MISTRAL, price={"input": "0.15", "output": "0.20"}, contextWindow=32_000, maxOutput=8_000),
    model(TITAN, maxOutput=1),
]


def bedrock(budgets: list[dict[str, Any]] | None = None, *, key: str | None = KEYS, endpoint: str = "", **route: Any) -> Policy:
    return policy(budgets, [backend("bedrock", "Bedrock", MODELS, key=key, endpoint=endpoint)], **route)


def claude_body(**more: Any) -> str:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Say hello in about 30 words."}]}]
    return json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 200, "messages": messages, **more})


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told or bedrock(), provider_arguments=["--bedrock-key", PROVIDER_KEY], **options))

    def client(self, stack: Stack, mode: str = "standard", attempts: int = 3) -> Any:
        config = Config(retries={"mode": mode, "total_max_attempts": attempts}, read_timeout=20, proxies={})
        session = boto3.Session(aws_access_key_id="placeholder", aws_secret_access_key="placeholder", region_name="us-west-2")
        return session.client("bedrock-runtime", endpoint_url=stack.url, config=config)

    def posts(self, client: Any) -> list[str]:
        """Every request that the client really sends."""
        sent: list[str] = []
        client.meta.events.register("before-send.*", lambda request, **_: sent.append(request.url) or None)
        return sent


class Converse(Case):
    def test_an_answer_is_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        for name in [CLAUDE_US, CLAUDE, NOVA]:
            answer = client.converse(modelId=name, messages=HELLO, inferenceConfig={"maxTokens": 200})
            self.assertEqual(answer["stopReason"], "end_turn")
            self.assertIn("x-spend-cost-usd", answer["ResponseMetadata"]["HTTPHeaders"])
        calls = stack.assert_agrees(calls=3)
        self.assertEqual([(call.model, call.outcome) for call in calls], [(name, "completed") for name in [CLAUDE_US, CLAUDE, NOVA]])

    def test_without_a_cap_one_is_set_and_an_arn_is_a_model(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        client.converse(modelId=NOVA, messages=HELLO)
        client.converse(modelId=PROFILE, messages=HELLO, inferenceConfig={"temperature": 0.5})
        calls = stack.calls(2)
        self.assertEqual([call.model for call in calls], [NOVA, PROFILE])
        self.assertEqual(sum(call.cost for call in calls), stack.bill().cost)

    def test_a_stream_has_every_event_and_costs_what_the_whole_answer_costs(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        whole = client.converse(modelId=CLAUDE_US, messages=HELLO, inferenceConfig={"maxTokens": 200})
        events = list(client.converse_stream(modelId=CLAUDE_US, messages=HELLO, inferenceConfig={"maxTokens": 200})["stream"])
        names = [next(iter(event)) for event in events]
        self.assertEqual((names[0], names[-3:]), ("messageStart", ["contentBlockStop", "messageStop", "metadata"]))
        text = "".join(event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event)
        self.assertEqual(text, whole["output"]["message"]["content"][0]["text"])
        self.assertEqual(events[-1]["metadata"]["usage"], whole["usage"])
        first, second = stack.assert_agrees(calls=2)
        self.assertEqual(first.cost, second.cost)

    def test_a_cached_prompt_is_charged_as_it_is_billed(self) -> None:
        stack = self.stack()
        client = self.client(stack)

        def ask(ttl: str, text: str) -> dict[str, Any]:
            system = [{"text": text}, {"cachePoint": {"type": "default", "ttl": ttl}}]
            return client.converse(modelId=CLAUDE_US, system=system, messages=HELLO, inferenceConfig={"maxTokens": 200})["usage"]

        self.assertEqual([detail["ttl"] for detail in ask("1h", LONG)["cacheDetails"]], ["1h"])
        self.assertGreater(ask("1h", LONG)["cacheReadInputTokens"], 1_000)
        ask("5m", "Other. " + LONG)
        long, read, short = stack.assert_agrees(calls=3)
        self.assertTrue(long.cache_write_long and read.cached_read and short.cache_write)
        self.assertEqual((long.cache_write, read.cache_write_long, short.cache_write_long), (0, 0, 0))

    def test_tools_and_thinking_come_through(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        config = {"tools": [TOOL], "toolChoice": {"tool": {"name": "grep"}}}
        answer = client.converse(modelId=CLAUDE, messages=HELLO, toolConfig=config, inferenceConfig={"maxTokens": 300})
        self.assertEqual(answer["stopReason"], "tool_use")
        thinking = {"thinking": {"type": "enabled", "budget_tokens": 1_024}}
        stream = client.converse_stream(modelId=CLAUDE, messages=HELLO, inferenceConfig={"maxTokens": 2_000}, additionalModelRequestFields=thinking)
        self.assertTrue(any("reasoningContent" in event.get("contentBlockDelta", {}).get("delta", {}) for event in stream["stream"]))
        stack.assert_agrees(calls=2)

    def test_a_stream_that_breaks_off_is_charged_no_less_than_it_is_billed(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "CutStream", "afterTokens": 6}])
        with self.assertRaises(Exception):
            list(self.client(stack).converse_stream(modelId=CLAUDE, messages=HELLO, inferenceConfig={"maxTokens": 200})["stream"])
        [call] = stack.calls(1)
        self.assertEqual(call.outcome, "interrupted")
        self.assertGreaterEqual(call.cost, stack.bill().cost)

    def test_a_failure_within_a_stream_is_raised_and_charged_no_less_than_it_is_billed(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        stack.faults([{"kind": "FailStream", "afterTokens": 6}])
        with self.assertRaises(EventStreamError):
            list(client.converse_stream(modelId=CLAUDE, messages=HELLO, inferenceConfig={"maxTokens": 200})["stream"])
        with self.assertRaises(EventStreamError):
            list(client.invoke_model_with_response_stream(modelId=CLAUDE, body=claude_body())["body"])
        calls = stack.calls(2)
        self.assertEqual({call.outcome for call in calls}, {"interrupted"})
        self.assertGreaterEqual(sum(call.cost for call in calls), stack.bill().cost)

    def test_an_answer_that_says_nothing_of_usage_is_charged_as_reserved(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        stack.faults([{"kind": "NoUsage"}])
        client.converse(modelId=CLAUDE, messages=HELLO, inferenceConfig={"maxTokens": 200})
        list(client.converse_stream(modelId=CLAUDE, messages=HELLO, inferenceConfig={"maxTokens": 200})["stream"])
        client.invoke_model(modelId=MISTRAL, body=json.dumps({"prompt": "Hi.", "max_tokens": 50}))["body"].read()
        calls = stack.calls(3)
        self.assertEqual([call.output for call in calls], [200, 200, 50])
        self.assertGreaterEqual(sum(call.cost for call in calls), stack.bill().cost)

    def test_the_providers_own_errors_come_through_and_are_retried(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "Status429", "times": 1}])
        client = self.client(stack)
        sent = self.posts(client)
        client.converse(modelId=NOVA, messages=HELLO)
        self.assertEqual(len(sent), 2)
        with self.assertRaises(ClientError) as raised:
            client.converse(modelId=NOVA, messages=[{"role": "user", "content": [{"text": "x"}]}], inferenceConfig={"maxTokens": 1}, system=[{"text": "y " * 400_000}])
        self.assertEqual(raised.exception.response["Error"]["Code"], "ValidationException")


class InvokeModel(Case):
    def test_each_makers_answer_is_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        nova = json.dumps({"messages": HELLO, "inferenceConfig": {"max_new_tokens": 200}})
        for name, body in [(CLAUDE, claude_body()), (NOVA, nova), (MISTRAL, json.dumps({"prompt": "<s>[INST] Say hello. [/INST]"})), (TITAN, json.dumps({"inputText": "hello there"}))]:
            answer = json.loads(client.invoke_model(modelId=name, body=body)["body"].read())
            self.assertTrue(answer.keys() & {"content", "output", "outputs", "embedding"}, answer.keys())
        calls = stack.assert_agrees(calls=4)
        self.assertEqual({call.outcome for call in calls}, {"completed"})
        self.assertEqual(calls[3].output, 0)

    def test_each_makers_stream_is_billed_and_charged_alike(self) -> None:
        stack = self.stack()
        client = self.client(stack)
        nova = json.dumps({"messages": HELLO, "inferenceConfig": {"maxTokens": 200}})
        cached = claude_body(system=[{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}])
        for name, body in [(CLAUDE_US, claude_body()), (CLAUDE, cached), (CLAUDE, cached), (NOVA, nova), (MISTRAL, json.dumps({"prompt": "[INST] Hi [/INST]", "max_tokens": 60}))]:
            events = list(client.invoke_model_with_response_stream(modelId=name, body=body)["body"])
            last = json.loads(events[-1]["chunk"]["bytes"])
            self.assertIn("amazon-bedrock-invocationMetrics", last)
        calls = stack.assert_agrees(calls=5)
        self.assertEqual({call.outcome for call in calls}, {"completed"})
        self.assertTrue(calls[1].cache_write_long and calls[2].cached_read)

    def test_a_guardrail_is_not_let_through_unpriced(self) -> None:
        stack = self.stack()
        with self.assertRaises(ClientError) as raised:
            self.client(stack).invoke_model(modelId=CLAUDE, body=claude_body(), guardrailIdentifier="g1", guardrailVersion="1")
        self.assertEqual(raised.exception.response["Error"]["Code"], "AccessDeniedException")
        self.assertIn("a guardrail", raised.exception.response["Error"]["Message"])
        self.assertEqual(stack.bill().total.calls, 0)


class Refusals(Case):
    def test_a_refusal_is_raised_with_its_words_and_never_retried(self) -> None:
        stack = self.stack(bedrock([budget(usd="0.000001")]))
        for mode in ["legacy", "standard", "adaptive"]:
            client = self.client(stack, mode, attempts=5)
            sent = self.posts(client)
            for call in [
                lambda c=client: c.converse(modelId=CLAUDE, messages=HELLO),
                lambda c=client: c.converse_stream(modelId=CLAUDE, messages=HELLO),
                lambda c=client: c.invoke_model(modelId=CLAUDE, body=claude_body()),
                lambda c=client: c.invoke_model_with_response_stream(modelId=CLAUDE, body=claude_body()),
            ]:
                sent.clear()
                with self.assertRaises(client.exceptions.ServiceQuotaExceededException) as raised:
                    call()
                self.assertEqual(len(sent), 1, mode)
                error = raised.exception.response["Error"]
                self.assertEqual(error["Code"], "ServiceQuotaExceededException")
                self.assertIn("Spendkeeper: this call does not fit: budget default/all", error["Message"])
        self.assertEqual(stack.bill().total.calls, 0)

    def test_a_signature_of_the_apps_own_is_refused_by_name_and_a_key_of_its_own_goes_through(self) -> None:
        stack = self.stack(bedrock(key=None))
        client = self.client(stack)
        sent = self.posts(client)
        with self.assertRaises(ClientError) as raised:
            client.converse(modelId=CLAUDE, messages=HELLO)
        self.assertIn("cannot be passed on to backend bedrock", raised.exception.response["Error"]["Message"])
        self.assertEqual(len(sent), 1)
        # botocore sends an API key over TLS only, so here the call is written by hand.
        path = f"/model/{urllib.parse.quote(CLAUDE, safe='')}/converse"
        key = {"authorization": f"Bearer {PROVIDER_KEY}", "content-type": "application/json"}
        asked = urllib.request.Request(stack.url + path, json.dumps({"messages": HELLO}).encode(), key)
        with urllib.request.urlopen(asked) as answer:
            self.assertEqual(answer.status, 200)
        stack.assert_agrees(calls=1)

    def test_an_api_key_in_the_secret_goes_as_a_bearer_token(self) -> None:
        stack = self.stack(bedrock(key=PROVIDER_KEY))
        self.client(stack).converse(modelId=CLAUDE, messages=HELLO)
        stack.assert_agrees(calls=1)


class Signatures(Case):
    """What arrives is signed anew by botocore, and compared."""

    def test_what_arrives_has_the_signature_that_amazons_own_client_makes_of_it(self) -> None:
        seen: list[tuple[str, dict[str, str], bytes]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                body = self.rfile.read(int(self.headers["content-length"]))
                seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                answer = json.dumps({"output": {"message": {"role": "assistant", "content": []}}, "stopReason": "end_turn",
                                     "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}, "metrics": {"latencyMs": 1}}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        server = self.enterContext(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        url = f"http://127.0.0.1:{server.server_address[1]}"
        stack = self.stack(bedrock(endpoint=url))
        client = self.client(stack)
        client.converse(modelId=PROFILE, messages=[{"role": "user", "content": [{"text": "Grüße, 世界"}]}])
        client.converse(modelId=CLAUDE, messages=HELLO, inferenceConfig={"maxTokens": 5})
        client.invoke_model(modelId=CLAUDE, body=claude_body(), performanceConfigLatency="standard", serviceTier="default")
        self.assertEqual(len(seen), 3)
        for path, headers, body in seen:
            self.assertNotIn("placeholder", str(headers))
            scope = headers["authorization"]
            self.assertIn("/eu-west-1/bedrock/aws4_request", scope)
            signed = scope.split("SignedHeaders=")[1].split(",")[0].split(";")
            self.assertLessEqual({"host", "x-amz-date", "x-amz-security-token"}, set(signed))
            again = AWSRequest("POST", url + path, data=body, headers={name: headers[name] for name in signed if not name.startswith("x-amz-")})
            at = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
            keys = json.loads(KEYS)
            with mock.patch("botocore.auth.get_current_datetime", return_value=at):
                botocore.auth.SigV4Auth(Credentials(keys["accessKeyId"], keys["secretAccessKey"], keys["sessionToken"]), "bedrock", "eu-west-1").add_auth(again)
            self.assertEqual(scope, again.headers["Authorization"], path)


if __name__ == "__main__":
    unittest.main()
