"""What the three apps share: how they end, what they log and expose, how they bear failures, where they look things up.

Nothing here knows which SDK an app uses, or that anything stands between the app and its provider.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

REPORT_SECONDS = 10.0

# In a container the app is process 1, to which the kernel delivers no signal that it does not handle. Importing an SDK takes
# a second or two, and a pod may be deleted in them, so this module is imported first and answers from here on.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def run(app: Coroutine[None, None, None]) -> None:
    """Runs an app until it ends, or until a signal asks it to: then what it awaits is cancelled, and the exit code is 0."""

    async def until_told_to_stop() -> None:
        task = asyncio.ensure_future(app)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        log("stopped")

    asyncio.run(until_told_to_stop())


def log(text: str) -> None:
    """Prints one line; what would break it into several is flattened."""
    print(time.strftime("%H:%M:%S"), " ".join(text.split()), flush=True)


def setting(name: str, default: str) -> str:
    """An environment variable; one that is set to nothing counts as not set."""
    return os.environ.get(name) or default


# ---- failures ----


class Tally:
    """Counts what an app did since it started, and says it in a line now and then."""

    def __init__(self, app: str) -> None:
        self.app = app
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.errors: Counter[str] = Counter()

    def answered(self, input_tokens: int, output_tokens: int) -> None:
        self.calls += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def failed(self, error: Exception) -> None:
        """Counts an error by its kind. The first of each kind is logged in full, as the SDK words it; the rest would be noise."""
        kind = kind_of(error)
        self.errors[kind] += 1
        if self.errors[kind] == 1:
            log(f"{self.app}: {kind}: {error}")

    def line(self) -> str:
        errors = ", ".join(f"{count} x {kind}" for kind, count in self.errors.most_common()) or "none"
        return f"{self.app}: {self.calls} calls, {self.input_tokens} tokens in, {self.output_tokens} out; errors: {errors}"

    async def report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            log(self.line())


def kind_of(error: Exception) -> str:
    """Names an error by what does not change from one to the next: its class and, where a server answered, status and code.

    >>> kind_of(TimeoutError("after 2.03 s"))
    'TimeoutError'
    """
    details = (getattr(error, "status_code", None), getattr(error, "code", None))
    return " ".join([type(error).__name__, *(str(detail) for detail in details if detail)])


class Backoff:
    """How long to wait after the next failure: twice as long after each, up to a bound, until something succeeds."""

    def __init__(self, first: float = 1.0, longest: float = 10.0) -> None:
        self.first = first
        self.longest = longest
        self.reset()

    def reset(self) -> None:
        self._next = self.first

    def next(self) -> float:
        wait, self._next = self._next, min(2 * self._next, self.longest)
        return wait


async def repeat(step: Callable[[], Awaitable[None]], tally: Tally, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Takes a step again and again, until the task is cancelled. A failed step is counted and followed by a pause, never by the
    end of the app.

    It catches every exception on purpose: a connection that breaks in the middle of a stream surfaces as an error of the HTTP
    library below the SDK, and to the app it is the same thing. And it ends also when a library kept a cancellation to itself.
    """
    backoff = Backoff()
    task = asyncio.current_task()
    while not (task and task.cancelling()):
        try:
            await step()
        except Exception as error:
            tally.failed(error)
            await sleep(backoff.next())
        else:
            backoff.reset()


# ---- metrics ----


class Metric:
    """A Prometheus counter without labels."""

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
        self.value = 0

    def increment(self) -> None:
        self.value += 1

    def text(self) -> str:
        return f"# HELP {self.name} {self.about}\n# TYPE {self.name} counter\n{self.name} {self.value}\n"


def serve_metrics(metrics: Iterable[Metric], port: int) -> ThreadingHTTPServer:
    """Answers `/metrics` in the text format 0.0.4, on a thread that does not keep the app from ending."""
    exposed = list(metrics)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = "".join(metric.text() for metric in exposed) if found else "only /metrics is here\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """A scrape every few seconds is no news."""

    server = ThreadingHTTPServer(("", port), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


# ---- the vector store ----


class VectorStore:
    """Passages that are close to a text. An app is better with them and works without: a store that is slow or gone gives none."""

    def __init__(self, url: str | None, timeout: float = 1.5) -> None:
        self._url = url.rstrip("/") + "/query" if url else None
        self._timeout = timeout
        self._failures: set[str] = set()

    async def query(self, text: str, top_k: int = 3) -> list[str]:
        if self._url is None:
            return []
        try:
            # Not `wait_for`: until Python 3.12 it forgets a cancellation that comes together with the answer.
            async with asyncio.timeout(self._timeout):
                return await asyncio.to_thread(self._post, self._url, text, top_k)
        except Exception as error:
            self._note(error)
            return []

    def _post(self, url: str, text: str, top_k: int) -> list[str]:
        body = json.dumps({"text": text, "top_k": top_k}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=self._timeout) as response:
            return passages(json.load(response))

    def _note(self, error: Exception) -> None:
        kind = kind_of(error)
        if kind not in self._failures:
            self._failures.add(kind)
            log(f"going on without the vector store: {kind}: {error}")


def passages(answer: object) -> list[str]:
    """The texts of a store's answer.

    >>> passages({"matches": [{"id": "kb-1", "score": 0.9, "text": "Restart it."}]})
    ['Restart it.']
    """
    matches = answer.get("matches", []) if isinstance(answer, dict) else []
    return [match["text"] for match in matches if isinstance(match, dict) and isinstance(match.get("text"), str)]
