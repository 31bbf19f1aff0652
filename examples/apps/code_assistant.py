"""A code assistant on the Anthropic SDK: developers ask it for renames and docstrings all day, and now and then for a design.

Environment: MODEL; RATE, calls a second; VECTOR_STORE_URL. The SDK reads ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY by itself.
"""

import common  # First: see there.

import asyncio
import random
from dataclasses import dataclass, field, replace

from anthropic import AsyncAnthropic, omit
from anthropic.types import Message, MessageParam, TextBlockParam, ToolChoiceParam, ToolParam, ToolResultBlockParam

from coding_tasks import FOLLOW_UPS, choose_task, system_prompt, tools, use_tool

USER = "code-assistant"
SEED = 1
DEVELOPERS = 8
MAX_ANSWER_TOKENS = 1_024
MAX_CALLS_PER_SESSION = 5
STREAMED_SHARE = 0.5
LOOKUP_SHARE = 0.3


class Pace:
    """Lets calls pass at a rate, whoever makes them; unevenly, as people are."""

    def __init__(self, per_second: float, rng: random.Random) -> None:
        self.per_second = per_second
        self.rng = rng
        self.due = 0.0

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        self.due = max(self.due, now) + self.rng.expovariate(self.per_second)
        await asyncio.sleep(self.due - now)


@dataclass(frozen=True)
class Toolbox:
    """The tools of a call, and whether the model must use one."""

    tools: list[ToolParam] = field(default_factory=list)
    choice: ToolChoiceParam | None = None

    def once_used(self) -> "Toolbox":
        """For the calls after the first: the model has looked, and may answer."""
        return replace(self, choice=None)


class Developer:
    """Somebody who has one session with the assistant after the other."""

    def __init__(self, client: AsyncAnthropic, model: str, store: common.VectorStore, tally: common.Tally, pace: Pace, number: int) -> None:
        self.client = client
        self.model = model
        self.store = store
        self.tally = tally
        self.pace = pace
        self.rng = random.Random(SEED + number)

    async def session(self) -> None:
        """A task, the tools that the assistant uses for it, and some follow-ups. A failed call ends it."""
        task = choose_task(self.rng)
        system = system_prompt(await self._lookup(task.request))
        toolbox = Toolbox(tools(), {"type": "any"}) if task.needs_tools else Toolbox()
        conversation: list[MessageParam] = [{"role": "user", "content": task.message(self.rng)}]
        follow_ups = self.rng.sample(FOLLOW_UPS, self.rng.randrange(3))
        for _ in range(MAX_CALLS_PER_SESSION):
            answer = await self._ask(system, conversation, toolbox)
            if not answer.content:
                return
            conversation.append({"role": "assistant", "content": answer.content})
            toolbox = toolbox.once_used()
            if answer.stop_reason == "tool_use":
                conversation.append({"role": "user", "content": tool_results(answer)})
            elif follow_ups:
                conversation.append({"role": "user", "content": f"{follow_ups.pop()} Answer in about 50 words."})
            else:
                return

    async def _lookup(self, request: str) -> list[str]:
        return await self.store.query(request) if self.rng.random() < LOOKUP_SHARE else []

    async def _ask(self, system: list[TextBlockParam], conversation: list[MessageParam], toolbox: Toolbox) -> Message:
        """One call, when it is time for one; every other is streamed."""
        await self.pace.turn()
        ask = self._streamed if self.rng.random() < STREAMED_SHARE else self._whole
        answer = await ask(system, conversation, toolbox)
        self.tally.answered(input_tokens(answer), answer.usage.output_tokens)
        return answer

    async def _whole(self, system: list[TextBlockParam], conversation: list[MessageParam], toolbox: Toolbox) -> Message:
        return await self.client.messages.create(
            model=self.model,
            max_tokens=MAX_ANSWER_TOKENS,
            system=system,
            messages=conversation,
            tools=toolbox.tools or omit,
            tool_choice=toolbox.choice or omit,
            metadata={"user_id": USER},
        )

    async def _streamed(self, system: list[TextBlockParam], conversation: list[MessageParam], toolbox: Toolbox) -> Message:
        async with self.client.messages.stream(
            model=self.model,
            max_tokens=MAX_ANSWER_TOKENS,
            system=system,
            messages=conversation,
            tools=toolbox.tools or omit,
            tool_choice=toolbox.choice or omit,
            metadata={"user_id": USER},
        ) as stream:
            return await stream.get_final_message()


def input_tokens(answer: Message) -> int:
    """All that went in: what was read from the cache and written to it is counted apart from the rest."""
    usage = answer.usage
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)


def tool_results(answer: Message) -> list[ToolResultBlockParam]:
    """One result for each tool that the answer uses, as the API demands."""
    return [
        {"type": "tool_result", "tool_use_id": block.id, "content": use_tool(block.name, block.input)}
        for block in answer.content
        if block.type == "tool_use"
    ]


async def main() -> None:
    tally = common.Tally(USER)
    client = AsyncAnthropic()
    model = common.setting("MODEL", "claude-opus-5")
    store = common.VectorStore(common.setting("VECTOR_STORE_URL", ""))
    pace = Pace(float(common.setting("RATE", "1")), random.Random(SEED))
    common.log(f"{USER}: {DEVELOPERS} developers start on {model}, {pace.per_second:g} calls a second together")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tally.report())
        for number in range(DEVELOPERS):
            developer = Developer(client, model, store, tally, pace, number)
            tasks.create_task(common.repeat(developer.session, tally))


if __name__ == "__main__":
    common.run(main())
