"""What developers ask a code assistant for, from a rename to a proof, and what the assistant may use to answer.

The last message holds the task and the code that it is about; what the assistant must know comes in the system prompt.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anthropic.types import TextBlockParam, ToolParam


@dataclass(frozen=True)
class Task:
    """A first request, how long an answer to it should be, and how likely it is among others."""

    request: str
    words: int
    weight: int
    code: Sequence[str] = ()
    needs_tools: bool = False

    def message(self, rng: random.Random) -> str:
        asked = f"{self.request} Answer in about {self.words} words."
        return f"{asked}\n\n```python\n{rng.choice(self.code)}```" if self.code else asked


SNIPPETS = [
    "def total(rows):\n    x = 0\n    for row in rows:\n        if row.state != 'cancelled':\n            x += row.amount\n    return x\n",
    "def latest(path):\n    x = sorted(path.glob('*.json'))\n    return json.loads(x[-1].read_text()) if x else None\n",
    "class Cache:\n    def __init__(self):\n        self.lock = Lock()\n        self.x = {}\n\n    def get(self, key, load):\n"
    "        with self.lock:\n            if key not in self.x:\n                self.x[key] = load(key)\n            return self.x[key]\n",
    "async def notify(users, text):\n    for x in users:\n        await send(x.address, text)\n        x.notified = True\n",
    "def parse(line):\n    x = line.strip().split(';')\n    if len(x) < 3:\n        raise ValueError(line)\n    return x[0], int(x[1])\n",
]
ONE_LINERS = [
    "x = sorted(path.glob('*.csv'))\n",
    "x = [row.amount for row in rows]\n",
    "x = users.get(name, 'nobody')\n",
    "x = text.strip().split(';')\n",
]

TASKS = [
    Task("Rename `x` to something that says what it is.", 20, 24, ONE_LINERS),
    Task("Which type has `x`?", 15, 12, ONE_LINERS),
    Task("Write a commit message: the daily report leaves out cancelled orders.", 30, 10),
    Task("How do I undo my last commit and keep the changes?", 40, 8),
    Task("Write a docstring for this.", 40, 12, SNIPPETS),
    Task("Add type hints.", 80, 10, SNIPPETS),
    Task("Rewrite the loop as a comprehension.", 50, 4, SNIPPETS),
    Task("Where else is this called? Look before you answer.", 60, 6, SNIPPETS, needs_tools=True),
    Task("Write a unit test that covers the empty input, and one that must raise an exception.", 150, 5, SNIPPETS),
    Task("The test of this fails on CI but not here. Find out why, and explain what to change.", 150, 4, SNIPPETS, needs_tools=True),
    Task(
        "Refactor this module so that storage and rules are apart. Design the interface first, explain why each function belongs "
        "where you put it, and compare it with at least one other design.",
        260,
        3,
        SNIPPETS,
    ),
    Task(
        "Two threads may call this at the same time. Prove that it can deadlock, or that it cannot; then redesign it without the "
        "lock, derive its complexity and justify each tradeoff.",
        300,
        2,
        SNIPPETS,
        needs_tools=True,
    ),
]

FOLLOW_UPS = [
    "Shorter, please.",
    "Thanks. The same for the other one?",
    "And a comment that says so.",
    "Why not with a dataclass?",
    "Good. Show the diff only.",
]

CONVENTIONS = [
    "A function does one thing, and its name says which. If it needs the word `and`, it is two functions.",
    "Public functions have type hints and a docstring; the docstring says why the function exists, not how it works.",
    "Errors are raised where they are found, with a message that names the value; they are handled where something can be done.",
    "A test is named after the promise that it keeps. It has no branches and no loops, and does not sleep.",
    "Time, randomness and identifiers are arguments, so that a test can choose them.",
    "Modules depend on the domain, and the domain depends on nothing. An import that breaks this is a finding.",
    "Shared state is guarded by one lock, whose name says what it guards; no call leaves the module while it is held.",
    "Database access is confined to `storage`; queries are parameterised, and each has a test against a real database.",
    "A change of behaviour comes with its test in the same commit. A refactoring has no change of behaviour.",
    "Comments say why, give a source, or warn. Code that needs a comment to be understood is rewritten.",
    "Logs are one line each and carry no personal data. A metric is named after what it counts, with its unit.",
    "Answer with code first and at most a paragraph after it. Do not repeat code that stays as it is.",
]
PACKAGES = ["orders", "billing", "shipping", "catalogue", "accounts", "notifications", "reports", "storage"]


def system_prompt(found: list[str]) -> "list[TextBlockParam]":
    """Instructions as large as such assistants have them, always the same and marked as worth caching; then what was looked up."""
    areas = "\n".join(f"- `{package}`: {rule}" for package in PACKAGES for rule in CONVENTIONS)
    text = f"You are the code assistant of a team that maintains a web shop in Python. Its conventions, by package:\n{areas}"
    prompt: list[TextBlockParam] = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    if found:
        prompt.append({"type": "text", "text": "\n".join(["From the handbook:", *found])})
    return prompt


def choose_task(rng: random.Random) -> Task:
    return rng.choices(TASKS, [task.weight for task in TASKS])[0]


# ---- tools ----

_RESULTS: dict[str, Callable[[str], str]] = {
    "search_code": lambda query: f"orders/checkout.py:41: {query}(cart.rows)\nreports/daily.py:17: {query}(day.rows)",
    "read_file": lambda path: f"# {path}\nfrom storage import session\n\n\ndef checkout(cart):\n    return total(cart.rows)\n",
    "run_tests": lambda path: f"{path}: 14 passed, 1 failed\nFAILED test_total_of_nothing: TypeError: 'NoneType' object is not iterable",
}


def tools() -> "list[ToolParam]":
    """What the assistant may ask for in the repository."""
    about = {
        "search_code": "Lines that contain a name.",
        "read_file": "The text of a file.",
        "run_tests": "Runs the tests below a path.",
    }
    schema: dict[str, object] = {"type": "object", "properties": {"subject": {"type": "string"}}, "required": ["subject"]}
    return [{"name": name, "description": about[name], "input_schema": schema} for name in _RESULTS]


def use_tool(name: str, arguments: object) -> str:
    """What a tool answers; the repository is imagined, and so are its answers."""
    result = _RESULTS.get(name)
    if result is None:
        return f"there is no tool {name}"
    subject = arguments.get("subject") if isinstance(arguments, dict) else None
    return result(subject if isinstance(subject, str) else json.dumps(arguments))
