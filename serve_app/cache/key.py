"""What makes two questions the same: the SHA-256 of canonical JSON of everything that can change the answer, and of the scope.

Left out on purpose: `request_id` and `priority` change nothing in the text; under greedy decoding `seed`, `top_p`, `top_k` and `min_p` do
not either (each keeps the most likely token), so they are set to one value. What came after version 1 is left out where it is off, so that
answers stored before are still found.
Tests: tests/fast/test_cache_key.py changes every field in turn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from serve_app.messages import Ask, Sampling

SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling))
UNUSED_WHEN_GREEDY = {"temperature": 0.0, "seed": None, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
OFF: dict[str, object] = {"logit_bias": (), "logprobs": None}
VERSION = 1  # of this layout; raise it when the meaning of a stored answer changes


def answer_key(ask: Ask, fingerprint: str) -> str:
    """64 hex digits. `fingerprint` is `ModelCard.fingerprint`: weights, quantization, chat template."""
    return _sha256({**_question(ask), "fingerprint": fingerprint})


def shard_key(ask: Ask) -> str:
    """Which AnswerCache shard answers: the same question always goes to the same one, before anybody knows the loaded weights."""
    return _sha256(_question(ask))


def _question(ask: Ask) -> dict[str, object]:
    generate = ask.generate
    by_chance = generate.choice and not generate.sampling.repeatable
    return {
        "version": VERSION,
        "scope": ask.scope,
        "model": generate.model,
        "messages": [[message.role, message.content] for message in generate.messages],
        "prompt": generate.prompt,
        "sampling": _canonical(generate.sampling),
        **({"choice": generate.choice} if by_chance else {}),
    }


def _canonical(sampling: Sampling) -> dict[str, object]:
    fields = {name: getattr(sampling, name) for name in SAMPLING}  # `asdict` copies deeply, and took a third of a key's time
    for name, off in OFF.items():
        if fields[name] == off:
            del fields[name]
    return {**fields, **UNUSED_WHEN_GREEDY} if sampling.greedy else fields


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
