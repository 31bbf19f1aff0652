import io
import statistics
import sys
import tempfile
import unittest
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import traffic


def sample(seed: int = 1, calls: int = 5_000) -> list[traffic.Arrival]:
    return list(islice(traffic.generate(seed), calls))


def written(arrivals: list[traffic.Arrival]) -> str:
    out = io.StringIO()
    traffic.write(arrivals, out)
    return out.getvalue()


class GeneratedTraffic(unittest.TestCase):
    def test_is_the_same_for_the_same_seed_and_differs_for_another(self) -> None:
        self.assertEqual(sample(seed=7), sample(seed=7))
        self.assertNotEqual(sample(seed=7), sample(seed=8))

    def test_arrives_in_order_from_zero(self) -> None:
        times = [arrival.at for arrival in sample()]
        self.assertEqual(times[0], 0)
        self.assertEqual(times, sorted(times))

    def test_has_sizes_as_real_traffic_has_them(self) -> None:
        calls = sample(calls=20_000)
        self.assertAlmostEqual(statistics.median(call.context_tokens for call in calls), 757, delta=40)
        self.assertAlmostEqual(statistics.mean(call.generated_tokens for call in calls), 214, delta=15)
        self.assertGreater(max(call.context_tokens for call in calls), 10_000)

    def test_comes_in_bursts(self) -> None:
        counts = [0] * 360
        for call in sample(calls=20_000):
            if call.at < 3_600:
                counts[int(call.at // 10)] += 1
        # Of a Poisson process with a constant rate, variance and mean are the same.
        self.assertGreater(statistics.variance(counts), 2 * statistics.mean(counts))


class TraceFile(unittest.TestCase):
    def test_has_the_published_form(self) -> None:
        header, first, *_ = written(sample(calls=2)).splitlines()
        self.assertEqual(header, "TIMESTAMP,ContextTokens,GeneratedTokens")
        self.assertRegex(first, r"^2026-01-05 09:00:00\.0{7},\d+,\d+$")

    def test_is_read_as_it_was_written(self) -> None:
        for wrote, read in zip(sample(), traffic.read(written(sample()).splitlines()), strict=True):
            self.assertAlmostEqual(wrote.at, read.at, places=5)
            self.assertEqual((wrote.context_tokens, wrote.generated_tokens), (read.context_tokens, read.generated_tokens))

    def test_counts_time_from_its_first_call(self) -> None:
        lines = [",".join(traffic.COLUMNS), "2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"]
        self.assertEqual(traffic.read(lines), [traffic.Arrival(0.0, 374, 44), traffic.Arrival(4.314579, 396, 109)])

    def test_of_another_form_is_refused_with_its_line(self) -> None:
        header = ",".join(traffic.COLUMNS)
        for lines, where in [
            (["time,in,out"], "line 1"),
            ([header, "2023-11-16 18:15:46,374,44", "noon,1,2"], "line 3"),
            ([header, "2023-11-16 18:15:46,374"], "line 2"),
            ([header], "no calls"),
        ]:
            with self.subTest(lines=lines), self.assertRaisesRegex(ValueError, where):
                traffic.read(lines)

    def test_that_is_missing_is_made_up(self) -> None:
        for path in (None, "", "/nowhere/trace.csv"):
            self.assertEqual(traffic.load(path, seed=3, calls=50)[0], sample(seed=3, calls=50))

    def test_that_is_there_is_used(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
            file.write(written(sample(seed=5, calls=20)))
            file.flush()
            arrivals, origin = traffic.load(file.name, seed=1, calls=50)
        self.assertEqual((len(arrivals), origin), (20, file.name))


if __name__ == "__main__":
    unittest.main()
