"""Calls without an SDK: one keep-alive connection each, so that two cores can make tens of thousands of them."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

# Less than the sidecar keeps a connection on which nothing comes.
IDLE_SECONDS = 10


@dataclass(frozen=True)
class Ask:
    """A call to be made."""

    path: str
    body: bytes
    # On the bill and, as the feature, in the ledger.
    label: str
    # Hangs up after so many bytes of the answer's body.
    leave_after: int | None = None


@dataclass(frozen=True)
class Answer:
    """`status` is 0 where none came. Not `whole`: it broke off, or its caller left."""

    status: int
    whole: bool


class Client:
    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.host, self.port = host, int(port)
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.used = 0.0

    async def call(self, ask: Ask) -> Answer:
        # What has lain idle may be closed by the other side while the request is on its way.
        if time.monotonic() - self.used > IDLE_SECONDS:
            self.close()
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20)
        head = (
            f"POST {ask.path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\nanthropic-version: 2023-06-01\r\n"
            f"authorization: Bearer placeholder\r\nx-spend-feature: {ask.label}\r\ncontent-length: {len(ask.body)}\r\n\r\n"
        )
        status, whole = 0, False
        try:
            self.writer.write(head.encode() + ask.body)
            status, whole = await self._answer(ask.leave_after)
        except (OSError, asyncio.IncompleteReadError):
            pass
        self.used = time.monotonic()
        if not whole:
            self.close()
        return Answer(status, whole)

    async def _answer(self, leave_after: int | None) -> tuple[int, bool]:
        assert self.reader
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            length = int(head[at + 17 : head.index(b"\r\n", at + 17)])
            await self.reader.readexactly(length)
            return status, b"connection: close" not in head
        seen, tail = 0, b""
        while True:
            data = await self.reader.read(1 << 16)
            if not data:
                return status, False
            seen += len(data)
            tail = (tail + data)[-7:]
            if tail == b"\r\n0\r\n\r\n":
                return status, True
            if leave_after is not None and seen >= leave_after:
                return status, False

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def chat(model: str, text: str, label: str, *, stream: bool = False, cap: int = 60, **more: Any) -> bytes:
    messages = [*([{"role": "system", "content": more.pop("system")}] if "system" in more else []), {"role": "user", "content": text}]
    return json.dumps(
        {"model": model, "max_completion_tokens": cap, "messages": messages, "stream": stream, "user": label, **more}
    ).encode()


def messages(model: str, text: str, label: str, *, stream: bool = False, cap: int = 60, **more: Any) -> bytes:
    said = [{"role": "user", "content": text}]
    return json.dumps(
        {"model": model, "max_tokens": cap, "messages": said, "stream": stream, "metadata": {"user_id": label}, **more}
    ).encode()
