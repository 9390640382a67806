"""What travels between the boxes of the graph: small frozen dataclasses of plain data, safe to pickle across a handle.

Nothing here knows Ray, HTTP, SQL or torch. A generation travels down as `Ask` (AnswerCache) and `Generate` (Model) and comes back as a
stream: one `Opening` (from AnswerCache only), any number of `Chunk`, and exactly one ending, a `Finish` or a `Failed`.
Tests: tests/fast/test_messages.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.errors import FrugalError
from serve_app.logprobs import TokenLogprob

Role = Literal["system", "user", "assistant"]
Priority = Literal["interactive", "batch"]
Outcome = Literal["hit", "stale", "similar", "join", "miss", "bypass"]
REUSED: tuple[Outcome, ...] = ("hit", "stale", "similar", "join")  # no generation of its own
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to stop. An engine honours a field or refuses the request; see model/capabilities.py.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch their filter off. Penalties follow OpenAI
    (`frequency_penalty`, `presence_penalty`, -2 to 2, over the generated tokens) and CTRL (`repetition_penalty`, > 0, over prompt and
    generated tokens, https://arxiv.org/abs/1909.05858). `stop` strings are not part of the answer. `logit_bias` is added to the logits of
    token ids, in order of the ids. `logprobs`: tell each token's log-probability and those of so many most probable ones; `None`: do not.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    max_tokens: int = 256
    min_tokens: int = 0
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """True where the same prompt always gives the same distribution's top token."""
        return self.temperature == 0.0

    @property
    def repeatable(self) -> bool:
        """True where a second run would draw the same tokens, so that a stored answer may stand for it."""
        return self.greedy or self.seed is not None


@dataclass(frozen=True, slots=True)
class Generate:
    """One generation for a model: a conversation (`messages`, put through the chat template) or a raw `prompt`, never both."""

    request_id: str
    model: str
    sampling: Sampling
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    priority: Priority = "interactive"
    fingerprint: str = ""  # of the weights that must answer, see ModelCard; empty: any
    choice: int = 0  # tells apart answers to one question that differ by chance alone: not greedy, and without a seed


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What a request says about stored answers: `Cache-Control` in the words of RFC 9111, section 5.2.1. See cache/rules.py.

    `no_cache`: use no stored or live answer, do store the new one. `no_store`: do not store. `max_age_s`: accept only answers at most that
    old. `sampled_always`: cache and join although the request is not repeatable (temperature > 0 and no seed). `similar`: the answer to a
    question that means the same will do, where that is switched on. `max_stale_s`: accept an answer that is so long beyond its time to
    live. `min_fresh_s`: accept only what will be fresh for so long. `only_if_cached`: a stored answer or an error, never a generation.
    `ttl_s`: time to live of what is stored on account of this request.
    """

    no_cache: bool = False
    no_store: bool = False
    max_age_s: float | None = None
    sampled_always: bool = False
    similar: bool = True
    max_stale_s: float | None = None
    min_fresh_s: float | None = None
    only_if_cached: bool = False
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for AnswerCache: what to generate, what may be reused, for whom (`scope`) and on behalf of which feed (`feed_id`)."""

    generate: Generate
    policy: CachePolicy = CachePolicy()
    scope: str = ""
    feed_id: str = ""


@dataclass(frozen=True, slots=True)
class Opening:
    """First item of an answer: how it was made. `age_s` is the age of a stored answer, `None` for one that is being made.

    `replay_s`: for so long after its good ending the answer may stand for the next identical question without asking AnswerCache again.
    `similarity`: of a similar question's answer, whose key is `key`: the cosine similarity of the two questions.
    """

    outcome: Outcome
    key: str
    age_s: float | None = None
    replay_s: float = 0.0
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some text and the number of tokens it took. Several steps' worth may travel as one chunk.

    `logprobs`, where they were asked for, has the text's tokens in order: without special tokens, the end of sequence among them, and
    without those of a stop string.
    """

    text: str
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def joined(cls, chunks: Sequence[Chunk]) -> Chunk:
        """Neighbouring chunks as one."""
        if len(chunks) == 1:
            return chunks[0]
        logprobs = tuple(entry for chunk in chunks for entry in chunk.logprobs)
        return cls("".join(chunk.text for chunk in chunks), sum(chunk.num_tokens for chunk in chunks), logprobs)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation; `cached_tokens` of the prompt's came from KV that was there already."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The good ending of a generation and what it took.

    `compute_s`: this request's share of the engine's step time, in seconds on one replica. `alone_s`: what the same tokens cost one at a
    time, from the rates measured on this replica at its start. `queue_s`, `ttft_s`, `duration_s`: from arrival at the engine to the first
    step, to the first token, to the end. `batch_size`: rows of the batch it ran in. `cost_usd`: `compute_s` at the replica's price.
    """

    reason: FinishReason
    usage: Usage
    compute_s: float
    alone_s: float
    queue_s: float
    ttft_s: float
    duration_s: float
    batch_size: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The bad ending of a generation."""

    error: FrugalError


Item = Opening | Chunk | Finish | Failed


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: what AnswerCache stores, and what a caller that does not stream gets."""

    opening: Opening
    text: str
    finish: Finish
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Who answers: everything about loaded weights that can change an answer, and the limits a client must know.

    `fingerprint` is a SHA-256 over the weights' identity, the quantization and the chat template; it is part of every cache key.
    Rates are measured alone on this replica at its start: prompt tokens per second and seconds per decode step. `sampling_fields` are
    the request fields beyond `max_tokens` that its engine honours; a request that uses another one is refused.
    """

    id: str
    source: str
    revision: str
    architecture: str
    quantization: str
    dtype: str
    device: str
    fingerprint: str
    max_context: int
    num_parameters: int
    weights_bytes: int
    alone_prefill_tokens_per_s: float
    alone_decode_step_s: float
    loaded_at: float
    notes: tuple[str, ...] = ()
    sampling_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stored answers: all conditions that are given must hold; none: all answers. `created_before` is Unix time."""

    key: str | None = None
    model: str | None = None
    feed_id: str | None = None
    created_before: float | None = None
