import asyncio
import contextlib
import http.client
import io
import socket
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import common


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    with contextlib.redirect_stdout(io.StringIO()) as out:
        yield lines
    lines += out.getvalue().splitlines()


class Refused(Exception):
    """Has what the errors of both SDKs have when a server answered."""

    status_code = 429
    code = "no_money"


class Enough(BaseException):
    """Ends an endless loop; not an Exception, so that nothing handles it."""


class Backoff(unittest.TestCase):
    def test_grows_to_ten_seconds_and_starts_again_after_a_success(self) -> None:
        backoff = common.Backoff()
        self.assertEqual([backoff.next() for _ in range(6)], [1, 2, 4, 8, 10, 10])
        backoff.reset()
        self.assertEqual(backoff.next(), 1)


class RepeatedStep(unittest.TestCase):
    def pauses_of(self, outcomes: list[Exception | None]) -> tuple[list[float], common.Tally]:
        left = iter(outcomes)
        pauses: list[float] = []
        tally = common.Tally("app")

        async def step() -> None:
            outcome = next(left, Enough())
            if outcome is not None:
                raise outcome

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        with logged(), self.assertRaises(Enough):
            asyncio.run(common.repeat(step, tally, sleep))
        return pauses, tally

    def test_is_taken_again_after_a_refusal_with_growing_pauses(self) -> None:
        pauses, tally = self.pauses_of([Refused()] * 5)
        self.assertEqual(pauses, [1, 2, 4, 8, 10])
        self.assertEqual(tally.errors, {"Refused 429 no_money": 5})

    def test_has_short_pauses_again_after_a_success(self) -> None:
        self.assertEqual(self.pauses_of([Refused(), Refused(), None, Refused()])[0], [1, 2, 1])

    def test_survives_whatever_the_network_does(self) -> None:
        pauses, tally = self.pauses_of([ConnectionResetError(), TimeoutError(), None, None])
        self.assertEqual((len(pauses), sum(tally.errors.values())), (2, 2))

    def test_is_the_last_when_a_library_keeps_a_cancellation_to_itself(self) -> None:
        async def step() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

        async def cancelled_in_a_step() -> None:
            task = asyncio.create_task(common.repeat(step, common.Tally("app")))
            await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(5):
                await task

        asyncio.run(cancelled_in_a_step())


class Log(unittest.TestCase):
    def test_tells_the_first_error_of_each_kind_in_full_and_on_one_line(self) -> None:
        tally = common.Tally("app")
        with logged() as lines:
            tally.failed(Refused("$0.00 of\n$1.00 is left"))
            tally.failed(Refused("$0.00 of $1.00 is left"))
            tally.failed(OSError("no route"))
        self.assertEqual(len(lines), 2)
        self.assertIn("Refused 429 no_money: $0.00 of $1.00 is left", lines[0])

    def test_counts_calls_tokens_and_errors(self) -> None:
        tally = common.Tally("app")
        tally.answered(100, 20)
        tally.answered(50, 5)
        self.assertEqual(tally.line(), "app: 2 calls, 150 tokens in, 25 out; errors: none")
        with logged():
            tally.failed(Refused())
        self.assertTrue(tally.line().endswith("errors: 1 x Refused 429 no_money"))


class Metrics(unittest.TestCase):
    def setUp(self) -> None:
        self.metric = common.Metric("tickets_total", "Tickets.")
        self.server = common.serve_metrics([self.metric], port=0)
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def get(self, path: str) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=5)
        self.addCleanup(connection.close)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()

    def test_are_served_in_the_text_format(self) -> None:
        self.metric.increment()
        status, content_type, text = self.get("/metrics")
        self.assertEqual((status, content_type), (200, "text/plain; version=0.0.4; charset=utf-8"))
        self.assertEqual(text, "# HELP tickets_total Tickets.\n# TYPE tickets_total counter\ntickets_total 1\n")

    def test_are_all_there_is(self) -> None:
        self.assertEqual(self.get("/")[0], 404)


class VectorStore(unittest.TestCase):
    def test_gives_the_texts_of_its_matches(self) -> None:
        answer = {"matches": [{"text": "one", "score": 0.9}, {"id": "no text"}, {"text": "two"}]}
        self.assertEqual(common.passages(answer), ["one", "two"])

    def test_gives_nothing_when_its_answer_is_of_another_form(self) -> None:
        for answer in (None, [], {}, {"error": "not ready"}):
            self.assertEqual(common.passages(answer), [])

    def test_gives_nothing_when_there_is_none(self) -> None:
        self.assertEqual(asyncio.run(common.VectorStore("").query("why?")), [])

    def test_that_does_not_answer_is_gone_on_without(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, logged() as lines:
            store = common.VectorStore(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.05)
            for _ in range(2):
                self.assertEqual(asyncio.run(store.query("why?")), [])
        self.assertEqual(len(lines), 1)


if __name__ == "__main__":
    unittest.main()
