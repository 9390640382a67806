"""A row: one request while an engine works on it, and what a new token does to it.

Integers, strings and seconds only; no tensors, no threads. Tests: tests/engine/test_engine.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import Finish, FinishReason, ModelCard, Usage
from serve_app.model.engine import Ending, Stream
from serve_app.model.spelling import Spelling
from serve_app.model.text import Decode, TextStream


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model itself gave the token that was chosen, and its most probable tokens: natural logarithms of probabilities."""

    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(slots=True, eq=False)
class Row:
    """One request in the engine. `seconds` is its share of the engine's time so far."""

    stream: Stream
    prompt_ids: list[int]
    eos_ids: Collection[int]
    decode: Decode
    spelling: Spelling | None = None  # needed where log-probabilities are asked for
    text: TextStream = field(init=False)
    seconds: float = 0.0
    num_generated: int = 0
    num_unsent: int = 0
    sent_text: bool = False
    batch_size: int = 0
    started_at: float | None = None
    first_token_at: float | None = None
    num_cached: int = 0  # prompt tokens whose KV was there already
    last_token: int = 0
    chooser: Any = None  # what an engine keeps for this row's choices; see sampling.py
    _num_chars_sent: int = 0
    _unsent: list[TokenLogprob] = field(default_factory=list)  # log-probabilities of tokens whose text is held back

    def __post_init__(self) -> None:
        self.text = TextStream(self.decode, self.stream.request.sampling.stop)

    @property
    def live(self) -> bool:
        """True until its ending."""
        return not self.stream.ended

    @property
    def max_tokens(self) -> int:
        """Upper limit of the answer's tokens."""
        return self.stream.request.sampling.max_tokens

    def start(self, now: float, batch_size: int) -> None:
        """Its batch begins. After a failed batch it starts again, from nothing; its share of the time stays."""
        self.text = TextStream(self.decode, self.stream.request.sampling.stop)
        self.num_generated = self.num_unsent = self._num_chars_sent = 0
        self._unsent = []
        self.started_at = now if self.started_at is None else self.started_at
        self.batch_size = batch_size

    def take(self, token: int, now: float, scored: Scored | None = None) -> FinishReason | None:
        """Count a new token and send its text, with its log-probability where it has one; the reason where the answer is over."""
        sampling = self.stream.request.sampling
        self.num_generated += 1
        self.num_unsent += 1
        self.last_token = token
        self.first_token_at = now if self.first_token_at is None else self.first_token_at
        if self.stream.cancelled:
            return "cancelled"
        may_stop = self.num_generated >= sampling.min_tokens
        if token in self.eos_ids and may_stop and not sampling.ignore_eos:
            self._send(self.text.close(may_stop), last=True)
            return "stop"
        if scored is not None:
            self._note(token, scored)
        self._send(self.text.push(token, may_stop))
        if self.text.stopped:
            return "stop"
        if self.num_generated < sampling.max_tokens:
            return None
        self._send(self.text.close(may_stop), last=True)
        return "stop" if self.text.stopped else "length"

    def finish(self, reason: FinishReason, now: float, card: ModelCard, price_per_hour_usd: float) -> Finish:
        """The good ending and what it took."""
        arrived_at = self.stream.arrived_at
        started_at, first_token_at = (now if at is None else at for at in (self.started_at, self.first_token_at))
        num_prompt = len(self.prompt_ids) if self.first_token_at is not None else 0  # nothing was computed for one that never ran
        return Finish(
            reason=reason,
            usage=Usage(len(self.prompt_ids), self.num_generated, self.num_cached),
            compute_s=self.seconds,
            alone_s=num_prompt / card.alone_prefill_tokens_per_s + self.num_generated * card.alone_decode_step_s,
            queue_s=started_at - arrived_at,
            ttft_s=first_token_at - arrived_at,
            duration_s=now - arrived_at,
            batch_size=self.batch_size,
            cost_usd=self.seconds * price_per_hour_usd / 3600,
        )

    def end(self, ending: Ending) -> bool:
        """Hand the ending over; True if it was the first."""
        return self.stream.end(ending)

    def _send(self, text: str, *, last: bool = False) -> None:
        self._num_chars_sent += len(text)
        logprobs = self._ready(last) if self._unsent else ()
        if text or logprobs:
            self.stream.put_text(text, self.num_unsent, logprobs)
            self.num_unsent = 0
            self.sent_text = True

    def _note(self, token: int, scored: Scored) -> None:
        """Keep a token's log-probability until its text is sent."""
        assert self.spelling is not None, "an engine whose rows tell log-probabilities spells its tokens"
        if self.spelling.is_special(token):
            return
        top = tuple(Candidate(self.spelling.spell(other), logprob) for other, logprob in scored.top)
        self._unsent.append(TokenLogprob(Candidate(self.spelling.spell(token), scored.logprob), top, self.text.num_chars))

    def _ready(self, last: bool) -> tuple[TokenLogprob, ...]:
        """Those whose text has gone out by now. At the end all of them, but for the tokens of a stop string."""
        everything = last and not self.text.stopped
        num = len(self._unsent) if everything else sum(entry.offset < self._num_chars_sent for entry in self._unsent)
        logprobs, self._unsent = tuple(self._unsent[:num]), self._unsent[num:]
        return logprobs
