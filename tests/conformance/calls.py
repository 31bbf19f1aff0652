"""Calls as no SDK makes them: left midway, rudely, by a crowd."""

import http.client
import json
import socket
import struct
import threading
import unittest
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from harness import USD, Call, Policy, Stack, request

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
BOTH = (CHAT, MESSAGES)
CAP = 400
# Pico-dollars a token of gpt-5 and claude-opus-5, as the vendors' lists have them.
INPUT, OUTPUT = {CHAT: 1_250_000, MESSAGES: 5_000_000}, {CHAT: 10_000_000, MESSAGES: 25_000_000}
LONG_ANSWER = "Explain leases in about 300 words."


def asked(
    path: str, text: str = "Explain leases in about 200 words.", *, stream: bool = False, cap: int = CAP, **more: Any
) -> dict[str, Any]:
    name, cap_name = ("gpt-5", "max_completion_tokens") if path == CHAT else ("claude-opus-5", "max_tokens")
    return {"model": name, cap_name: cap, "messages": [{"role": "user", "content": text}], "stream": stream, **more}


def open_call(
    stack: Stack, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(stack.url.removeprefix("http://"), timeout=30)
    connection.request(
        "POST", path, json.dumps(body), {"content-type": "application/json", "anthropic-version": "2023-06-01", **(headers or {})}
    )
    return connection, connection.getresponse()


def post(stack: Stack, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    return request("POST", stack.url + path, body, {"anthropic-version": "2023-06-01", **(headers or {})})


def read(stack: Stack, path: str, body: Any) -> bytes:
    """An answer as far as it comes."""
    connection, answer = open_call(stack, path, body)
    try:
        return answer.read()
    except http.client.IncompleteRead as broken:
        return broken.partial
    except OSError:
        return b""
    finally:
        connection.close()


def hang_up(connection: http.client.HTTPConnection, *, rudely: bool = False) -> None:
    if rudely and connection.sock:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def leave_after(stack: Stack, path: str, body: Any, events: int, *, rudely: bool = False) -> None:
    """Reads so many events of a stream, then hangs up."""
    connection, answer = open_call(stack, path, body)
    while events > 0:
        line = answer.readline()
        assert line, "the stream was over before its reader left"
        events -= line == b"\n"
    # The answer holds the socket too.
    if rudely and connection.sock:
        hang_up(connection, rudely=True)
    answer.close()
    connection.close()


def at_once(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Runs `work(0)` to `work(number - 1)` in threads of their own."""
    results: list[Any] = [None] * number

    def run(index: int) -> None:
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=[index], daemon=True) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Case(unittest.TestCase):
    def stack(self, told: Policy | None = None, **options: Any) -> Stack:
        return self.enterContext(Stack(told, **options))

    def assert_covered(self, stack: Stack, calls: Iterable[Call], path: str, body: Any) -> None:
        """Charged as reserved: not less than was billed, not more than the call could have cost, and marked."""
        for call in calls:
            self.assertIn(call.outcome, ("interrupted", "unknown"))
            most = CAP * OUTPUT[path] + (len(json.dumps(body)) + 700) * 2 * INPUT[path]
            self.assertLessEqual(call.cost, most)
        self.assertGreaterEqual(sum(call.cost for call in calls), stack.bill().cost)

    def assert_remaining(self, stack: Stack, limit: Decimal) -> None:
        """What a budget has left is its limit less what was settled: nothing is held for calls that are over."""
        _, headers, _ = post(stack, CHAT, asked(CHAT, "Hi", cap=1))
        stack.settle()
        self.assertEqual(Decimal(headers["x-spend-budget-remaining-usd"]) * USD, limit * USD - stack.settled())
