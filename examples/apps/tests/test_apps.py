"""The apps with a client that answers from memory. Needs the SDKs of requirements.txt, and no network."""

import asyncio
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import code_assistant
import common
import runaway_agent
import support_bot
import traffic
from tickets import Ticket


def ticket(number: int) -> Ticket:
    return Ticket(f"T-{number:06}", "Where is my order?", "easy")


def openai_client(answer: Callable[..., Any]) -> Any:
    async def create(**request: Any) -> Any:
        return answer(**request)

    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


def completion(text: str | None, finish_reason: str = "stop") -> Any:
    choice = SimpleNamespace(message=SimpleNamespace(content=text), finish_reason=finish_reason)
    return SimpleNamespace(choices=[choice], usage=SimpleNamespace(prompt_tokens=10, completion_tokens=5))


class ResolvedTicket(unittest.TestCase):
    def test_has_an_answer_that_was_neither_cut_off_nor_empty(self) -> None:
        for number in range(100):
            self.assertFalse(support_bot.is_resolved(ticket(number), "It is on its w", "length"))
            self.assertFalse(support_bot.is_resolved(ticket(number), "It is on", None))
            self.assertFalse(support_bot.is_resolved(ticket(number), " \n", "stop"))

    def test_satisfies_four_customers_in_five(self) -> None:
        resolved = sum(support_bot.is_resolved(ticket(number), "It is on its way.", "stop") for number in range(5_000))
        self.assertAlmostEqual(resolved / 5_000, 0.8, delta=0.02)


class SupportBot(unittest.TestCase):
    def test_counts_a_ticket_that_is_refused_as_worked_on_and_not_as_resolved(self) -> None:
        def refuse(**_: Any) -> Any:
            raise ConnectionError("refused")

        bot = support_bot.SupportBot(openai_client(refuse), "m", common.VectorStore(None), common.Tally("t"))
        with self.assertRaises(ConnectionError):
            asyncio.run(bot.handle(ticket(1), traffic.Arrival(0, 500, 50)))
        self.assertEqual((bot.worked_on.value, bot.resolved.value), (1, 0))


class RunawayAgent(unittest.TestCase):
    def agent(self, answer: Callable[..., Any]) -> runaway_agent.Agent:
        return runaway_agent.Agent(openai_client(answer), "m", common.VectorStore(None), common.Tally("t"), number=1)

    def test_talks_to_itself(self) -> None:
        requests: list[dict[str, Any]] = []

        def answer(**request: Any) -> Any:
            requests.append(request)
            return completion(f"Note after {len(requests)} steps.")

        agent = self.agent(answer)
        asyncio.run(agent.step())
        asyncio.run(agent.step())
        self.assertIn("Note after 1 steps.", [message["content"] for message in requests[1]["messages"]])
        self.assertEqual(requests[1]["user"], "runaway-agent")

    def test_tries_a_refused_step_again_as_it_was(self) -> None:
        def refuse(**_: Any) -> Any:
            raise ConnectionError("refused")

        agent = self.agent(refuse)
        before = (agent.steps, agent.last_note)
        with self.assertRaises(ConnectionError):
            asyncio.run(agent.step())
        self.assertEqual((agent.steps, agent.last_note), before)


class CodeAssistant(unittest.TestCase):
    def test_answers_every_tool_that_the_model_uses(self) -> None:
        blocks = [
            SimpleNamespace(type="text", text="Let me look."),
            SimpleNamespace(type="tool_use", id="a", name="read_file", input={"subject": "cart.py"}),
            SimpleNamespace(type="tool_use", id="b", name="unknown", input=None),
        ]
        results = code_assistant.tool_results(SimpleNamespace(content=blocks))  # type: ignore[arg-type]
        self.assertEqual([result["tool_use_id"] for result in results], ["a", "b"])

    def test_must_look_before_its_first_answer_only(self) -> None:
        first = code_assistant.Toolbox(code_assistant.tools(), {"type": "any"})
        self.assertEqual(first.once_used(), code_assistant.Toolbox(first.tools, None))

    def test_counts_what_was_cached_as_input(self) -> None:
        usage = SimpleNamespace(input_tokens=3, cache_read_input_tokens=2_000, cache_creation_input_tokens=None)
        self.assertEqual(code_assistant.input_tokens(SimpleNamespace(usage=usage)), 2_003)  # type: ignore[arg-type]


if __name__ == "__main__":
    unittest.main()
