"""What each engine can do: the request fields beyond `max_tokens` that it honours, and the refusal of a request that uses another one.

Pure, and free of torch: the API and docs/engines.md speak of the same table. A field that `Sampling` gains is one that `slots` and `static`
serve; `transformers` refuses it until it is named below. Tests: tests/fast/test_capabilities.py, and each engine against its own list in
tests/engine/test_engine_contract.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields
from types import MappingProxyType

from serve_app.errors import BadRequest
from serve_app.messages import Sampling

ALL = frozenset(field.name for field in fields(Sampling)) - {"max_tokens"}

ENGINES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "slots": ALL,
        "static": ALL,
        "transformers": frozenset(
            {
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "seed",
                "frequency_penalty",
                "presence_penalty",
                "repetition_penalty",
                "stop",
                "min_tokens",
                "ignore_eos",
            }
        ),
    }
)

UNUSED_WHEN_GREEDY = frozenset({"top_p", "top_k", "min_p", "seed"})  # each keeps the most likely token
DEFAULT = Sampling()


def used_by(sampling: Sampling) -> list[str]:
    """The fields beyond `max_tokens` that change this answer, in the order of `Sampling`."""
    changed = [field.name for field in fields(Sampling) if getattr(sampling, field.name) != getattr(DEFAULT, field.name)]
    unused = UNUSED_WHEN_GREEDY if sampling.greedy else frozenset()
    return [name for name in changed if name in ALL and name not in unused]


def refusal(sampling: Sampling, engine: str, served: Set[str]) -> BadRequest | None:
    """Why an engine that serves these fields does not take the request, naming the first field of those that it does not serve."""
    for name in used_by(sampling):
        if name not in served:
            others = [f"model.engine: {other}" for other, theirs in ENGINES.items() if other != engine and name in theirs]
            remedy = f", or serve this model with {' or '.join(others)}" if others else ""
            return BadRequest(
                f"{name} is not served by the engine of this model (model.engine: {engine}); leave it out{remedy}", param=name
            )
    return None
