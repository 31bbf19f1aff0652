import random
import re
import sys
import unittest
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import coding_tasks
import tickets

TICKET = tickets.Ticket("T-000001", "Where is my order A-20418?", "easy")


def size(messages: list) -> int:
    return sum(tickets.tokens(message["content"]) for message in messages)


class TicketPrompt(unittest.TestCase):
    def test_has_about_as_many_tokens_as_asked(self) -> None:
        rng = random.Random(1)
        for number in range(500):
            asked = rng.randrange(250, 6_000)
            messages = tickets.compose(tickets.next_ticket(number, rng), ["A passage. " * 20] * 3, asked, 100, rng)
            self.assertAlmostEqual(size(messages), asked, delta=50)

    def test_of_few_tokens_is_the_question_alone(self) -> None:
        messages = tickets.compose(TICKET, ["A passage."], 10, 100, random.Random(1))
        self.assertEqual([message["role"] for message in messages], ["user"])

    def test_ends_with_the_question_and_the_length_of_the_answer(self) -> None:
        messages = tickets.compose(TICKET, [], 2_000, 100, random.Random(1))
        self.assertEqual(messages[-1]["content"], f"{TICKET.question}\nPlease answer in about 75 words.")
        self.assertEqual(len(re.findall(r"about \d+ words", str(messages))), 1)

    def test_holds_what_was_found(self) -> None:
        messages = tickets.compose(TICKET, ["Orders leave on Mondays."], 2_000, 100, random.Random(1))
        self.assertIn("Orders leave on Mondays.", messages[0]["content"])

    def test_leaves_no_slot_empty(self) -> None:
        rng = random.Random(1)
        for number in range(500):
            self.assertNotRegex(str(tickets.compose(tickets.next_ticket(number, rng), [], 1_000, 100, rng)), r"\{[a-z]+\}")


class Tickets(unittest.TestCase):
    def setUp(self) -> None:
        rng = random.Random(1)
        self.tickets = [tickets.next_ticket(number, rng) for number in range(5_000)]

    def test_are_mostly_easy(self) -> None:
        efforts = Counter(ticket.effort for ticket in self.tickets)
        self.assertAlmostEqual(efforts["easy"] / 5_000, 0.78, delta=0.03)
        self.assertGreater(efforts["hard"], 200)

    def test_are_sensitive_now_and_then(self) -> None:
        for sensitive in (r"@example\.", r"\bcard \d{4} "):
            share = sum(bool(re.search(sensitive, ticket.question)) for ticket in self.tickets) / 5_000
            self.assertTrue(0.005 < share < 0.06, f"{sensitive}: {share}")


class CodingTasks(unittest.TestCase):
    def test_range_from_trivial_to_hard_and_say_how_long_the_answer_is(self) -> None:
        rng = random.Random(1)
        for task in coding_tasks.TASKS:
            self.assertEqual(len(re.findall(rf"about {task.words} words", task.message(rng))), 1)
        self.assertLess(min(task.words for task in coding_tasks.TASKS), 30)
        self.assertGreater(max(task.words for task in coding_tasks.TASKS), 250)

    def test_have_a_system_prompt_that_can_be_cached(self) -> None:
        plain, found = coding_tasks.system_prompt([]), coding_tasks.system_prompt(["A passage."])
        self.assertEqual(plain[0], found[0])
        self.assertIn("cache_control", plain[0])
        self.assertGreater(tickets.tokens(plain[0]["text"]), 1_024)

    def test_have_tools_that_answer_whatever_the_model_asks(self) -> None:
        for tool in coding_tasks.tools():
            self.assertIn("cart.py", coding_tasks.use_tool(tool["name"], {"subject": "cart.py"}))
            self.assertIn("path", coding_tasks.use_tool(tool["name"], {"path": 1}))
        self.assertEqual(coding_tasks.use_tool("rm", None), "there is no tool rm")


if __name__ == "__main__":
    unittest.main()
