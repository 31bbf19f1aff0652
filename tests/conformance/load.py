"""A hundred thousand calls of every kind at once, and the provider's bill against the ledger, line by line.

    load.py [--calls 100000] [--trace FILE] [--speed 10] [--json target/bench/accounting.json]

Calls with figures must agree to the pico-dollar by label and by model. Those that the provider cut are charged as reserved: the
ledger then has more than the bill, and marks them; they have labels of their own and are listed apart. Those whose caller left
have labels of their own too: they are read to their end without it, so they have figures.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import formats
import replay
from harness import ANTHROPIC_MODELS, OPENAI_MODELS, ROOT, Stack, anthropic_backend, budget, openai_backend, policy
from wire import Answer, Ask, Client, chat, messages

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
TOOL = {"name": "lookup", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}
RULES = "Answer kindly and briefly. " * 260
TEAMS = 6


def everyday(draw: random.Random, number: int, further: list[formats.Format]) -> Ask:
    """A call of one of the usual kinds."""
    if further and draw.random() < 0.3:
        form = draw.choice(further)
        text, team = f"Ticket {number}: about {draw.randrange(3, 50)} words", f"team-{draw.randrange(TEAMS)}"
        return form.ask(draw.choice(form.models), text, team, stream=draw.random() < 0.35, cap=draw.randrange(16, 60))
    anthropic = draw.random() < 0.4
    model = draw.choice(list(ANTHROPIC_MODELS if anthropic else OPENAI_MODELS))
    label = f"team-{draw.randrange(TEAMS)}-{model}"
    text, stream, cap = f"Ticket {number}: about {draw.randrange(3, 50)} words", draw.random() < 0.35, draw.randrange(8, 60)
    more: dict[str, Any] = {}
    kind = draw.random()
    if anthropic:
        if kind < 0.12:
            mark = {"type": "ephemeral", "ttl": draw.choice(["5m", "1h"])}
            more["system"] = [{"type": "text", "text": f"{draw.randrange(8)} {RULES}", "cache_control": mark}]
        elif kind < 0.2:
            more |= {"tools": [{"name": "lookup", "input_schema": TOOL["parameters"]}], "tool_choice": {"type": "any"}}
        elif kind < 0.24:
            cap, more["thinking"] = 1_100, {"type": "enabled", "budget_tokens": 1_024}
        elif kind < 0.27 and model != "claude-haiku-4-5":  # whose searches have no price in the catalogue
            more["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]
        return Ask(MESSAGES, messages(model, text, label, stream=stream, cap=cap, **more), label)
    if kind < 0.12:
        more["system"] = f"{draw.randrange(8)} {RULES}"
    elif kind < 0.2:
        more |= {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"}
    elif kind < 0.25:
        more["n"] = 2
    elif kind < 0.29:
        cap, more["reasoning_effort"] = 300, "low"
    elif kind < 0.4 and stream:
        more["stream_options"] = {"include_usage": True}
    return Ask(CHAT, chat(model, text, label, stream=stream, cap=cap, **more), label)


def one_of(draw: random.Random, number: int, further: list[formats.Format]) -> Ask:
    """96 in 100 everyday calls, 3 streams whose caller leaves, and one that the provider cuts."""
    kind = draw.random()
    if kind >= 0.04:
        return everyday(draw, number, further)
    model = draw.choice([*OPENAI_MODELS, *ANTHROPIC_MODELS])
    path, body = (MESSAGES, messages) if model in ANTHROPIC_MODELS else (CHAT, chat)
    sort, leave_after = ("left", draw.randrange(1, 2_000)) if kind >= 0.01 else ("cut", None)
    label = f"{sort}-{model}"
    return Ask(path, body(model, f"Ticket {number}: about 60 words", label, stream=True, cap=80), label, leave_after)


def faults() -> list[dict[str, Any]]:
    """Errors for everyone at once, whatever the label; cuts only for calls that are made to be cut."""
    errors = [{"kind": "Status429", "every": 53}, {"kind": "Status500", "every": 71}, {"kind": "Status529", "every": 97}]
    kinds = ["CutStream", "FailStream", "EndStream", "NoUsage"]
    models = [*OPENAI_MODELS, *ANTHROPIC_MODELS]
    return errors + [
        {"kind": kind, "label": f"cut-{model}", "every": turn + 1} for model in models for turn, kind in reversed(list(enumerate(kinds)))
    ]


async def fire(url: str, asks: Iterator[Ask], concurrency: int) -> Counter[Answer]:
    """Makes the calls over so many connections."""
    answers: Counter[Answer] = Counter()

    async def worker() -> None:
        client = Client(url)
        # Each takes the next from the same source.
        for ask in asks:
            answers[await client.call(ask)] += 1
        client.close()

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return answers


def compare(stack: Stack) -> list[dict[str, Any]]:
    """The bill against the ledger for each label. Raises where they do not agree."""
    kept: dict[str, Counter[str]] = defaultdict(Counter)
    with stack.ledger() as ledger:
        tokens = "sum(input + cached_read + cache_write + cache_write_long), sum(output)"
        sums = f"count(*), sum(cost_micro), sum(cost_pico), {tokens}"
        query = f"SELECT feature, outcome, {sums} FROM calls WHERE shared = 0 GROUP BY 1, 2"
        for label, outcome, calls, micro, pico, tokens_in, tokens_out in ledger.execute(query):
            kept[label].update({outcome: calls, "cost": micro * 1_000_000 + pico, "input": tokens_in, "output": tokens_out})
    bill, rows, wrong = stack.bill(), [], []
    for label in sorted(kept | bill.by_label):
        mine, line = kept[label], bill.by_label.get(label)
        billed = (line.cost, line.input, line.output) if line else (0, 0, 0)
        ours = (mine["cost"], mine["input"], mine["output"])
        marked = mine["interrupted"] + mine["unknown"]
        agrees = ours[0] >= billed[0] if marked else ours == billed
        if not agrees or (marked and not label.startswith("cut-")):
            wrong.append(f"{label}: billed {billed}, kept {ours}, of which {marked} marked")
        rows.append(
            {
                "label": label,
                "completed": mine["completed"],
                "failed": mine["failed"],
                "marked": marked,
                "bill": billed[0],
                "ledger": ours[0],
            }
        )
    if wrong:
        raise AssertionError("bill and ledger do not agree:\n" + "\n".join(wrong))
    return rows


def mixed(calls: int, concurrency: int = 128, seed: int = 1) -> list[dict[str, Any]]:
    """Makes the calls; a row for each kind of them. Raises when the books do not agree or something is still held."""
    draw, further = random.Random(seed), formats.spoken()
    backends = {made["name"]: made for made in [openai_backend(), anthropic_backend(), *formats.backends_of(further)]}
    with Stack(policy([budget(usd="1000000.00")], backends.values())) as stack:
        stack.faults(faults())
        started = time.monotonic()
        answers = asyncio.run(fire(stack.url, (one_of(draw, number, further) for number in range(calls)), concurrency))
        took = time.monotonic() - started
        stack.settle(patience=300)
        lines = compare(stack)
        stack.assert_nothing_held()
        charged, metrics = sum(line["ledger"] for line in lines), stack.metrics()
        if stack.settled() != charged or metrics["spendkeeper_sidecar_overruns_total"]:
            raise AssertionError(
                f"the budget has {stack.settled()}, its calls cost {charged}; {metrics['spendkeeper_sidecar_overruns_total']} overruns"
            )
    made = sum(answers.values())
    # An overloaded provider says 529 at Anthropic, and 503 elsewhere.
    strange = {answer: count for answer, count in answers.items() if answer.status not in (0, 200, 429, 500, 503, 529)}
    recorded = sum(line["completed"] + line["failed"] + line["marked"] for line in lines)
    if strange or not made == recorded == calls:
        raise AssertionError(f"{calls} calls were asked for, {made} made, {recorded} recorded; strange answers: {strange}")
    kinds: list[tuple[str, Callable[[str], bool]]] = [
        ("answered or failed", lambda label: label.startswith(("team-", "unlabelled"))),
        ("left by the caller", lambda label: label.startswith("left-")),
        ("cut or without figures", lambda label: label.startswith("cut-")),
    ]
    rows = []
    for kind, is_of in kinds:
        of = [line for line in lines if is_of(line["label"])]
        total = {name: sum(line[name] for line in of) for name in ("completed", "failed", "marked", "bill", "ledger")}
        rows.append(
            {
                "scenario": "mixed",
                "calls_are": kind,
                "labels": len(of),
                "calls": total["completed"] + total["failed"] + total["marked"],
                "completed": total["completed"],
                "failed": total["failed"],
                "marked": total["marked"],
                "bill_pico_usd": str(total["bill"]),
                "ledger_pico_usd": str(total["ledger"]),
                "difference_pico_usd": str(total["ledger"] - total["bill"]),
            }
        )
    rows.append(
        {
            "scenario": "mixed",
            "calls_are": "all",
            "calls": calls,
            "took_s": round(took, 1),
            "calls_per_s": round(calls / took),
            "concurrency": concurrency,
            "formats": " ".join(["chat", "messages", *(form.name for form in further)]),
            "overruns": 0,
        }
    )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names] + [[str(row.get(name, "-")) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The provider's bill against the ledger, under load")
    parser.add_argument("--calls", type=int, default=100_000, help="mixed calls; 0 leaves them out")
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--trace", type=Path, help="a file of TIMESTAMP, ContextTokens, GeneratedTokens; without one an hour is generated")
    parser.add_argument("--trace-calls", type=int, default=19_366, help="calls of the trace that are played; 0 leaves it out")
    parser.add_argument("--speed", type=float, default=10.0, help="how much faster than it was")
    parser.add_argument("--json", type=Path, default=ROOT / "target/bench/accounting.json")
    given = parser.parse_args()
    client = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.2f}, {client} as the client"
    build = os.environ.get("SPENDKEEPER_BIN", "target/debug")
    print(f"The provider's bill against the ledger ({machine}; programs of {build})")
    rows = []
    if given.calls:
        rows += mixed(given.calls, given.concurrency)
        print("\nMixed calls\n" + table(rows[:-1]) + "\n\n" + table(rows[-1:]))
    if given.trace_calls:
        # A file that is shared is named without the folder that it lies in.
        played = replay.read(given.trace) if given.trace else replay.generate(given.trace_calls)
        row = {
            "scenario": "trace",
            "of": given.trace.name if given.trace else "generated",
            **replay.play(played[: given.trace_calls], given.speed),
        }
        rows.append(row)
        print("\nA trace, played again\n" + table([row]))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text("[\n" + ",\n".join(json.dumps({**row, "build": Path(build).name, "machine": machine}) for row in rows) + "\n]\n")
    print(f"\n  written to {given.json}")


if __name__ == "__main__":
    main()
