"""An agent that runs away: many copies of it talk to themselves, each as fast as the provider answers, and none ever stops.

It has no notion of money. Whatever holds it back is outside of it.

Environment: MODEL; CONCURRENCY, calls in flight at once; VECTOR_STORE_URL. The SDK reads OPENAI_BASE_URL and OPENAI_API_KEY
by itself.
"""

import common  # First: see there.

import asyncio

from openai import AsyncOpenAI

USER = "runaway-agent"
MAX_ANSWER_TOKENS = 400
STEPS_PER_LOOKUP = 4
REMEMBERED_CHARACTERS = 2_000

GOAL = (
    "You are an autonomous research agent. Your goal is a theory of why distributed systems fail. You work alone and are never "
    "done: end each note with the question that it raises."
)
STEPS = [
    "Derive a hypothesis from your last note, and explain why no other hypothesis fits.",
    "Design an experiment that would disprove it, and justify each constraint.",
    "Analyze what the result would be if every assumption but one were false, derive it, and prove it.",
    "Critique the argument of your last note rigorously, and redesign the theory where it fails.",
    "Compare the theory with what you found, diagnose each contradiction, and redesign the experiment.",
]


class Agent:
    """One train of thought: every step starts from what the last one ended with."""

    def __init__(self, client: AsyncOpenAI, model: str, store: common.VectorStore, tally: common.Tally, number: int) -> None:
        self.client = client
        self.model = model
        self.store = store
        self.tally = tally
        # The copies start at different steps, so that they do not all look things up at the same moment.
        self.steps = number
        self.last_note = f"Note {number}: nothing is known yet."

    async def step(self) -> None:
        """Thinks once more. A step that fails is tried again as it was: the agent does not get over it."""
        found = await self.store.query(self.last_note) if self.steps % STEPS_PER_LOOKUP == 0 else []
        completion = await self.client.chat.completions.create(
            model=self.model,
            user=USER,
            max_completion_tokens=MAX_ANSWER_TOKENS,
            messages=[
                {"role": "system", "content": "\n".join([GOAL, *found])},
                {"role": "assistant", "content": self.last_note},
                {"role": "user", "content": f"{STEPS[self.steps % len(STEPS)]} Write about 250 words."},
            ],
        )
        if completion.usage:
            self.tally.answered(completion.usage.prompt_tokens, completion.usage.completion_tokens)
        answer = completion.choices[0].message.content or self.last_note
        self.last_note = answer[-REMEMBERED_CHARACTERS:]
        self.steps += 1


async def main() -> None:
    tally = common.Tally(USER)
    client = AsyncOpenAI()
    model = common.setting("MODEL", "gpt-5.4")
    store = common.VectorStore(common.setting("VECTOR_STORE_URL", ""))
    concurrency = int(common.setting("CONCURRENCY", "64"))
    common.log(f"{USER}: {concurrency} agents start on {model}")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tally.report())
        for number in range(concurrency):
            tasks.create_task(common.repeat(Agent(client, model, store, tally, number).step, tally))


if __name__ == "__main__":
    common.run(main())
