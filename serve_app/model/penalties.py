"""Bias and penalties, by the ids of the tokens that they are about: a few hundred a row, where a table would have the whole vocabulary.

All rows at once, as one list of (row, token): every number depends on its own row alone.

Tests: tests/engine/test_sampling.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.messages import Sampling

FIRST_SIZE = 64


def has_penalty(sampling: Sampling) -> bool:
    """True where tokens that came before change the scores."""
    return sampling.repetition_penalty != 1.0 or sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0


class Seen:
    """The distinct tokens of a row, and how often it has generated each; the prompt's only where they matter."""

    def __init__(self, sampling: Sampling, prompt: Iterable[int]) -> None:
        self.sampling = sampling
        self._at: dict[int, int] = {}
        self._ids: NDArray[np.int64] = np.empty(FIRST_SIZE, np.int64)
        self._counts: NDArray[np.float32] = np.zeros(FIRST_SIZE, np.float32)
        if sampling.repetition_penalty != 1.0:
            for token in prompt:
                self._find(token)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The tokens, each once."""
        return self._ids[: len(self._at)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each was generated."""
        return self._counts[: len(self._at)]

    def add(self, token: int) -> None:
        """It was generated once more."""
        at = self._find(token)  # before the array is looked up, because it may be replaced by a longer one
        self._counts[at] += 1

    def _find(self, token: int) -> int:
        at = self._at.setdefault(token, len(self._at))
        if at == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[at] = token
        return at


class Bias:
    """What is added to the logits of a row's tokens, as arrays."""

    def __init__(self, pairs: Sequence[tuple[int, float]]) -> None:
        self.ids: NDArray[np.int64] = np.array([token for token, _ in pairs], np.int64)
        self.values: NDArray[np.float32] = np.array([value for _, value in pairs], np.float32)


def add_bias(scores: Tensor, rows: Sequence[int], biases: Sequence[Bias]) -> None:
    """Change the scores [all rows, vocabulary] of the `rows` named, in place."""
    row = _on(np.repeat(np.array(rows, np.int64), [len(bias.ids) for bias in biases]), scores)
    ids = _on(np.concatenate([bias.ids for bias in biases]), scores)
    scores[row, ids] += _on(np.concatenate([bias.values for bias in biases]), scores)


def penalise(scores: Tensor, rows: Sequence[int], seen: Sequence[Seen]) -> None:
    """Change the scores [all rows, vocabulary] of the `rows` named, in place, by the tokens that each has seen."""
    lengths = [len(one.ids) for one in seen]
    if not sum(lengths):
        return
    row = _on(np.repeat(np.array(rows, np.int64), lengths), scores)
    ids = _on(np.concatenate([one.ids for one in seen]), scores)
    counts = _on(np.concatenate([one.counts for one in seen]), scores)
    repetition, frequency, presence = (
        _on(np.repeat(np.array([getattr(one.sampling, f"{name}_penalty") for one in seen], np.float32), lengths), scores)
        for name in ("repetition", "frequency", "presence")
    )
    own = scores[row, ids]
    own = torch.where(own > 0, own / repetition, own * repetition)
    scores[row, ids] = own - (frequency * counts + presence * (counts > 0))


def _on(values: NDArray[np.generic], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)
