"""Sentences as unit vectors, by a model of sentence-transformers on the CPU with one thread: the cores are the engine's.

The weights are read from safetensors and nothing from the network; settings_similar.py has refused folders that could run code. Calls
block, and are made from one thread. Tests: tests/model/test_similar.py.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Embedding(Protocol):
    """`name` identifies the weights, so that vectors of another model are never compared with; `dim` is the length of a vector."""

    name: str
    dim: int

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """[texts, dim], each row of length 1."""


class SentenceEmbedding:
    """A folder of sentence-transformers. Loading takes seconds, most of them for importing the library."""

    def __init__(self, folder: pathlib.Path) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        torch.set_num_threads(1)
        logging.disable_progress_bar()
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
        self._model = SentenceTransformer(str(folder), device="cpu", **options).eval()
        self.name = _digest(folder)
        self.dim = len(self(["a"])[0])

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """See Embedding."""
        found = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, dtype=np.float32)


def _digest(folder: pathlib.Path) -> str:
    """16 hex digits of what decides a vector: weights, tokenizer, pooling."""
    told = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in (".safetensors", ".json", ".txt") and file.is_file()):
        told.update(file.relative_to(folder).as_posix().encode() + b"\0")
        with file.open("rb") as data:
            told.update(hashlib.file_digest(data, "sha256").digest())
    return told.hexdigest()[:16]
