"""A support bot on the OpenAI SDK: answers the tickets of a help desk, as many and as large as real traffic has them.

Environment: MODEL; TRACE, a file to replay (see traffic.py); SPEED, how much faster than it was recorded; VECTOR_STORE_URL;
CONCURRENCY, tickets in work at once; METRICS_PORT. The SDK reads OPENAI_BASE_URL and OPENAI_API_KEY by itself.
"""

import common  # First: see there.

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from itertools import count

import traffic
from openai import AsyncOpenAI
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessageParam
from tickets import Ticket, compose, next_ticket

USER = "support-bot"
SEED = 1
GENERATED_CALLS = 20_000
CALLS_PER_SECOND = 3.0
MAX_ANSWER_TOKENS = 800
STREAMED_SHARE = 0.5
SATISFIED_PERCENT = 80


class SupportBot:
    """Looks a ticket's question up, asks the model, and keeps score."""

    def __init__(self, client: AsyncOpenAI, model: str, store: common.VectorStore, tally: common.Tally) -> None:
        self.client = client
        self.model = model
        self.store = store
        self.tally = tally
        self.rng = random.Random(SEED)
        self.worked_on = common.Metric("support_tickets_total", "Tickets that the bot worked on.")
        self.resolved = common.Metric("support_tickets_resolved_total", "Tickets answered in full, to the customer's satisfaction.")

    async def handle(self, ticket: Ticket, size: traffic.Arrival) -> None:
        """Answers a ticket. One that the provider does not answer counts as worked on, and not as resolved."""
        self.worked_on.increment()
        found = await self.store.query(ticket.question)
        messages = compose(ticket, found, size.context_tokens, size.generated_tokens, self.rng)
        ask = self._streamed if self.rng.random() < STREAMED_SHARE else self._whole
        answer, finish_reason = await ask(messages)
        if is_resolved(ticket, answer, finish_reason):
            self.resolved.increment()

    async def _whole(self, messages: list[ChatCompletionMessageParam]) -> tuple[str, str | None]:
        completion = await self.client.chat.completions.create(
            model=self.model, messages=messages, user=USER, max_completion_tokens=MAX_ANSWER_TOKENS
        )
        self._count(completion.usage)
        choice = completion.choices[0]
        return choice.message.content or "", choice.finish_reason

    async def _streamed(self, messages: list[ChatCompletionMessageParam]) -> tuple[str, str | None]:
        answer, finish_reason = "", None
        async with await self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            user=USER,
            max_completion_tokens=MAX_ANSWER_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        ) as chunks:
            async for chunk in chunks:
                for choice in chunk.choices:
                    answer += choice.delta.content or ""
                    finish_reason = choice.finish_reason or finish_reason
                if chunk.usage:
                    self._count(chunk.usage)
        return answer, finish_reason

    def _count(self, usage: CompletionUsage | None) -> None:
        self.tally.answered(usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)


def is_resolved(ticket: Ticket, answer: str, finish_reason: str | None) -> bool:
    """An answer that was cut off or is empty resolves nothing; of the others, four in five customers are satisfied.

    Who they are follows from the ticket's number, so that two runs can be compared.
    """
    verdict = hashlib.sha256(ticket.id.encode()).digest()[0] * 100 // 256
    return finish_reason == "stop" and answer.strip() != "" and verdict < SATISFIED_PERCENT


async def arrivals(trace: list[traffic.Arrival], speed: float) -> AsyncIterator[traffic.Arrival]:
    """A trace's arrivals when they are due, over and over. Those that are overdue, as nobody was free, come at once."""
    clock = asyncio.get_running_loop().time
    while True:
        start = clock()
        for arrival in trace:
            await asyncio.sleep(start + arrival.at / speed - clock())
            yield arrival


async def main() -> None:
    tally = common.Tally(USER)
    trace, origin = traffic.load(common.setting("TRACE", ""), SEED, GENERATED_CALLS)
    speed = float(common.setting("SPEED", f"{CALLS_PER_SECOND / traffic.rate(trace):.3f}"))
    concurrency = int(common.setting("CONCURRENCY", "32"))
    store = common.VectorStore(common.setting("VECTOR_STORE_URL", ""))
    bot = SupportBot(AsyncOpenAI(), common.setting("MODEL", "gpt-5.4"), store, tally)
    common.serve_metrics([bot.worked_on, bot.resolved], int(common.setting("METRICS_PORT", "9100")))
    common.log(f"{USER}: replaying {origin} at {speed:g} times its speed, {speed * traffic.rate(trace):.1f} calls a second")

    # Holds nothing back: an arrival waits in it until one of the workers is free, and the next one waits for that.
    waiting: asyncio.Queue[tuple[Ticket, traffic.Arrival]] = asyncio.Queue(maxsize=1)

    async def work() -> None:
        await bot.handle(*await waiting.get())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tally.report())
        for _ in range(concurrency):
            tasks.create_task(common.repeat(work, tally))
        rng = random.Random(SEED)
        numbers = count(1)
        async for arrival in arrivals(trace, speed):
            await waiting.put((next_ticket(next(numbers), rng), arrival))


if __name__ == "__main__":
    common.run(main())
