"""A simulated provider and a sidecar in front of it, as processes, and both their books.

    with Stack(policy(budgets=[budget(usd="5.00")])) as stack:
        client = openai.OpenAI(base_url=stack.url + "/v1", api_key="placeholder")
        ...
        stack.assert_agrees(calls=3)

Money is whole pico-dollars (10^-12 US dollars) throughout. The provider's bill is kept by `tests/provider`, whose prices and
tokenizer share no line with Spendkeeper's; the ledger is read from its file. Nothing here needs more than Python's library.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

# Tests find all they need here.
from resources import (
    ANTHROPIC_MODELS,
    APP_KEY,
    OPENAI_MODELS,
    PROVIDER_KEY,
    Policy,
    anthropic_backend,
    backend,
    budget,
    model,
    openai_backend,
    policy,
)

ROOT = Path(__file__).resolve().parents[2]
USD = 10**12
PATIENCE = 30.0
T = TypeVar("T")


def binary(name: str) -> Path:
    """The program under test: of the folder that $SPENDKEEPER_BIN names, else of the debug build."""
    folder = Path(os.environ.get("SPENDKEEPER_BIN") or ROOT / "target/debug")
    path = folder / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: cargo build --locked --bin {name}, or set SPENDKEEPER_BIN to its folder")
    return path


# --- What is read back.


@dataclass(frozen=True)
class Call:
    """A row of the ledger: one physical attempt."""

    id: str
    feature: str
    session: str
    backend: str
    requested_model: str
    model: str
    outcome: str
    status: int
    unpriced: bool
    input: int
    cached_read: int
    cache_write: int
    cache_write_long: int
    output: int
    audio_input: int
    image_input: int
    audio_output: int
    image_output: int
    web_searches: int
    cost: int

    @property
    def all_input(self) -> int:
        return self.input + self.cached_read + self.cache_write + self.cache_write_long + self.audio_input + self.image_input

    @property
    def known(self) -> bool:
        """Charged by the provider's own figures, or not charged at all."""
        return self.outcome in ("completed", "failed")


_COLUMNS = [name for name in Call.__dataclass_fields__ if name != "cost"]


@dataclass(frozen=True)
class Line:
    """A line of the provider's bill."""

    calls: int
    input: int
    cached_read: int
    cache_write: int
    output: int
    cost: int
    in_flight: int
    max_in_flight: int


@dataclass(frozen=True)
class Bill:
    total: Line
    by_label: dict[str, Line]
    by_model: dict[str, Line]
    refused_keys: int

    @property
    def cost(self) -> int:
        return self.total.cost


def _line(line: dict[str, Any]) -> Line:
    return Line(
        line["calls"],
        line["inputTokens"],
        line["cachedInputTokens"],
        line["cacheWriteTokens"],
        line["outputTokens"],
        int(line["picoUsd"]),
        line["inFlight"],
        line["maxInFlight"],
    )


def until(what: str, condition: Callable[[], T], patience: float = PATIENCE) -> T:
    """Polls a condition until it holds; what it gave."""
    deadline = time.monotonic() + patience
    pause = 0.005
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s, but {what} is not so")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    return value


def request(
    method: str, url: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = PATIENCE
) -> tuple[int, dict[str, str], bytes]:
    """One request without an SDK: status, headers by their lower-case name, body."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    asked = urllib.request.Request(url, data=data, method=method, headers={"content-type": "application/json", **(headers or {})})
    try:
        answer = urllib.request.urlopen(asked, timeout=timeout)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()


# --- The processes.

_RUNNING: "set[Process]" = set()


class Process:
    """A process that this one started, and ends."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "RUST_BACKTRACE": "0", **(environment or {})},
            )
        _RUNNING.add(self)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def end(self, how: int = signal.SIGTERM, patience: float = 10.0) -> None:
        if self.alive:
            self.popen.send_signal(how)
            try:
                self.popen.wait(patience)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        _RUNNING.discard(self)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


