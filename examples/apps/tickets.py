"""What customers write to the help desk of an imaginary maker of routers, cameras and sensors, and the prompt made of it.

The last message holds the customer's question and nothing else; everything that a support bot adds (its instructions, what it
looked up, what was said before) comes before it. Sizes are in estimated tokens: four and a half characters of English each.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

CHARACTERS_PER_TOKEN = 4.5
WORDS_PER_TOKEN = 0.75

Effort = Literal["easy", "medium", "hard"]
# Most of a help desk's questions have been asked before.
EFFORTS: dict[Effort, float] = {"easy": 0.78, "medium": 0.15, "hard": 0.07}
SENSITIVE_SHARE = 0.05


@dataclass(frozen=True)
class Ticket:
    """A question as a customer asks it."""

    id: str
    question: str
    effort: Effort


SLOTS: dict[str, list[str]] = {
    "product": [
        "Aria X2 router",
        "Aria Mini",
        "Lumen camera",
        "Lumen Pro doorbell",
        "Terra soil sensor",
        "Polar thermostat",
        "Vela hub",
    ],
    "place": ["the kitchen", "our warehouse", "the second floor", "a garden shed", "the shop in Basel", "my parents' flat"],
    "colour": ["green", "amber", "white", "blue", "red"],
    "error": ["E17", "E204", "NET-31", "AUTH-7", "FW-112", "PAIR-4"],
    "version": ["4.2.1", "4.3.0", "5.0.2", "5.1.0-rc2"],
    "number": ["4", "6", "9", "12", "25", "40"],
    "order": ["A-20418", "A-31877", "B-10922", "C-77103"],
    "day": ["Monday", "Tuesday", "Thursday", "last Friday", "yesterday"],
    "plan": ["Home", "Family", "Studio", "Business"],
    "app": ["the phone app", "the web console", "the desktop app"],
    "email": ["anna.keller@example.com", "j.okafor@example.org", "support-test@example.net", "maria.rossi@example.com"],
    # Numbers that card schemes publish for testing.
    "card": ["4111 1111 1111 1111", "5555 5555 5555 4444", "4242 4242 4242 4242", "3782 822463 10005"],
}

QUESTIONS: dict[Effort, list[str]] = {
    "easy": [
        "Hi, where is my order {order}?",
        "Hello, how do I reset the {product}?",
        "The light on my {product} is {colour}. What does that mean?",
        "Can I use the {product} in {place}?",
        "How do I change my password in {app}?",
        "Which firmware is the newest for the {product}? Mine has {version}.",
        "Thanks for the quick help on {day}. Is my return for {order} done?",
        "Please send me the invoice for {order} again.",
        "How many devices can I add on the {plan} plan?",
        "I moved. How do I change the delivery address of {order}?",
        "Does the {product} work with the {plan} plan?",
        "What batteries does the {product} take?",
        "Please translate this into German: your {product} is on its way and arrives on {day}.",
        "How do I share my {product} with my family in {app}?",
        "I want to cancel the {plan} plan by {day}. How?",
    ],
    "medium": [
        "My {product} in {place} loses its connection each evening since {day}, but only on version {version}. Why does that happen, and "
        "what should I change first?",
        "Please compare the {plan} plan with what I have now: {number} cameras, each recording at night, and an {product}. Which is "
        "the better choice, and why?",
        "The {product} shows {error} after the update to {version}, except when {app} is closed. Explain what {error} means and how I "
        "must configure it so that it does not come back.",
        "I get the message {error} at every start. I have restarted it {number} times, and all other devices work. Analyze the log "
        "above and explain what is wrong, assuming that the cable is not the reason.",
        "Why was I charged twice for {order}? Explain each line on the invoice from {day}, and calculate what I should get back.",
    ],
    "hard": [
        "We run {number} {product} units in {place} and must not lose recordings when the uplink is down. Design a network with at least "
        "two independent paths, explain each tradeoff, and justify why it survives the loss of any one switch.",
        "Our script polls the API from {number} threads and sometimes deadlocks with {error}. Debug it and explain why it happens:\n"
        "```python\nwith session_lock:\n    for device in devices:\n        with device.lock:\n            device.refresh(session)\n```\n"
        "Then refactor it so that it cannot deadlock, and prove that no order of the locks is circular.",
        "Diagnose why {number} of our sensors drift by {number} percent each week. Derive the error as a function of temperature from "
        "the readings above, calculate the variance, and design an experiment that would disprove your hypothesis.",
        "We must migrate {number} sites from the {plan} plan without an interruption. Design the plan step by step: which constraint "
        "decides the order, what is the probability of a rollback if each step fails with 2 percent, and why is your order optimal?",
    ],
}

SENSITIVE = [
    "You can reach me at {email}.",
    "My account is registered to {email}.",
    "I paid with card {card}.",
]

INSTRUCTIONS = (
    "You are the support assistant of Northlight Devices. Be friendly and brief. Use the articles below where they apply, and say so "
    "when you do not know. Never promise a refund; offer to pass the ticket on to a colleague instead."
)

ARTICLES = [
    "The {product} needs firmware {version} or later before it can be used with the {plan} plan.",
    "When the light turns {colour}, hold the button for {number} seconds and wait until {app} shows the device again.",
    "Error {error} is shown after the device could not reach the update server for {number} minutes.",
    "Customers on the {plan} plan may add up to {number} devices, and share them with their household in {app}.",
    "An order such as {order} leaves the warehouse within two working days; the carrier sends the tracking link by mail.",
    "Place the {product} at least {number} metres from a microwave oven, and not behind a metal shelf in {place}.",
    "Since version {version}, recordings are kept for {number} days and then deleted, unless they are marked as important.",
    "A password can be changed in {app} under Account, Security; all other sessions end when it is.",
    "Returns are accepted for {number} weeks after delivery. The label is in the parcel, or can be printed from {app}.",
    "If {error} comes back after a restart, remove the {product} from the hub and pair it again from {place}.",
]

EARLIER: list[tuple[str, str]] = [
    (
        "My {product} has been offline since {day}.",
        "I am sorry to hear that. Is the light {colour}, and which version does {app} show?",
    ),
    (
        "It says {version}, and the light is {colour}.",
        "Thank you. Please hold the button for {number} seconds and let me know what happens.",
    ),
    (
        "I did that, nothing changed. It now shows {error}.",
        "That code means that the update did not finish. I have noted it on ticket {order}.",
    ),
    ("I ordered a {product} on {day}.", "I see order {order} here. It was packed on {day} and should be with you soon."),
]


def tokens(text: str) -> int:
    """About how many tokens a text has."""
    return round(len(text) / CHARACTERS_PER_TOKEN)


def fill(template: str, rng: random.Random) -> str:
    """A template with each slot filled at random."""
    return template.format_map({slot: rng.choice(values) for slot, values in SLOTS.items()})


def next_ticket(number: int, rng: random.Random) -> Ticket:
    """The ticket with this number; a few name a person's address or card, as people do."""
    effort = rng.choices(list(EFFORTS), list(EFFORTS.values()))[0]
    question = fill(rng.choice(QUESTIONS[effort]), rng)
    if rng.random() < SENSITIVE_SHARE:
        question += " " + fill(rng.choice(SENSITIVE), rng)
    return Ticket(f"T-{number:06}", question, effort)


