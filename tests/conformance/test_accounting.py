"""What a call costs: the accounting failures that users of other gateways reported, each a promise that is kept here.

Every test names the promise; its docstring, where others failed it. What the provider billed is compared with the ledger to the
pico-dollar; where nobody can know the figures, the ledger has the reservation, which is never less, and says so.
"""

import http.client
import json
from decimal import Decimal
from typing import Any

import anthropic
import openai

from calls import BOTH, CAP, CHAT, INPUT, LONG_ANSWER, MESSAGES, Case, asked, at_once, hang_up, leave_after, post, read
from harness import APP_KEY, USD, Policy, anthropic_backend, budget, openai_backend, policy, until


def searches(text: str, ttl: str, *, stream: bool) -> dict[str, Any]:
    """A call with a cached system prompt, whose model searches the web."""
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    system = [{"type": "text", "text": text + "Be kind. " * 1_000, "cache_control": {"type": "ephemeral", "ttl": ttl}}]
    return asked(MESSAGES, stream=stream, tools=[search], system=system)


class HangingUp(Case):
    def test_a_stream_that_its_caller_leaves_is_charged_for_all_that_the_provider_bills(self) -> None:
        """LiteLLM #36008, #37734, #17364; agentgateway charges no output (`AmendOnDrop`); sub2api #4408."""
        stack = self.stack(tokens_per_second=2_000)
        leavings = [(path, events, rudely) for path in BOTH for events in (1, 2, 5, 20) for rudely in (False, True)]
        at_once(
            len(leavings),
            lambda i: leave_after(
                stack, leavings[i][0], asked(leavings[i][0], f"{i} {LONG_ANSWER}", stream=True), leavings[i][1], rudely=leavings[i][2]
            ),
        )
        calls = stack.assert_agrees(calls=len(leavings))
        self.assertEqual({call.outcome for call in calls}, {"completed"})
        self.assertTrue(all(call.output > 100 for call in calls))

    def test_reading_everything_but_the_end_is_not_free(self) -> None:
        """open-ace #3422: read everything, drop before the last chunk."""
        stack = self.stack()
        for path in BOTH:
            body = asked(path, stream=True)
            events = read(stack, path, body).count(b"\n\n")
            for before in (1, 2, 3):
                leave_after(stack, path, body, events - before)
        calls = stack.assert_agrees(calls=8)
        self.assertEqual(len({call.cost for call in calls if call.backend == "openai"}), 1)

    def test_a_caller_that_leaves_before_the_answer_begins_does_not_make_it_free(self) -> None:
        """LiteLLM frees the reserved output when a request is cancelled (`release_budget_reservation_on_cancel`)."""
        stack = self.stack()
        stack.faults([{"kind": "Slow", "delayMs": 500}])
        for path in BOTH:
            for stream in (False, True):
                connection = http.client.HTTPConnection(stack.url.removeprefix("http://"))
                flying = stack.bill().total.calls
                connection.request("POST", path, json.dumps(asked(path, stream=stream)), {"anthropic-version": "2023-06-01"})
                until("the provider has the call", lambda: stack.bill().total.calls > flying)
                hang_up(connection)
        self.assertEqual({call.outcome for call in stack.assert_agrees(calls=4)}, {"completed"})

    def test_a_request_that_never_arrived_whole_costs_nothing(self) -> None:
        stack = self.stack()
        whole = json.dumps(asked(CHAT)).encode()
        connection = http.client.HTTPConnection(stack.url.removeprefix("http://"))
        connection.putrequest("POST", CHAT)
        connection.putheader("content-length", str(len(whole)))
        connection.endheaders()
        connection.send(whole[: len(whole) // 2])
        hang_up(connection)
        post(stack, CHAT, asked(CHAT))
        stack.assert_agrees(calls=1)

    def test_a_crowd_that_leaves_at_once_is_charged_to_the_last_one(self) -> None:
        """LiteLLM reads on for a hundred callers at most (`ANTHROPIC_MESSAGES_MAX_DETACHED_STREAM_DRAINS`)."""
        stack = self.stack(tokens_per_second=1_000)
        at_once(150, lambda i: leave_after(stack, BOTH[i % 2], asked(BOTH[i % 2], f"{i} {LONG_ANSWER}", stream=True), 1, rudely=i % 3 == 0))
        stack.assert_agrees(calls=150)

    def test_the_budget_is_whole_again_after_callers_left(self) -> None:
        """LiteLLM #27639: reservations leak, and budgets are refused that have room."""
        stack = self.stack(policy([budget(usd="2.00")]), tokens_per_second=5_000)
        at_once(40, lambda i: leave_after(stack, CHAT, asked(CHAT, f"{i} {LONG_ANSWER}", stream=True), 2))
        stack.assert_agrees(calls=40)
        stack.assert_nothing_held()
        self.assert_remaining(stack, Decimal(2))


class Streams(Case):
    def test_a_stream_whose_caller_did_not_ask_for_usage_is_charged_exactly(self) -> None:
        """LLMKube #1852: a stream without a usage chunk is charged zero."""
        stack = self.stack()
        shown = read(stack, CHAT, asked(CHAT, stream=True))
        self.assertTrue(shown.endswith(b"data: [DONE]\n\n") and b"prompt_tokens" not in shown)
        self.assertGreater(stack.assert_agrees(calls=1)[0].output, 100)

    def test_a_provider_that_says_nothing_of_usage_is_charged_as_reserved_and_never_zero(self) -> None:
        """LLMKube #1852; agentgateway's budgets do "not charge the request at all"."""
        for path in BOTH:
            for stream in (False, True):
                with self.subTest(path=path, stream=stream):
                    stack = self.stack()
                    stack.faults([{"kind": "NoUsage"}])
                    body = asked(path, stream=stream)
                    self.assertGreater(len(read(stack, path, body)), 100)
                    calls = stack.calls(1)
                    self.assert_covered(stack, calls, path, body)
                    self.assertEqual(calls[0].outcome, "unknown")

    def test_an_explicit_zero_is_a_zero(self) -> None:
        """LiteLLM #37992: an explicit zero is billed by an estimate."""
        stack = self.stack()
        stack.faults([{"kind": "Free"}])
        for path in BOTH:
            for stream in (False, True):
                read(stack, path, asked(path, stream=stream))
        self.assertEqual({(call.outcome, call.cost) for call in stack.assert_agrees(calls=4)}, {("completed", 0)})

    def test_the_final_figures_of_a_stream_hold_and_not_the_first(self) -> None:
        """agentgateway #2977 (final input usage), #1108 (streams of Haiku), #1993 (cache writes)."""
        stack = self.stack()
        client = self.enterContext(anthropic.Anthropic(base_url=stack.url, api_key=APP_KEY))
        for name in ("claude-haiku-4-5", "claude-opus-5"):
            with client.messages.stream(model=name, max_tokens=CAP, messages=[{"role": "user", "content": "About 90 words."}]) as stream:
                usage = stream.get_final_message().usage
            self.assertGreater(usage.output_tokens, 90)
        stack.assert_agrees(calls=2)

    def test_searches_at_the_provider_are_charged_with_what_they_read_and_cached(self) -> None:
        """LiteLLM #42663: streams with server tools are priced by the cache writes of their first event, 20 to 60 % too low."""
        stack = self.stack()
        for stream in (False, True):
            for turn in range(3):
                self.assertIn(b"web_search_requests", read(stack, MESSAGES, searches(f"{stream} {turn}", "1h", stream=stream)))
        calls = stack.assert_agrees(calls=6)
        self.assertTrue(all(call.web_searches >= 1 and call.input > 700 and call.cache_write_long > 1_300 for call in calls))

    def test_tools_at_the_provider_whose_use_nothing_bounds_are_refused_by_name(self) -> None:
        stack = self.stack()
        for tool in ({"type": "web_search_20250305", "name": "web_search"}, {"type": "code_execution_20250825", "name": "code_execution"}):
            status, headers, body = post(stack, MESSAGES, asked(MESSAGES, tools=[tool]))
            self.assertEqual((status, headers["x-spend-refusal"]), (403, "spendkeeper_unpriced_model"))
            self.assertIn(tool["name"], body.decode().replace(" ", "_"))
        self.assertEqual(stack.bill().total.calls, 0)

    def test_cache_writes_whose_time_to_live_nobody_says_are_not_charged_too_low(self) -> None:
        """LiteLLM #42663, with marks of five minutes: the remainder has no split, and is charged as the dearer one."""
        stack = self.stack()
        read(stack, MESSAGES, searches("once", "5m", stream=True))
        [call], bill = stack.calls(1), stack.bill().total
        self.assertEqual((call.cache_write + call.cache_write_long, call.output), (bill.cache_write, bill.output))
        # The 300 tokens that each search has added: two input prices each instead of five quarters.
        self.assertEqual(call.cost - bill.cost, call.web_searches * 300 * (10_000_000 - 6_250_000))


class Broken(Case):
    def test_a_stream_that_is_cut_is_charged_as_reserved_and_marked(self) -> None:
        """bifrost's `accounting_test.go`; LiteLLM #37734: partial streams without a price."""
        for path in BOTH:
            for kind in ("CutStream", "EndStream", "FailStream"):
                for after in (0, 7, 100_000):
                    with self.subTest(path=path, kind=kind, after=after):
                        stack = self.stack()
                        stack.faults([{"kind": kind, "afterTokens": after}])
                        body = asked(path, stream=True)
                        read(stack, path, body)
                        calls = stack.calls(1)
                        self.assert_covered(stack, calls, path, body)
                        self.assertEqual(calls[0].outcome, "interrupted")

    def test_an_error_within_a_stream_that_began_well_reaches_the_app_and_is_not_free(self) -> None:
        """A 200 that fails midway is billed."""
        stack = self.stack()
        stack.faults([{"kind": "FailStream", "afterTokens": 12}])
        chat = self.enterContext(openai.OpenAI(base_url=stack.url + "/v1", api_key=APP_KEY))
        with self.assertRaises(openai.APIError):
            list(chat.chat.completions.create(**asked(CHAT, stream=True)))
        messages = self.enterContext(anthropic.Anthropic(base_url=stack.url, api_key=APP_KEY))
        with self.assertRaises(anthropic.APIStatusError):
            list(messages.messages.create(**asked(MESSAGES, stream=True)))
        calls = stack.calls(2)
        self.assertEqual({call.outcome for call in calls}, {"interrupted"})
        self.assertGreaterEqual(sum(call.cost for call in calls), stack.bill().cost)

    def test_an_answer_in_one_piece_that_breaks_off_is_charged_as_reserved(self) -> None:
        for path in BOTH:
            stack = self.stack()
            stack.faults([{"kind": "CutStream", "afterTokens": 20}])
            status, _, _ = post(stack, path, asked(path))
            self.assertEqual(status, 502)
            self.assert_covered(stack, stack.calls(1), path, asked(path))

    def test_errors_cost_nothing_and_leave_nothing_reserved(self) -> None:
        """LiteLLM #38647: failed calls fill a $25 budget while the log shows $0."""
        stack = self.stack(policy([budget(usd="0.05")]))
        for kind in ("Status429", "Status500", "Status529"):
            stack.faults([{"kind": kind}])
            for path in BOTH:
                for _ in range(10):
                    self.assertGreaterEqual(post(stack, path, asked(path))[0], 429)
        stack.faults([])
        stack.assert_agrees(calls=60)
        self.assertEqual(stack.settled(), 0)
        self.assert_remaining(stack, Decimal("0.05"))

    def test_a_call_that_is_never_answered_is_charged_as_reserved(self) -> None:
        stack = self.stack(sidecar_arguments=["--answer-seconds", "1"])
        stack.faults([{"kind": "Hang"}])
        for path in BOTH:
            status, _, body = post(stack, path, asked(path))
            self.assertEqual(status, 502, body)
            self.assertIn(b"within 1 s", body)
        calls = stack.calls(2)
        self.assertEqual({call.outcome for call in calls}, {"unknown"})
        self.assertGreaterEqual(sum(call.cost for call in calls), stack.bill().cost)

    def test_a_caller_that_hangs_up_on_a_hung_call_leaves_no_hold_behind(self) -> None:
        """LiteLLM #36926, #40050: budgets enforced at twice what was spent."""
        stack = self.stack(policy([budget(usd="1.00")]), sidecar_arguments=["--answer-seconds", "4"])
        stack.faults([{"kind": "Hang", "times": 4}])
        client = openai.OpenAI(base_url=stack.url + "/v1", api_key=APP_KEY, timeout=1, max_retries=1)
        for _ in range(2):
            with self.assertRaises(openai.APITimeoutError):
                client.chat.completions.create(**asked(CHAT))
        calls = stack.calls(4)
        self.assertEqual({call.outcome for call in calls}, {"unknown"})
        stack.assert_nothing_held()
        self.assertEqual(stack.settled(), sum(call.cost for call in calls))
        self.assert_remaining(stack, Decimal(1))


class Attempts(Case):
    def told(self) -> Policy:
        return policy([budget(usd="5.00")], [openai_backend()], fallback={"attempts": 2})

    def test_each_attempt_is_a_call_of_its_own_and_only_the_answered_one_costs(self) -> None:
        """bifrost's `accounting_test.go`: each physical attempt of a retry."""
        stack = self.stack(self.told())
        stack.faults([{"kind": "Status500", "model": "gpt-5"}, {"kind": "Status429", "model": "gpt-5-nano"}])
        for stream in (False, True):
            self.assertTrue(read(stack, CHAT, asked(CHAT, stream=stream)))
        calls = stack.assert_agrees(calls=6)
        self.assertEqual(sorted(call.outcome for call in calls), ["completed"] * 2 + ["failed"] * 4)
        self.assertEqual({call.requested_model for call in calls}, {"gpt-5"})

    def test_an_attempt_that_may_have_been_billed_is_charged_beside_the_one_that_answered(self) -> None:
        stack = self.stack(self.told(), sidecar_arguments=["--answer-seconds", "1"])
        stack.faults([{"kind": "Hang", "model": "gpt-5"}])
        self.assertEqual(post(stack, CHAT, asked(CHAT))[0], 200)
        hung, answered = stack.calls(2)
        bill = stack.bill().by_model
        self.assertEqual((hung.model, hung.outcome, answered.outcome), ("gpt-5", "unknown", "completed"))
        self.assertGreaterEqual(hung.cost, bill["gpt-5"].cost)
        self.assertEqual(answered.cost, bill[answered.model].cost)

    def test_what_an_sdk_sends_again_is_charged_as_often_as_it_is_billed(self) -> None:
        stack = self.stack()
        stack.faults([{"kind": "Slow", "delayMs": 2_500, "times": 2}])
        client = openai.OpenAI(base_url=stack.url + "/v1", api_key=APP_KEY, timeout=1, max_retries=2)
        self.assertTrue(client.chat.completions.create(**asked(CHAT)).choices)
        calls = stack.assert_agrees(calls=3)
        self.assertEqual([call.outcome for call in calls], ["completed"] * 3)
        self.assertEqual(len({call.id for call in calls}), 3)


class Cached(Case):
    def test_cached_tokens_are_counted_once_and_at_their_own_price(self) -> None:
        """LiteLLM #25517 (counted twice), #29145 (billed $0), #11789, #9812, #11364, #5443; Helicone leaves them out."""
        stack = self.stack()
        for stream in (False, True):
            for turn in range(3):
                prompt = f"{stream} " + "Be kind. " * 1_500
                chat = asked(CHAT, f"Turn {turn}", stream=stream, cap=20)
                chat["messages"].insert(0, {"role": "system", "content": prompt})
                read(stack, CHAT, chat)
                system = [{"type": "text", "text": prompt, "cache_control": {"type": "ephemeral"}}]
                read(stack, MESSAGES, asked(MESSAGES, f"Turn {turn}", stream=stream, cap=20, system=system))
        calls = stack.assert_agrees(calls=12)
        self.assertEqual(sum(call.cached_read > 0 for call in calls), 8)
        self.assertEqual(sum(call.cache_write > 0 for call in calls), 2)

    def test_an_hour_in_the_cache_is_reserved_and_charged_at_twice_the_price(self) -> None:
        """LiteLLM reserves $0.31 for a call of $0.61: its estimate knows no cache writes."""
        text = "Be kind. " * 4_000
        body = asked(MESSAGES, cap=10, system=[{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": "1h"}}])
        stack = self.stack()
        read(stack, MESSAGES, body)
        [call] = stack.assert_agrees(calls=1)
        self.assertGreater(call.cost, call.all_input * 2 * INPUT[MESSAGES] * 99 // 100)
        # A budget of less than it costs never lets it through.
        tight = self.stack(policy([budget(usd=str(Decimal(call.cost - 1) / USD))]))
        self.assertEqual(post(tight, MESSAGES, body)[0], 429)
        self.assertEqual(tight.bill().total.calls, 0)


class Prices(Case):
    def test_the_price_of_each_model_is_the_vendors(self) -> None:
        """LiteLLM #8514: $26.74 in the gateway, $770 on the bill."""
        stack = self.stack()
        for made in (openai_backend(), anthropic_backend()):
            path = CHAT if made["provider"] == "OpenAI" else MESSAGES
            for offered in made["models"]:
                read(stack, path, asked(path, cap=30) | {"model": offered["name"]})
        stack.assert_agrees(calls=10)
        self.assertEqual(len(stack.bill().by_model), 10)
