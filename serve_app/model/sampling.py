"""How each row of a batch chooses its token: what changes its scores, in vLLM's order, and who draws.

    raw log-probabilities -> bias -> penalties -> no early end -> greedy, or temperature -> top-k -> top-p -> min-p -> draw

A row's choices depend on its own settings, seed and scores alone, never on its neighbours. Tests: tests/engine/test_sampling.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from serve_app.messages import Sampling
from serve_app.model.draws import draw
from serve_app.model.penalties import Bias, Seen, add_bias, has_penalty, penalise
from serve_app.model.raw import RawLogprobs
from serve_app.model.rows import Scored


class Chooser:
    """What a row's choices depend on beside its scores: its settings, its random numbers, the tokens that it has seen."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        """`prompt` is without padding: a pad token that counted as seen would be penalised, and pad is often eos."""
        self.sampling = sampling
        self.num_generated = 0
        self.random = None if sampling.greedy else random.Random(sampling.seed)  # of the system where there is no seed
        self.bias = Bias(sampling.logit_bias) if sampling.logit_bias else None
        self.seen = Seen(sampling, prompt) if has_penalty(sampling) else None

    @property
    def holds_eos_back(self) -> bool:
        """True where this token may not be the end."""
        return self.sampling.ignore_eos or self.num_generated < self.sampling.min_tokens

    def add(self, token: int) -> None:
        """It has generated this token."""
        self.num_generated += 1
        if self.seen is not None:
            self.seen.add(token)


def is_plain(sampling: Sampling, num_generated: int) -> bool:
    """True where the next token is that of the highest score, as the model gave it."""
    return (
        sampling.greedy
        and not has_penalty(sampling)
        and not sampling.logit_bias
        and not sampling.ignore_eos
        and num_generated >= sampling.min_tokens
    )


def adjust(scores: Tensor, choosers: Sequence[Chooser | None], eos_ids: Sequence[int]) -> None:
    """Bias, penalties and the ban of an early end, in place on scores [rows, vocabulary]; rows without a chooser stay as they are."""
    own = [(row, chooser) for row, chooser in enumerate(choosers) if chooser is not None]
    biased = [(row, chooser.bias) for row, chooser in own if chooser.bias is not None]
    if biased:
        add_bias(scores, [row for row, _ in biased], [bias for _, bias in biased])
    penalised = [(row, chooser.seen) for row, chooser in own if chooser.seen is not None]
    if penalised:
        penalise(scores, [row for row, _ in penalised], [seen for _, seen in penalised])
    held = [row for row, chooser in own if chooser.holds_eos_back]
    if held and eos_ids:
        scores[torch.tensor(held, device=scores.device)[:, None], torch.tensor(eos_ids, device=scores.device)] = -torch.inf


def drawn(scores: Tensor, choosers: Sequence[Chooser | None]) -> dict[int, int]:
    """Row -> token, of the rows that have a temperature."""
    own = {row: chooser for row, chooser in enumerate(choosers) if chooser is not None and chooser.random is not None}
    if not own:
        return {}
    numbers = [chooser.random.random() for chooser in own.values() if chooser.random is not None]
    picked = scores if len(own) == len(choosers) else scores[list(own)]
    return dict(zip(own, draw(picked, [chooser.sampling for chooser in own.values()], numbers), strict=True))


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """The choices of one static batch, for all of its steps: `generate` stays greedy, and the argmax of each row is its choice."""

    def __init__(self, samplings: Sequence[Sampling], prompts: Sequence[Sequence[int]], eos_ids: Sequence[int]) -> None:
        self._samplings = samplings
        self._choosers = [Chooser(sampling, prompt) for sampling, prompt in zip(samplings, prompts, strict=True)]
        self._eos_ids = list(eos_ids)
        self._raw: RawLogprobs | None = None
        self._started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by `generate` once a step, with fp32 scores [rows, vocabulary] that it may change; `input_ids` ends with the tokens of
        the step before."""
        self._raw = RawLogprobs(scores, self._samplings)
        if self._started:
            for chooser, token in zip(self._choosers, input_ids[:, -1].tolist(), strict=True):
                chooser.add(token)
        self._started = True
        adjust(scores, self._choosers, self._eos_ids)
        for row, token in drawn(scores, self._choosers).items():
            scores[row, token] = torch.inf
        return scores

    def scored(self, tokens: Sequence[int]) -> list[Scored | None]:
        """What the model itself gave the tokens of this step, where it was asked for."""
        assert self._raw is not None, "a step has been computed"
        return self._raw.of(tokens)
