"""A trace of calls (TIMESTAMP, ContextTokens, GeneratedTokens) played again through the sidecar, faster than it was.

Its exact cost follows from the file alone: so many tokens in, so many out. The bill and the ledger must both be that.
"""

import asyncio
import csv
import datetime
import math
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Stack, budget, policy
from wire import Ask, Client, chat, messages

# What the simulated provider counts beside the words of a prompt (a request, its message), and the words that ask for a length.
FRAME = 3 + 4
FEWEST = FRAME + 3
# Shorter prompts are not cached, so they need nothing of their own.
CACHED_FROM = 1_000
# Models by turns, with pico-dollars a token of input and output, as the vendors' lists have them.
MODELS = [
    ("gpt-5", chat, "/v1/chat/completions", 1_250_000, 10_000_000),
    ("claude-sonnet-5", messages, "/v1/messages", 2_000_000, 10_000_000),
    ("gpt-5-mini", chat, "/v1/chat/completions", 250_000, 2_000_000),
    ("claude-haiku-4-5", messages, "/v1/messages", 1_000_000, 5_000_000),
]


@dataclass(frozen=True)
class Row:
    at: float
    context: int
    generated: int


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def seconds(text: str) -> float:
        return datetime.datetime.fromisoformat(text[:26]).replace(tzinfo=datetime.UTC).timestamp()

    first = min(seconds(row["TIMESTAMP"]) for row in rows)
    return sorted(
        (Row(seconds(row["TIMESTAMP"]) - first, int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in rows),
        key=lambda row: row.at,
    )


def generate(count: int, seed: int = 1) -> list[Row]:
    """The shape of a chat service's traffic: bursts of five calls a second, a thousand tokens in and a hundred and thirty out in
    the median, with long tails."""
    draw, at, rows = random.Random(seed), 0.0, []
    for _ in range(count):
        at += draw.gammavariate(0.8, 0.18 / 0.8)
        context = min(14_000, max(2, round(draw.lognormvariate(math.log(760), 0.98))))
        generated = min(1_000, max(7, round(draw.lognormvariate(math.log(150), 0.86))))
        rows.append(Row(at, context, generated))
    return rows


def prompt(number: int, row: Row) -> str:
    """A text of exactly the row's tokens, by the provider's own tokenizer: a word of up to six letters is one."""
    words = max(row.context, FEWEST) - FEWEST
    ask = f"about {row.generated} words"
    if words == 0:
        return ask
    # What is long enough to be cached begins with a word of its own, so that no call reads what another has left there.
    first = f"n{number:05x}" if row.context >= CACHED_FROM else "and"
    return first + " lease" * (words - 1) + " " + ask


def cost(rows: list[Row]) -> int:
    """Pico-dollars, from the file."""
    prices = [(model[3], model[4]) for model in MODELS]
    each = (
        max(row.context, FEWEST) * prices[i % len(MODELS)][0] + row.generated * prices[i % len(MODELS)][1] for i, row in enumerate(rows)
    )
    return sum(each)


async def _run(stack: Stack, rows: list[Row], speed: float) -> tuple[float, float, float, list[int]]:
    """Seconds until all were answered and until the last was sent, the worst lateness of a call, and the statuses."""
    idle: list[Client] = []
    start, latest = time.monotonic(), 0.0
    loop = asyncio.get_running_loop()

    async def one(number: int, row: Row) -> int:
        name, body, path, _, _ = MODELS[number % len(MODELS)]
        client = idle.pop() if idle else Client(stack.url)
        answer = await client.call(Ask(path, body(name, prompt(number, row), name, stream=number % 3 == 0, cap=row.generated), name))
        idle.append(client)
        return answer.status

    tasks = []
    for number, row in enumerate(rows):
        due = start + row.at / speed
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        latest = max(latest, time.monotonic() - due)
        tasks.append(loop.create_task(one(number, row)))
    started = time.monotonic() - start
    statuses = await asyncio.gather(*tasks)
    took = time.monotonic() - start
    for client in idle:
        client.close()
    return took, started, latest, list(statuses)


def play(rows: list[Row], speed: float) -> dict[str, Any]:
    """Plays a trace; what came of it. Raises when bill, ledger and file do not agree to the pico-dollar."""
    with Stack(policy([budget(usd="1000000.00")]), first_token_ms=20, tokens_per_second=2_000) as stack:
        took, started, latest, statuses = asyncio.run(_run(stack, rows, speed))
        if set(statuses) != {200}:
            raise AssertionError(f"not every call was answered: {Counter(statuses)}")
        calls = stack.assert_agrees(calls=len(rows))
        bill, expected = stack.bill(), cost(rows)
    tokens = sum(max(row.context, FEWEST) for row in rows), sum(row.generated for row in rows)
    if bill.cost != expected or (bill.total.input, bill.total.output) != tokens:
        raise AssertionError(f"the file comes to {expected} pico-dollars and {tokens} tokens, the bill to {bill.total}")
    return {
        "calls": len(calls),
        "span_s": round(rows[-1].at, 1),
        "speed_asked": speed,
        "speed": round(rows[-1].at / started, 2),
        "took_s": round(took, 1),
        "latest_start_ms": round(latest * 1_000, 1),
        "raised_to_fewest_tokens": sum(row.context < FEWEST for row in rows),
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "file_pico_usd": str(expected),
        "bill_pico_usd": str(bill.cost),
        "ledger_pico_usd": str(sum(call.cost for call in calls)),
    }
