"""The model's own log-probabilities of a step, before anything changes its logits: only for the rows that ask for them.

Tests: tests/engine/test_logprobs.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from serve_app.messages import Sampling
from serve_app.model.rows import Scored

MAX_TOP = 20  # OpenAI's limit; always as many are looked up, so that company does not change which of equal ones are told


class RawLogprobs:
    """Make it of a step's logits [rows, vocabulary], then ask for the tokens that were chosen."""

    def __init__(self, logits: Tensor, samplings: Sequence[Sampling]) -> None:
        self._num_top = {row: sampling.logprobs for row, sampling in enumerate(samplings) if sampling.logprobs is not None}
        self._num_rows = len(samplings)
        if self._num_top:
            self._logprobs = logits[list(self._num_top)].log_softmax(dim=-1)

    def of(self, tokens: Sequence[int]) -> list[Scored | None]:
        """For each row what was asked for; `None` for rows that did not ask."""
        scored: list[Scored | None] = [None] * self._num_rows
        if not self._num_top:
            return scored
        best = self._logprobs.topk(min(MAX_TOP, self._logprobs.shape[-1]))
        values, ids = best.values.tolist(), best.indices.tolist()
        for index, (row, num) in enumerate(self._num_top.items()):
            # Equal ones, of which bf16 has many, in order of their ids: so the greedy choice, the first of the best, comes first here, too.
            top = sorted(zip(ids[index], values[index], strict=True), key=lambda one: (-one[1], one[0]))
            scored[row] = Scored(float(self._logprobs[index, tokens[row]]), top[:num])
        return scored
