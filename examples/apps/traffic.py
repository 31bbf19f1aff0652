"""Traffic to replay: when calls arrive, and how many tokens go in and come out of each.

A trace is a CSV file of the form `TIMESTAMP,ContextTokens,GeneratedTokens`, in which production traces of LLM services are
published. Where there is none, `generate` makes one up whose figures resemble an hour of a chat service in such a trace
("LLM inference trace 2023" of the Azure public dataset; Patel et al., "Splitwise", ISCA 2024).

    python3 traffic.py --calls 20000 --seed 7 > trace.csv
"""

import argparse
import csv
import math
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TextIO

COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
START = datetime(2026, 1, 5, 9)

# Fitted to the trace that the module's text names.
CALLS_PER_SECOND = 5.5
BURST_SECONDS = 30.0
BURST_SIGMA = 0.3
CONTEXT = (6.63, 0.985, 20, 14_050)
GENERATED = (5.02, 0.859, 7, 1_000)
CORRELATION = 0.09


@dataclass(frozen=True)
class Arrival:
    """One call: seconds after the trace's first, and its size."""

    at: float
    context_tokens: int
    generated_tokens: int


def generate(seed: int) -> Iterator[Arrival]:
    """Endless traffic, the same for the same seed.

    Arrivals are a Poisson process whose rate changes every half a minute or so, which makes bursts and lulls. Context and
    output are jointly lognormal.
    """
    rng = random.Random(seed)
    at = burst_ends = 0.0
    rate = CALLS_PER_SECOND
    while True:
        yield Arrival(at, *_sizes(rng))
        at += rng.expovariate(rate)
        if at >= burst_ends:
            burst_ends = at + rng.expovariate(1 / BURST_SECONDS)
            # A lognormal factor with mean 1.
            rate = CALLS_PER_SECOND * rng.lognormvariate(-(BURST_SIGMA**2) / 2, BURST_SIGMA)


def _sizes(rng: random.Random) -> tuple[int, int]:
    z = rng.gauss(0, 1)
    correlated = CORRELATION * z + (1 - CORRELATION**2) ** 0.5 * rng.gauss(0, 1)
    return _lognormal(z, *CONTEXT), _lognormal(correlated, *GENERATED)


def _lognormal(z: float, mu: float, sigma: float, least: int, most: int) -> int:
    return min(max(round(math.exp(mu + sigma * z)), least), most)


def read(lines: Iterable[str]) -> list[Arrival]:
    """A trace from its lines; raises a ValueError that names the line which is not of the form."""
    rows = csv.reader(lines)
    if next(rows, None) != COLUMNS:
        raise ValueError(f"line 1: a trace starts with {','.join(COLUMNS)}")
    arrivals: list[Arrival] = []
    start: datetime | None = None
    for row in rows:
        try:
            timestamp, context, generated = row
            # Seven decimals are common in such traces; a datetime has six.
            moment = datetime.fromisoformat(timestamp[:26])
            start = start or moment
            arrivals.append(Arrival((moment - start).total_seconds(), int(context), int(generated)))
        except ValueError as error:
            raise ValueError(f"line {rows.line_num}: {','.join(row)!r} is not {','.join(COLUMNS)}") from error
    if not arrivals:
        raise ValueError("the trace has no calls")
    return arrivals


def write(arrivals: Iterable[Arrival], out: TextIO) -> None:
    print(*COLUMNS, sep=",", file=out)
    for arrival in arrivals:
        moment = START + timedelta(seconds=arrival.at)
        print(f"{moment:%Y-%m-%d %H:%M:%S.%f}0,{arrival.context_tokens},{arrival.generated_tokens}", file=out)


def load(path: str | None, seed: int, calls: int) -> tuple[list[Arrival], str]:
    """The trace at `path` or, where there is none, a generated one; and which of the two it is, in words."""
    if path and Path(path).is_file():
        with open(path, newline="", encoding="utf-8") as file:
            return read(file), path
    return list(islice(generate(seed), calls)), f"{calls} generated calls"


def rate(arrivals: list[Arrival]) -> float:
    """Calls a second, on average."""
    return len(arrivals) / max(arrivals[-1].at, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes generated traffic as a trace.")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    options = parser.parse_args()
    write(islice(generate(options.seed), options.calls), options.out)


if __name__ == "__main__":
    main()
