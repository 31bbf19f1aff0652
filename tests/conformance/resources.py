"""What the sidecar is told: the same resources that a cluster takes, with the simulated provider as every backend."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# The key that the provider takes; apps have another, so that a call which arrives was given the backend's own.
PROVIDER_KEY = "sk-of-the-backend"
APP_KEY = "placeholder"

OPENAI_MODELS = {
    "gpt-5.4": "frontier",
    "gpt-5.4-mini": "standard",
    "gpt-5.4-nano": "economy",
    "gpt-5": "frontier",
    "gpt-5-mini": "standard",
    "gpt-5-nano": "economy",
}
ANTHROPIC_MODELS = {
    "claude-opus-5": "frontier",
    "claude-opus-4-8": "frontier",
    "claude-sonnet-5": "standard",
    "claude-haiku-4-5": "economy",
}
CAPABILITIES = ["tools", "vision", "jsonSchema", "reasoning"]


def budget(name: str = "all", *, limit: str = "total", period: str = "Lifetime", enforcement: str = "Block", **more: Any) -> dict[str, Any]:
    """A budget of one limit: `usd="5.00"`, `tokens=1000` or `requests=3`. The rest goes into its spec: `splitBy`, `scope`, …"""
    units = {unit: more.pop(unit) for unit in ("usd", "tokens", "requests") if unit in more}
    spec = {"limits": [{"name": limit, "period": period, **units}], "enforcement": enforcement, **more}
    return {"kind": "AIBudget", "metadata": {"name": name}, "spec": spec}


def model(name: str, tier: str = "standard", **more: Any) -> dict[str, Any]:
    """A model of a backend; `price`, `contextWindow`, `maxOutput`, `baseModel`, … go along."""
    return {"name": name, "tier": tier, "capabilities": CAPABILITIES, **more}


def backend(
    name: str, provider: str, models: Iterable[dict[str, Any]], *, endpoint: str = "", key: str | None = PROVIDER_KEY, **more: Any
) -> dict[str, Any]:
    """Who answers. `endpoint` is put behind the provider's address, or is a whole URL; without a `key` the app's own is passed on."""
    made = {"name": name, "provider": provider, "endpoint": endpoint, "models": list(models), **more}
    if key is not None:
        made["credentials"] = {"name": name, "key": "api-key"}
        made["_key"] = key
    return made


def openai_backend(name: str = "openai", **more: Any) -> dict[str, Any]:
    # The project's tier is said, as examples say it; unsaid, each call would reserve the price of the dearest.
    more = {"serviceTier": "Standard", **more}
    return backend(name, "OpenAI", [model(*pair) for pair in OPENAI_MODELS.items()], **more)


def anthropic_backend(name: str = "anthropic", **more: Any) -> dict[str, Any]:
    return backend(name, "Anthropic", [model(*pair) for pair in ANTHROPIC_MODELS.items()], **more)


@dataclass
class Policy:
    budgets: list[dict[str, Any]] = field(default_factory=list)
    backends: list[dict[str, Any]] = field(default_factory=list)
    route: dict[str, Any] = field(default_factory=dict)

    def documents(self, provider_url: str) -> str:
        backends = []
        for given in self.backends:
            made = {name: value for name, value in given.items() if not name.startswith("_")}
            if not made["endpoint"].startswith("http"):
                made["endpoint"] = provider_url + made["endpoint"]
            backends.append(made)
        route = {"kind": "ModelRoute", "metadata": {"name": "conformance"}, "spec": {"backends": backends, **self.route}}
        documents = [{"apiVersion": "spendkeeper.dev/v1alpha1", **document} for document in [*self.budgets, route]]
        # JSON is YAML.
        return "---\n".join(json.dumps(document, indent=1) + "\n" for document in documents)

    def credentials(self) -> dict[str, str]:
        def variable(name: str) -> str:
            return "SPENDKEEPER_CREDENTIAL_" + re.sub("[^A-Za-z0-9]", "_", name).upper() + "_API_KEY"

        return {variable(given["name"]): given["_key"] for given in self.backends if "_key" in given}


def policy(budgets: Iterable[dict[str, Any]] | None = None, backends: Iterable[dict[str, Any]] | None = None, **route: Any) -> Policy:
    """A budget that is large enough for any test and both vendors' models, unless others are given. `aliases`, `fallback` and
    `policy` go into the route."""
    if budgets is None:
        budgets = [budget(usd="1000000.00")]
    return Policy(list(budgets), list(backends or [openai_backend(), anthropic_backend()]), route)
