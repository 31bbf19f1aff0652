"""Further formats that calls under load may have. Each is tried first: one that the provider does not speak is left out."""

import json
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness import PROVIDER_KEY, Stack, backend, budget, model, openai_backend, policy, request
from wire import Ask


@dataclass(frozen=True)
class Format:
    name: str
    backend: dict[str, Any]
    models: tuple[str, ...]
    # Of model and whether it streams.
    path: Callable[[str, bool], str]
    # Of model, text, label, whether it streams, and cap.
    body: Callable[[str, str, str, bool, int], dict[str, Any]]
    # The provider is told whose call it is, and has it on its bill.
    labelled: bool = True
    streams: bool = True

    def ask(self, name: str, text: str, team: str, *, stream: bool, cap: int) -> Ask:
        label = f"{team}-{name}" if self.labelled else "unlabelled"
        stream = stream and self.streams
        return Ask(self.path(name, stream), json.dumps(self.body(name, text, label, stream, cap)).encode(), label)


def _responses(name: str, text: str, label: str, stream: bool, cap: int) -> dict[str, Any]:
    return {"model": name, "input": text, "max_output_tokens": cap, "stream": stream, "store": False, "user": label}


def _completions(name: str, text: str, label: str, stream: bool, cap: int) -> dict[str, Any]:
    return {"model": name, "prompt": text, "max_tokens": cap, "stream": stream, "user": label}


def _embeddings(name: str, text: str, label: str, stream: bool, cap: int) -> dict[str, Any]:
    return {"model": name, "input": [text, text], "user": label}


def _gemini(name: str, text: str, label: str, stream: bool, cap: int) -> dict[str, Any]:
    return {
        "contents": [{"role": "user", "parts": [{"text": text}]}],
        "generationConfig": {"maxOutputTokens": cap},
        "labels": {"user": label},
    }


def _converse(name: str, text: str, label: str, stream: bool, cap: int) -> dict[str, Any]:
    said = [{"role": "user", "content": [{"text": text}]}]
    return {"messages": said, "inferenceConfig": {"maxTokens": cap}, "requestMetadata": {"user_id": label}}


def _of(name: str, provider: str, models: tuple[str, ...]) -> dict[str, Any]:
    return backend(name, provider, [model(each) for each in models])


GEMINI = ("gemini-2.5-pro", "gemini-2.5-flash")
BEDROCK = ("anthropic.claude-haiku-4-5-20251001-v1:0", "amazon.nova-lite-v1:0")
OPENAI_ONLY = ("text-embedding-3-small", "gpt-3.5-turbo-instruct")
MORE = _of("openai-more", "OpenAI", OPENAI_ONLY)

ALL = [
    Format("responses", openai_backend(), ("gpt-5", "gpt-5-mini"), lambda name, stream: "/v1/responses", _responses),
    Format("completions", MORE, OPENAI_ONLY[1:], lambda name, stream: "/v1/completions", _completions),
    Format("embeddings", MORE, OPENAI_ONLY[:1], lambda name, stream: "/v1/embeddings", _embeddings, streams=False),
    Format(
        "gemini",
        _of("gemini", "Gemini", GEMINI),
        GEMINI,
        lambda name, stream: f"/v1beta/models/{name}:" + ("streamGenerateContent?alt=sse" if stream else "generateContent"),
        _gemini,
    ),
    Format(
        "bedrock",
        _of("bedrock", "Bedrock", BEDROCK),
        BEDROCK,
        lambda name, stream: f"/model/{urllib.parse.quote(name, safe='')}/converse" + ("-stream" if stream else ""),
        _converse,
    ),
]


def speaks(stack: Stack, form: Format) -> bool:
    """True when the provider itself answers a call of this format."""
    ask = form.ask(form.models[0], "Hello", "probe", stream=False, cap=20)
    headers = {"authorization": f"Bearer {PROVIDER_KEY}", "x-goog-api-key": PROVIDER_KEY}
    return request("POST", stack.provider_url + ask.path, ask.body, headers)[0] == 200


def spoken() -> list[Format]:
    """The formats that the provider speaks. Of these the sidecar must take every one."""
    with Stack() as stack:
        found = [form for form in ALL if speaks(stack, form)]
    if not found:
        return []
    with Stack(policy([budget(usd="1000.00")], backends_of(found))) as stack:
        for form in found:
            for name in form.models:
                for stream in (False, True):
                    ask = form.ask(name, "Say about 12 words", "probe", stream=stream, cap=20)
                    status, _, body = request("POST", stack.url + ask.path, ask.body)
                    if status != 200:
                        said = body.decode(errors="replace")
                        raise AssertionError(f"{form.name} is spoken, and {ask.path} is answered with {status}: {said}")
        stack.assert_agrees()
    return found


def backends_of(found: list[Format]) -> list[dict[str, Any]]:
    """The backends of these formats, each once."""
    return list({form.backend["name"]: form.backend for form in found}.values())
