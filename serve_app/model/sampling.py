"""How each row of a batch chooses its token: one LogitsProcessor whose argmax is the choice, so that `generate` itself stays greedy.

A row's draws depend on its own seed and scores alone, never on its neighbours: every row has its own generator, and a draw is the
Gumbel-max trick (argmax of log-probability minus the log of exponential noise; https://arxiv.org/abs/1611.01144, section 2). The filters
come in transformers' order: penalties, temperature, top-k, top-p, min-p. Tests: tests/fast/test_sampling.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from serve_app.messages import Sampling

HEAD = 1024  # a nucleus is nearly always within the most probable 1,024; sorting 49,152 scores takes ten times as long


def has_penalty(sampling: Sampling) -> bool:
    """True where tokens that came before change the scores."""
    return sampling.repetition_penalty != 1.0 or sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """The choices of one batch, for all of its steps. Scores are [rows, vocabulary] in fp32 and are changed in place."""

    def __init__(self, samplings: Sequence[Sampling], prompts: Sequence[Sequence[int]], eos_ids: Sequence[int]) -> None:
        """`prompts` are without padding: a pad token that counted as seen would be penalised, and pad is often eos."""
        self._samplings = samplings
        self._prompts = prompts
        self._eos_ids = list(eos_ids)
        self._num_generated = 0
        self._drawn = [row for row, sampling in enumerate(samplings) if not sampling.greedy]
        self._penalised = [row for row, sampling in enumerate(samplings) if has_penalty(sampling)]
        self._draws: _Draws | None = None
        self._penalties: _Penalties | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by `generate` once a step; `input_ids` ends with the tokens of the step before."""
        if self._num_generated == 0:
            self._prepare(scores)
        if self._penalties is not None:
            self._penalties.apply(scores, input_ids[:, -1] if self._num_generated else None)
        self._mask_eos(scores)
        if self._draws is not None:
            scores[self._drawn] = self._draws.apply(scores[self._drawn])
        self._num_generated += 1
        return scores

    def _prepare(self, scores: Tensor) -> None:
        vocabulary, device = scores.shape[-1], scores.device
        if self._drawn:
            self._draws = _Draws([self._samplings[row] for row in self._drawn], device)
        if self._penalised:
            samplings, prompts = ([items[row] for row in self._penalised] for items in (self._samplings, self._prompts))
            self._penalties = _Penalties(self._penalised, samplings, prompts, vocabulary, device)  # type: ignore[arg-type]

    def _mask_eos(self, scores: Tensor) -> None:
        if not self._eos_ids:
            return
        for row, sampling in enumerate(self._samplings):
            if sampling.ignore_eos or self._num_generated < sampling.min_tokens:
                scores[row, self._eos_ids] = -torch.inf


class _Penalties:
    """Which tokens the penalised rows have seen and how often they generated them: [penalised rows, vocabulary]."""

    def __init__(
        self, rows: Sequence[int], samplings: Sequence[Sampling], prompts: Sequence[Sequence[int]], vocabulary: int, device: torch.device
    ) -> None:
        self._rows = torch.tensor(rows, device=device)
        self._index = torch.arange(len(rows), device=device)
        self._seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool, device=device)
        for row, prompt in enumerate(prompts):
            self._seen[row, torch.tensor(list(prompt), device=device)] = True
        self._counts = torch.zeros(len(rows), vocabulary, device=device)
        self._repetition = _column((sampling.repetition_penalty for sampling in samplings), device)
        self._frequency = _column((sampling.frequency_penalty for sampling in samplings), device)
        self._presence = _column((sampling.presence_penalty for sampling in samplings), device)

    def apply(self, scores: Tensor, last: Tensor | None) -> None:
        """Count the tokens of the step before ([rows] or None) and change the penalised rows' scores."""
        if last is not None:
            tokens = last[self._rows]
            self._seen[self._index, tokens] = True
            self._counts[self._index, tokens] += 1
        own = scores[self._rows]
        repeated = torch.where(own > 0, own / self._repetition, own * self._repetition)
        own = torch.where(self._seen, repeated, own)
        own -= self._frequency * self._counts + self._presence * (self._counts > 0)
        scores[self._rows] = own


class _Draws:
    """The drawn rows' temperature, filters and noise."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self._temperature = _column((max(sampling.temperature, 1e-5) for sampling in samplings), device)
        self._top_k = [sampling.top_k for sampling in samplings]
        self._top_p = [sampling.top_p for sampling in samplings]
        self._min_p = _column((sampling.min_p for sampling in samplings), device)
        self._generators = [_generator(sampling.seed, device) for sampling in samplings]
        self._filtered = [row for row, sampling in enumerate(samplings) if sampling.top_k > 0 or sampling.top_p < 1]
        self._any_min_p = any(sampling.min_p > 0 for sampling in samplings)

    def apply(self, scores: Tensor) -> Tensor:
        """[drawn rows, vocabulary] scores to scores whose argmax is the draw."""
        scores = torch.log_softmax(scores / self._temperature, dim=-1)
        for row in self._filtered:
            floor = _floor(scores[row], self._top_k[row], self._top_p[row])
            scores[row].masked_fill_(scores[row] < floor, -torch.inf)
        if self._any_min_p:
            best = scores.max(dim=-1, keepdim=True).values
            scores.masked_fill_(scores < best + self._min_p.log(), -torch.inf)
        noise = torch.empty_like(scores)
        for row, generator in enumerate(self._generators):
            noise[row].exponential_(generator=generator)
        return scores - noise.log()


def _floor(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """The smallest log-probability of one row ([vocabulary]) that top-k and then top-p keep. Ties stay."""
    vocabulary = scores.shape[-1]
    num_kept = min(top_k, vocabulary) if top_k > 0 else vocabulary
    if top_p >= 1:
        return scores.topk(num_kept).values[-1]
    if num_kept < vocabulary:
        best = scores.topk(num_kept).values
        goal = top_p * best.exp().sum()
    else:
        best = scores.topk(min(HEAD, vocabulary)).values
        goal = top_p * scores.exp().sum()
        if best.exp().sum() < goal:
            best = scores.sort(descending=True).values
    above = best.exp().cumsum(0) - best.exp()  # probability of everything above it; the one that crosses the goal is kept
    return best[(above < goal).sum() - 1]


def _generator(seed: int | None, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device=device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed % 2**63)
    return generator


def _column(values: object, device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32, device=device)[:, None]  # type: ignore[call-overload]