@atexit.register
def _end_all() -> None:
    for process in list(_RUNNING):
        process.end(signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    command: Callable[[list[int]], list[str]],
    ports: int,
    ready: Callable[[list[int]], bool],
    log: Path,
    environment: dict[str, str] | None = None,
    patience: float = PATIENCE,
) -> tuple[Process, list[int]]:
    """Starts a server on free ports. Another process may take one between the look and the start; then others are tried."""
    for _ in range(5):
        taken = [_free_port() for _ in range(ports)]
        process = Process(command(taken), log, environment)
        until(f"{log.name}: it listens", lambda: not process.alive or ready(taken), patience)
        if process.alive:
            return process, taken
        if "cannot listen" not in process.tail():
            break
    raise AssertionError(f"{command([0] * ports)[0]} ended at its start:\n{process.tail()}")


def answers_get(url: str) -> bool:
    try:
        return request("GET", url, timeout=2)[0] == 200
    except OSError:
        return False


class Stack:
    """A provider and a sidecar, from `with` to its end."""

    def __init__(
        self,
        told: Policy | None = None,
        *,
        first_token_ms: int = 0,
        tokens_per_second: int = 1_000_000,
        provider_arguments: Iterable[str] = (),
        sidecar_arguments: Iterable[str] = (),
        directory: Path | None = None,
    ) -> None:
        self.told = told or policy()
        self.provider_arguments = [
            "--first-token-ms",
            str(first_token_ms),
            "--tokens-per-second",
            str(tokens_per_second),
            *provider_arguments,
        ]
        self.sidecar_arguments = list(sidecar_arguments)
        self._made_directory = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="spendkeeper-conformance-"))

    def __enter__(self) -> "Stack":
        try:
            self._start_provider()
            self.start_sidecar()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for name in ("sidecar", "provider"):
            process = getattr(self, name, None)
            if process is not None:
                process.end(signal.SIGTERM if name == "sidecar" else signal.SIGKILL, patience=3)
        if self._made_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _start_provider(self) -> None:
        program = str(binary("spendkeeper-test-provider"))
        keys = ["--openai-key", PROVIDER_KEY, "--anthropic-key", PROVIDER_KEY]

        def command(ports: list[int]) -> list[str]:
            return [program, "--listen", f"127.0.0.1:{ports[0]}", *keys, *self.provider_arguments]

        self.provider, [port] = start(
            command, 1, lambda p: answers_get(f"http://127.0.0.1:{p[0]}/healthz"), self.directory / "provider.log", {"RUST_LOG": "warn"}
        )
        self.provider_url = f"http://127.0.0.1:{port}"

    def start_sidecar(self) -> None:
        """Also after `stop_sidecar`, with the state that it left."""
        program = str(binary("spendkeeper"))
        config = self.directory / "policy.yaml"
        config.write_text(self.told.documents(self.provider_url))

        def command(ports: list[int]) -> list[str]:
            addresses = ["--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}"]
            return [
                program,
                "--config",
                str(config),
                "--state-dir",
                str(self.directory / "state"),
                "--log",
                "warn",
                *addresses,
                *self.sidecar_arguments,
            ]

        def ready(ports: list[int]) -> bool:
            return answers_get(f"http://127.0.0.1:{ports[1]}/readyz") and answers_get(f"http://127.0.0.1:{ports[0]}/v1/models")

        self.sidecar, [port, admin] = start(command, 2, ready, self.directory / "sidecar.log", self.told.credentials())
        self.url, self.admin_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"

    def stop_sidecar(self, how: int = signal.SIGTERM) -> None:
        self.sidecar.end(how)

    # The provider's side.

    def bill(self) -> Bill:
        _, _, body = request("GET", self.provider_url + "/admin/bill")
        bill = json.loads(body)
        lines = {name: {key: _line(line) for key, line in bill[name].items()} for name in ("byLabel", "byModel")}
        return Bill(_line(bill["total"]), lines["byLabel"], lines["byModel"], bill["refusedKeys"])

    def faults(self, rules: list[dict[str, Any]]) -> None:
        """What the provider breaks from now on; see `tests/provider/faults.rs`. An empty list ends it."""
        status, _, body = request("PUT", self.provider_url + "/admin/faults", rules)
        if status != 200:
            raise AssertionError(f"the provider does not take these faults: {body.decode()}")

    def fired(self) -> list[int]:
        """How often each rule of the faults has fired."""
        return [rule["fired"] for rule in json.loads(request("GET", self.provider_url + "/admin/faults")[2])]

    # Spendkeeper's side.

    def metrics(self) -> dict[str, float]:
        """By name, labels left out: the sum over them."""
        sums: dict[str, float] = defaultdict(float)
        for line in request("GET", self.admin_url + "/metrics")[2].decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                sums[name.split("{")[0]] += float(value)
        return sums

    @contextlib.contextmanager
    def ledger(self) -> Iterator[sqlite3.Connection]:
        """The ledger's file, to read."""
        connection = sqlite3.connect(f"file:{self.directory}/state/ledger.db?mode=ro", uri=True, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def rows(self) -> list[Call]:
        """What the ledger has now, refusals included (of those only some are recorded)."""
        with self.ledger() as ledger:
            columns = ", ".join(_COLUMNS)
            rows = ledger.execute(f"SELECT {columns}, cost_micro, cost_pico FROM calls WHERE shared = 0 ORDER BY id")
            return [Call(*row[:-2], cost=row[-2] * 1_000_000 + row[-1]) for row in rows]

    def settle(self, patience: float = PATIENCE) -> None:
        """Waits until no call is open anywhere and everything is reported to the ledger."""

        def at_rest() -> bool:
            metrics = self.metrics()
            return metrics["spendkeeper_sidecar_calls_open"] == 0 and metrics["spendkeeper_sidecar_journal_backlog_bytes"] == 0

        until("the provider has no call in flight", lambda: self.bill().total.in_flight == 0, patience)
        until("every call has ended and is reported", at_rest, patience)

    def calls(self, n: int | None = None, patience: float = PATIENCE) -> list[Call]:
        """The calls that went upstream, in the order in which they came, once all are settled and, where it is given, there are `n`."""

        def sent() -> list[Call]:
            return [call for call in self.rows() if call.outcome != "refused"]

        if n is not None:
            until(f"the ledger has {n} calls", lambda: len(sent()) >= n, patience)
        self.settle(patience)
        calls = sent()
        if n is not None and len(calls) != n:
            raise AssertionError(f"the ledger has {len(calls)} calls, not {n}: {calls}")
        return calls

    def settled(self, key: str = "default/all/total") -> int:
        """What a limit has spent, in its own unit."""
        with self.ledger() as ledger:
            return sum(int(amount) for (amount,) in ledger.execute("SELECT settled FROM accounts WHERE key = ?", [key]))

    def held(self) -> tuple[int, int]:
        """Leases that hold something, and calls that are open, in the ledger."""
        with self.ledger() as ledger:
            leases = ledger.execute("SELECT count(*) FROM leases WHERE usd <> '0' OR tokens <> 0 OR requests <> 0").fetchone()[0]
            return leases, ledger.execute("SELECT count(*) FROM open_calls").fetchone()[0]

    # Both.

    def assert_agrees(self, calls: int | None = None) -> list[Call]:
        """Bill and ledger are the same to the pico-dollar and the token, in all and by model; the calls."""
        ledger, bill = self.calls(calls), self.bill()
        for line, rows in [(bill.total, ledger)] + [(line, [c for c in ledger if c.model == name]) for name, line in bill.by_model.items()]:
            billed = {
                "cost": line.cost,
                "input": line.input,
                "cached": line.cached_read,
                "written": line.cache_write,
                "output": line.output,
            }
            kept = {
                "cost": sum(c.cost for c in rows),
                "input": sum(c.all_input for c in rows),
                "cached": sum(c.cached_read for c in rows),
                "written": sum(c.cache_write + c.cache_write_long for c in rows),
                "output": sum(c.output for c in rows),
            }
            if billed != kept:
                raise AssertionError(f"the provider billed {billed}, the ledger has {kept}; calls: {rows}")
        return ledger

    def assert_nothing_held(self) -> None:
        """No phantom holds: what calls had reserved and not used is free again."""
        until("nothing is reserved any more", lambda: self.held() == (0, 0))
