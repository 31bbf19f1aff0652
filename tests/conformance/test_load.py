"""The load of `load.py`, smaller: thousands of calls of every kind, and a trace, to the pico-dollar."""

import tempfile
import unittest
from pathlib import Path

import load
import replay


class Load(unittest.TestCase):
    def test_thousands_of_calls_of_every_kind_are_charged_as_billed(self) -> None:
        rows = load.mixed(5_000, concurrency=64)
        of = {row["calls_are"]: row for row in rows}
        self.assertEqual(of["answered or failed"]["difference_pico_usd"], "0")
        self.assertEqual(of["left by the caller"]["difference_pico_usd"], "0")
        self.assertGreater(of["left by the caller"]["completed"], 80)
        self.assertGreater(of["cut or without figures"]["marked"], 20)
        self.assertGreater(of["answered or failed"]["failed"], 100)

    def test_a_trace_costs_what_its_file_says(self) -> None:
        rows = [*replay.generate(300), replay.Row(60.0, 2, 7), replay.Row(60.0, 11, 1)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.csv"
            lines = [f"2023-11-16 18:{15 + int(row.at // 60):02}:{row.at % 60:010.7f},{row.context},{row.generated}" for row in rows]
            path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
            read = replay.read(path)
        self.assertEqual(
            [(row.context, row.generated) for row in read], [(row.context, row.generated) for row in sorted(rows, key=lambda row: row.at)]
        )
        row = replay.play(read, speed=20)
        self.assertEqual((row["calls"], row["file_pico_usd"], row["bill_pico_usd"]), (302, row["ledger_pico_usd"], row["ledger_pico_usd"]))
        self.assertEqual(row["raised_to_fewest_tokens"], 1)
