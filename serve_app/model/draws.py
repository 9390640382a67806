"""Tokens at random: temperature, top-k, top-p, min-p and one draw, for many rows at once.

A row's token depends on its own scores, settings and random number alone, to the last bit: sums over the vocabulary are those of torch's
softmax and of a cumulative sum, which go row by row, and what is found faster in company (the bounds below) never changes what is kept.
The draw inverts the cumulative distribution: one random number per row and step, where noise on each score (the Gumbel-max trick) takes
49,152 of them, and a step of 32 rows 41 ms on one core instead of 8. Tests: tests/engine/test_sampling.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve_app.messages import Sampling

MIN_TEMPERATURE = 1e-5
ROUNDING = 1e-5  # more than a row of fp32 probabilities is ever off 1


def draw(scores: Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> list[int]:
    """A token for each row of scores [rows, vocabulary], by its random number from [0, 1)."""
    chances = torch.softmax(scores / _column((max(one.temperature, MIN_TEMPERATURE) for one in samplings), scores), dim=-1)
    tokens = [0] * len(samplings)
    filtered = [row for row, one in enumerate(samplings) if one.top_k > 0 or one.top_p < 1 or one.min_p > 0]
    plain = sorted({*range(len(samplings))}.difference(filtered))
    for rows, pick in ((plain, _pick_any), (filtered, _pick_filtered)):
        if rows:
            own = chances if len(rows) == len(samplings) else chances[rows]
            for row, token in zip(rows, pick(own, [samplings[row] for row in rows], [numbers[row] for row in rows]), strict=True):
                tokens[row] = token
    return tokens


def _pick_any(chances: Tensor, _samplings: Sequence[Sampling], numbers: Sequence[float]) -> list[int]:
    picked: list[int] = _invert(chances, numbers)[:, 0].tolist()
    return picked


def _pick_filtered(chances: Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> list[int]:
    ids, own = _compact(chances, _bounds(chances, samplings))
    own = own.masked_fill(own < _floors(own, samplings), 0.0)
    picked: list[int] = ids.gather(1, _invert(own, numbers))[:, 0].tolist()
    return picked


def _bounds(chances: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Below which probability no token is kept, [rows, 1]: cheap to know, and exact, though not tight.

    Top-p: tokens that are each less probable than (1 - top_p) / vocabulary are together less than 1 - top_p, so those above have enough
    already. Top-k: of groups of tokens, the k-th best group's best token is no better than the k-th best token.
    """
    vocabulary = chances.shape[-1]
    top_p = _column((one.top_p for one in samplings), chances)
    bounds = torch.clamp(1 - top_p - ROUNDING, min=0.0) / vocabulary
    bounds = torch.maximum(bounds, _column((one.min_p for one in samplings), chances) * chances.amax(dim=-1, keepdim=True))
    limited = [row for row, one in enumerate(samplings) if one.top_k > 0]
    if limited:
        # What is improbable counts here, too: top-p takes its share of the k best together.
        most = max(min(samplings[row].top_k, vocabulary) for row in limited)
        width = max(1, vocabulary // (4 * most))
        best = chances[limited, : vocabulary // width * width].unflatten(-1, (-1, width)).amax(dim=-1)
        best = best.topk(min(most, best.shape[-1])).values
        kth = torch.tensor([min(samplings[row].top_k, best.shape[-1]) - 1 for row in limited], device=chances.device)
        bounds[limited] = best.gather(1, kth[:, None])
    return bounds


def _compact(chances: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and probabilities of the tokens that reach the bound, in order of their ids, padded with 0: both [rows, most of a row]."""
    row, token = (chances >= bounds).nonzero(as_tuple=True)
    num = torch.bincount(row, minlength=len(chances))
    place = torch.arange(len(row), device=row.device) - (num.cumsum(0) - num)[row]
    shape = (len(chances), int(num.max()))
    ids = torch.zeros(shape, dtype=torch.long, device=row.device)
    own = torch.zeros(shape, dtype=chances.dtype, device=row.device)
    ids[row, place], own[row, place] = token, chances[row, token]
    return ids, own


def _floors(own: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The smallest probability that top-k, then top-p, then min-p keep, [rows, 1]. Equal ones stay together."""
    ordered = own.sort(dim=-1, descending=True).values
    width = ordered.shape[-1]
    last = torch.tensor([min(one.top_k or width, width) - 1 for one in samplings], device=own.device)[:, None]
    floors = torch.where(_column((one.top_k for one in samplings), own) > 0, ordered.gather(1, last), 0.0)
    sums = ordered.masked_fill(ordered < floors, 0.0).cumsum(dim=-1, dtype=torch.float64)
    top_p = _column((one.top_p for one in samplings), own)
    whole = torch.where(floors > 0, sums[:, -1:], 1.0)  # without top-k all probabilities count, the left out ones too
    before = sums - ordered
    nucleus = (before < top_p * whole).sum(dim=-1, keepdim=True) - 1  # the one that crosses the goal is kept
    floors = torch.where(top_p < 1, torch.maximum(floors, ordered.gather(1, nucleus)), floors)
    return torch.maximum(floors, _column((one.min_p for one in samplings), own) * ordered[:, :1])


def _invert(weights: Tensor, numbers: Sequence[float]) -> Tensor:
    """Where the cumulative sum of each row first exceeds its number's share of the whole, [rows, 1]; never at a weight of 0."""
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    goal = torch.tensor(numbers, dtype=torch.float64, device=weights.device)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, goal, right=True).clamp(max=weights.shape[-1] - 1)


def _column(values: object, like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32, device=like.device)[:, None]  # type: ignore[call-overload]
