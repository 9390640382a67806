"""Prompt lookup: what a sequence says next is guessed from what it has read and said, and the next step computes the guess along.

A summary repeats its article, an edit its original, a small model itself: where the last tokens stood before, what followed them then often
follows now. A guess costs one more position in a step, and each right one saves a step; the model still chooses every token, so the answer
does not change. After Saxena, prompt lookup decoding (https://github.com/apoorvumang/prompt-lookup-decoding) and, for checking guesses in
one forward, Leviathan et al., 2023 (https://arxiv.org/abs/2211.17192).

Integers and floats only. Must not know slots, engines or text. Tests: tests/fast/test_lookup.py.
"""

from __future__ import annotations

from collections.abc import Iterable

SIZES = (3, 2)  # tokens that must have stood before, the surer first
FIRST_RATES = {3: 0.8, 2: 0.6}  # how often a guess is right, before anything is known; as measured on articles and chats
FIRST_WEIGHT = 4.0  # so many guesses is that knowledge worth
MEMORY = 0.9  # of what was learnt, kept from guess to guess: a list may begin where prose has ended
SHIFT = 21  # bits of a token id; the largest vocabularies have 2^18 tokens


class Lookup:
    """Of one sequence; `extend` it by every token that becomes part of it."""

    def __init__(self, token_ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._follows: dict[int, dict[int, int]] = {size: {} for size in SIZES}  # last tokens -> where what followed them last time is
        self._right = {size: FIRST_RATES[size] * FIRST_WEIGHT for size in SIZES}
        self._tried = dict.fromkeys(SIZES, FIRST_WEIGHT)
        self._size = SIZES[0]  # of the last guess
        self.extend(token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        """These tokens are next."""
        for token in token_ids:
            for size in SIZES:
                if len(self._ids) >= size:
                    self._follows[size][self._tail(size)] = len(self._ids)
            self._ids.append(token)

    def guess(self, most: int, price: float) -> tuple[int, ...]:
        """The next tokens, at most so many; none where the last tokens are new.

        `price`: what one more position costs, as a share of what a token costs that is not guessed. The n-th token of a guess is right only
        with all before it, so there are as many as have a chance above the price.
        """
        for size in SIZES:
            at = self._follows[size].get(self._tail(size)) if len(self._ids) >= size else None
            if at is not None:
                self._size = size
                self._fade(size)
                return self._copied(at, min(most, self._worth(size, most, price)))
        return ()

    def learn(self, num_guessed: int, num_right: int) -> None:
        """So many of the last guess's tokens were right; the first wrong one says nothing about those behind it."""
        self._right[self._size] += num_right
        self._tried[self._size] += min(num_guessed, num_right + 1)

    def _fade(self, size: int) -> None:
        """Forget a little, so that guessing begins again some time after it has not paid."""
        fresh = (1 - MEMORY) * FIRST_WEIGHT
        self._right[size] = MEMORY * self._right[size] + fresh * FIRST_RATES[size]
        self._tried[size] = MEMORY * self._tried[size] + fresh

    def _worth(self, size: int, most: int, price: float) -> int:
        rate = self._right[size] / self._tried[size]
        chance, num = rate, 0
        while num < most and chance > price:
            chance *= rate
            num += 1
        return num

    def _copied(self, at: int, num: int) -> tuple[int, ...]:
        """Tokens from a place on; behind the last one it goes round, because what repeats itself goes on to."""
        found = self._ids[at : at + num]
        while len(found) < num:
            found.append(found[len(found) - (len(self._ids) - at)])
        return tuple(found)

    def _tail(self, size: int) -> int:
        number = 0
        for token in self._ids[-size:]:
            number = number << SHIFT | token
        return number
