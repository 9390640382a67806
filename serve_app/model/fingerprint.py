"""What can change an answer, as one hash: the weights' bytes and bits, and what makes a prompt of messages. Part of every answer's key.

Pure. Tests: tests/fast/test_cache_key.py.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from serve_app.model.source import Source
from serve_app.settings import ModelSettings


def fingerprint(settings: ModelSettings, source: Source, dtype: str, tokenizer: Any) -> str:
    """SHA-256 over everything about the weights and the prompt's making that can change an answer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    template = tokenizer.chat_template or ""
    return sha256_of({"source": source.identity, "dtype": dtype, "template": template, "tokenizer": words, **bits_of(settings)})


def bits_of(settings: ModelSettings) -> dict[str, object]:
    """The settings that decide the bits of the quantised weights."""
    if settings.quantization not in ("nf4", "fp4"):
        return {"quantization": settings.quantization}
    return settings.model_dump(include={"quantization", "double_quantization", "block_size"})


def sha256_of(data: dict[str, object]) -> str:
    """Of the data as JSON with sorted keys; hexadecimal."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