def compose(
    ticket: Ticket, found: list[str], context_tokens: int, answer_tokens: int, rng: random.Random
) -> "list[ChatCompletionMessageParam]":
    """The messages that ask for an answer of a size, with about as many tokens of context as asked, and no fewer than needed.

    What was found comes first, then a conversation so far, then articles until the size is reached.
    """
    question = f"{ticket.question}\nPlease answer in about {max(5, round(answer_tokens * WORDS_PER_TOKEN))} words."
    left = context_tokens - tokens(question)
    if left < tokens(INSTRUCTIONS):
        return [{"role": "user", "content": question}]
    left -= tokens(INSTRUCTIONS)
    articles = list(_upto(left, iter(found)))
    left -= sum(map(tokens, articles))
    conversation = list(_earlier(left // 3, rng))
    left -= sum(tokens(asked) + tokens(answered) for asked, answered in conversation)
    articles += _upto(left, (fill(article, rng) for article in map(rng.choice, repeat(ARTICLES))))
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": "\n".join([INSTRUCTIONS, *articles])}]
    for asked, answered in conversation:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*messages, {"role": "user", "content": question}]


def _upto(limit: int, texts: Iterator[str]) -> Iterator[str]:
    """The first of some texts that fit into a number of tokens together."""
    for text in texts:
        limit -= tokens(text)
        if limit < 0:
            return
        yield text


def _earlier(limit: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    for _ in range(rng.randrange(len(EARLIER))):
        asked, answered = (fill(text, rng) for text in rng.choice(EARLIER))
        limit -= tokens(asked) + tokens(answered)
        if limit < 0:
            return
        yield asked, answered
