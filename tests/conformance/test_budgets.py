"""What a budget lets through: overspending and phantom holds that users of other gateways reported, each a promise that is kept here."""

import contextlib
import http.client
import signal
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from calls import BOTH, CHAT, LONG_ANSWER, MESSAGES, Case, asked, at_once, open_call, post, read
from harness import USD, Stack, backend, budget, model, policy, request, until


def spend_all(stack: Stack, work: Callable[[int, int], tuple[str, dict[str, Any]]], threads: int = 64, patience: int = 400) -> None:
    """Agents that call until they are refused, all at once; then one alone, which takes what they have left."""

    def agent(index: int) -> None:
        for turn in range(patience):
            path, body = work(index, turn)
            connection, answer = open_call(stack, path, body)
            answer.read()
            connection.close()
            if answer.status != 200:
                return

    at_once(threads, agent)
    stack.settle()
    agent(threads)
    stack.settle()


class Concurrency(Case):
    def test_sixty_four_agents_at_once_never_bill_more_than_the_budget(self) -> None:
        """LiteLLM #26672, #23714; Envoy AI Gateway #680, #2394; bifrost #3547: checked before, charged after, overspent between."""
        stack = self.stack(policy([budget(usd="0.50")]))

        def work(index: int, turn: int) -> tuple[str, dict[str, Any]]:
            path = BOTH[index % 2]
            return path, asked(path, f"{index}.{turn}", stream=index % 3 == 0)

        spend_all(stack, work)
        stack.assert_agrees()
        self.assertLessEqual(stack.bill().cost, USD // 2)
        self.assertGreaterEqual(stack.bill().cost, USD // 2 * 9 // 10)
        self.assertGreater(stack.bill().total.max_in_flight, 8)
        stack.assert_nothing_held()
        self.assertEqual(stack.settled(), stack.bill().cost)

    def test_nor_with_cache_writes_several_answers_and_reasoning(self) -> None:
        """LiteLLM reserves too little for tiers, cache writes and reasoning, so that a budget can be overspent twofold."""
        stack = self.stack(policy([budget(usd="0.60")]))

        def work(index: int, turn: int) -> tuple[str, dict[str, Any]]:
            if index % 2:
                system = [
                    {"type": "text", "text": f"{index}.{turn}" + "Be kind. " * 700, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
                ]
                return MESSAGES, asked(MESSAGES, system=system, cap=100)
            return CHAT, asked(CHAT, f"{index}.{turn}", n=3, reasoning_effort="high", cap=600)

        spend_all(stack, work, threads=32)
        stack.assert_agrees()
        self.assertLessEqual(stack.bill().cost, USD * 6 // 10)
        self.assertGreaterEqual(stack.bill().cost, USD * 6 // 10 * 8 // 10)

    def test_nor_when_callers_leave_and_the_provider_breaks(self) -> None:
        """LiteLLM #30460: the counter says $50, the database $14."""
        stack = self.stack(policy([budget(usd="0.40")]), tokens_per_second=20_000)
        stack.faults([{"kind": "Status500", "every": 7}, {"kind": "CutStream", "every": 11}, {"kind": "Status429", "every": 5}])

        def agent(index: int) -> None:
            for turn in range(12):
                path = BOTH[index % 2]
                body = asked(path, f"{index}.{turn}", stream=turn % 2 == 0)
                connection, answer = open_call(stack, path, body)
                if turn % 4 == 0 and answer.status == 200:
                    answer.readline()
                    answer.close()
                else:
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        answer.read()
                connection.close()

        at_once(48, agent)
        calls = stack.calls()
        charged = sum(call.cost for call in calls)
        self.assertLessEqual(charged, USD * 4 // 10)
        self.assertLessEqual(stack.bill().cost, charged)
        self.assertEqual(stack.settled(), charged)
        stack.assert_nothing_held()

    def test_a_limit_for_each_session_holds_for_its_very_first_calls(self) -> None:
        """LiteLLM #34732 (sessions under concurrency), #40095 (the first calls of an unknown user pass)."""
        told = policy([budget("sessions", usd="0.02", splitBy="session")])
        stack = self.stack(told)

        def call(index: int) -> int:
            return post(stack, CHAT, asked(CHAT, str(index), user=f"s{index % 4}"), {"x-spend-session": f"s{index % 4}"})[0]

        statuses = at_once(64, call)
        self.assertIn(429, statuses)
        calls, bill = stack.calls(), stack.bill()
        for session in ("s0", "s1", "s2", "s3"):
            mine = sum(row.cost for row in calls if row.session == session)
            self.assertEqual(mine, bill.by_label[session].cost)
            self.assertTrue(0 < mine <= USD // 50, mine)
            self.assertEqual(stack.settled(f"default/sessions/total={session}"), mine)

    def test_limits_of_requests_and_tokens_count_what_there_was(self) -> None:
        """wso2 api-platform #2932 (a token limit that falls by one a request), #2936 (spend that never accumulates)."""
        stack = self.stack(policy([budget(requests=10)]))
        statuses = at_once(40, lambda i: post(stack, CHAT, asked(CHAT, str(i)))[0])
        self.assertEqual(statuses.count(200), 10)
        self.assertEqual((stack.settle(), stack.settled(), stack.bill().total.calls), (None, 10, 10))
        stack = self.stack(policy([budget(tokens=20_000)]))
        spend_all(stack, lambda index, turn: (CHAT, asked(CHAT, f"{index}.{turn}")), threads=16)
        total = stack.bill().total
        self.assertEqual(stack.settled(), total.input + total.output)
        self.assertTrue(15_000 <= total.input + total.output <= 20_000)


class Budgets(Case):
    def test_fractions_of_a_cent_add_up(self) -> None:
        """Kong 3.12 took whole numbers off a budget; floats drift by cents (LiteLLM #36926)."""
        stack = self.stack(policy([budget(usd="0.01")]))
        at_once(8, lambda i: [post(stack, CHAT, asked(CHAT, f"{i}.{turn}", cap=3) | {"model": "gpt-5-nano"}) for turn in range(40)])
        stack.assert_agrees(calls=320)
        self.assertEqual(stack.settled(), stack.bill().cost)
        self.assertLess(stack.bill().cost, USD // 1_000)
        self.assert_remaining(stack, Decimal("0.01"))

    def test_every_budget_that_matches_is_charged_and_each_can_refuse(self) -> None:
        """agentgateway #3302: a team's own budget and one that teams share."""
        team = budget("team", usd="0.005", scope={"teams": ["red"]})
        stack = self.stack(policy([budget("shared", usd="0.50"), team]))
        statuses = {
            name: [post(stack, CHAT, asked(CHAT, f"{name} {i}"), {"x-spend-team": name})[0] for i in range(4)] for name in ("red", "blue")
        }
        self.assertEqual(statuses["blue"], [200] * 4)
        self.assertIn(429, statuses["red"])
        stack.assert_agrees()
        self.assertEqual(stack.settled("default/shared/total"), stack.bill().cost)
        self.assertTrue(0 < stack.settled("default/team/total") <= USD // 200)

    def test_a_model_without_a_price_is_refused_and_not_let_through_unreserved(self) -> None:
        """LiteLLM #35524: no price, no reservation."""
        own = backend("own", "OpenAI", [model("nobody-knows-it", contextWindow=8_000, maxOutput=1_000)])
        stack = self.stack(policy([budget(usd="1.00")], [own]))
        status, headers, _ = post(stack, CHAT, asked(CHAT) | {"model": "nobody-knows-it"})
        self.assertEqual((status, headers["x-spend-refusal"]), (403, "spendkeeper_unpriced_model"))
        self.assertEqual(stack.bill().total.calls, 0)

    def test_a_call_without_a_cap_does_not_starve_a_small_budget_that_fits(self) -> None:
        """LiteLLM #38647: 16,384 tokens reserved for each call, and small budgets are refused untouched."""
        stack = self.stack(policy([budget(usd="0.02", enforcement="Fit")]))
        body = asked(CHAT)
        del body["max_completion_tokens"]
        self.assertEqual(post(stack, CHAT, body)[0], 200)
        stack.assert_agrees(calls=1)
        self.assertLessEqual(stack.bill().cost, USD // 50)

    def test_a_refused_call_reaches_nobody_and_leaves_the_rest_usable(self) -> None:
        """agentgateway lets "at least 1 token" through, and the call that crosses the limit completes."""
        stack = self.stack(policy([budget(usd="0.01")]))
        for _ in range(5):
            self.assertEqual(post(stack, CHAT, asked(CHAT, cap=100_000))[0], 429)
        self.assertEqual(stack.bill().total.calls, 0)
        self.assertEqual(post(stack, CHAT, asked(CHAT, cap=900))[0], 200)
        stack.assert_agrees(calls=1)

    def test_a_budget_that_only_warns_still_counts(self) -> None:
        stack = self.stack(policy([budget(usd="0.0001", enforcement="Warn")]))
        for path in BOTH:
            self.assertEqual(post(stack, path, asked(path))[0], 200)
        stack.assert_agrees(calls=2)
        self.assertEqual(stack.settled(), stack.bill().cost)

    def test_asking_what_there_is_costs_nothing(self) -> None:
        stack = self.stack()
        for _ in range(3):
            request("GET", stack.url + "/v1/models")
        self.assertEqual((stack.rows(), stack.bill().cost), ([], 0))


class Restarts(Case):
    def test_what_was_spent_is_still_spent_after_a_restart(self) -> None:
        """LiteLLM #30039, #30684: counters lost at a reload, and budgets no longer enforced; #27735 (stale spend)."""
        stack = self.stack(policy([budget(usd="0.02")]))
        while post(stack, CHAT, asked(CHAT))[0] == 200:
            pass
        stack.settle()
        for how in (signal.SIGTERM, signal.SIGKILL):
            stack.stop_sidecar(how)
            stack.start_sidecar()
            self.assertEqual(post(stack, CHAT, asked(CHAT))[0], 429)
        stack.assert_agrees()
        self.assertLessEqual(stack.bill().cost, USD // 50)

    def test_calls_under_way_when_the_sidecar_is_killed_are_charged_as_reserved_once(self) -> None:
        """LiteLLM: the reservation of a lost process lapses, and what the provider billed is nobody's."""
        stack = self.stack(policy([budget(usd="5.00")]), tokens_per_second=200)
        open_calls = [open_call(stack, BOTH[i % 2], asked(BOTH[i % 2], f"{i} {LONG_ANSWER}", stream=True)) for i in range(10)]
        for _, answer in open_calls:
            answer.readline()
        stack.stop_sidecar(signal.SIGKILL)
        for connection, _ in open_calls:
            connection.close()
        stack.start_sidecar()
        calls = stack.calls(10)
        self.assertEqual({call.outcome for call in calls}, {"unknown"})
        self.assertGreaterEqual(sum(call.cost for call in calls), stack.bill().cost)
        self.assertEqual(stack.settled(), sum(call.cost for call in calls))
        stack.assert_nothing_held()
        self.assert_remaining(stack, Decimal(5))

    def test_calls_under_way_when_it_is_stopped_in_order_come_to_their_end(self) -> None:
        stack = self.stack(policy([budget(usd="5.00")]), tokens_per_second=400)
        texts: list[Any] = []
        reader = threading.Thread(
            target=lambda: texts.extend(at_once(6, lambda i: read(stack, BOTH[i % 2], asked(BOTH[i % 2], stream=True))))
        )
        reader.start()
        until("all calls are at the provider", lambda: stack.bill().total.in_flight == 6)
        stack.stop_sidecar()
        reader.join()
        self.assertTrue(all(b"[DONE]" in text or b"message_stop" in text for text in texts))
        stack.start_sidecar()
        stack.assert_agrees(calls=6)
