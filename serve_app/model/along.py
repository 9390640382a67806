"""The next tokens of each row where some were guessed: one, and behind each right guess the one after it.

Every token is chosen as if there were no guesses, one after the other, so penalties, random numbers and stop rules see what they would see
in single steps; a guess only says how far a row may go in this one. Tests: tests/engine/test_inflight.py.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence

from torch import Tensor

from serve_app.model.choose import choose
from serve_app.model.rows import Row, Scored

logger = logging.getLogger(__name__)

Take = Callable[[int, int, Scored | None], bool]  # row's number, token and its score -> whether the row goes on


class Along:
    """Chooses the first token of each row when it is made: where that raises, nothing has happened yet.

    `logits` [rows and all guesses, vocabulary] holds for each row what follows its last token, then what follows each of its guesses; in
    fp32 they may be changed.
    """

    def __init__(self, logits: Tensor, rows: Sequence[Row], guesses: Sequence[tuple[int, ...]], eos_ids: Sequence[int]) -> None:
        self._logits, self._rows, self._guesses, self._eos_ids = logits, rows, guesses, eos_ids
        self._at = list(itertools.accumulate((1 + len(guess) for guess in guesses), initial=0))
        self._first = self._choose(range(len(rows)), 0)

    def take(self, take: Take) -> list[list[int]]:
        """Hand each token to `take`; the tokens of each row."""
        tokens: list[list[int]] = [[] for _ in self._rows]
        going, chosen = list(range(len(self._rows))), self._first
        for depth in itertools.count(1):
            right = []
            for row, token, score in zip(going, *chosen, strict=True):
                tokens[row].append(token)
                if take(row, token, score) and self._guesses[row][depth - 1 : depth] == (token,):
                    right.append(row)
            if not (going := right):
                break
            try:
                chosen = self._choose(going, depth)
            except Exception:  # they keep what they have; if it was no accident, the next step breaks on it
                logger.exception("cannot choose behind a guess")
                break
        return tokens

    def _choose(self, going: Sequence[int], depth: int) -> tuple[list[int], list[Scored | None]]:
        own = self._logits if len(going) == len(self._logits) else self._logits[[self._at[row] + depth for row in going]]
        # Not sooner: most guesses need no fp32, and of 32 rows with six each it would take 44 MB.
        return choose(own.float(), [self._rows[row] for row in going], self._eos_ids)
