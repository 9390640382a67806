"""How each row chooses its token inside transformers' continuous batching: a list of logits processors whose argmax is the choice.

The library's own per-request processors know temperature, top-k and top-p, draw for all rows from one generator and sort the vocabulary at
every step; this one serves every field, repeats a seed, and leaves greedy rows to the library's argmax. A row's parameters and tokens go
into tensors of fixed places before each step, and a step is tensor operations only, so that the library may record it as a CUDA graph;
numbers stand in `masked_fill`, not in `torch.where`, which would copy them to the device, and nothing may be copied while one records.
The library prepares a step in its own thread through here: that is also where its thread count is set and where a step is told of.
Tests: tests/engine/test_paged_sampling.py, and all fields in tests/engine/test_engine_contract.py.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from serve_app.messages import Sampling
from serve_app.model.penalties import has_penalty
from serve_app.model.rows import Row

FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
INTS = ("top_k", "masks_eos", "key", "num_prompt", "num_tokens")
NEUTRAL = Sampling()
UINT32 = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class Ticket:
    """What travels with a request through the library. `num_prefilled`: prompt tokens computed for it before its first own token."""

    number: int
    row: Row
    seed: int
    num_prefilled: int = 0

    def __deepcopy__(self, memo: object) -> Ticket:
        """The library copies a request's arguments when it preempts the request; this one stays the same."""
        return self

    @property
    def sampling(self) -> Sampling:
        """Of its request."""
        return self.row.stream.request.sampling


@dataclass(frozen=True, slots=True)
class PagedStep:
    """What is about to be computed: each request with its positions, how many of them are of prompts, and how many rows get a token."""

    work: tuple[tuple[Ticket, int], ...]
    num_prompt: int
    num_tokens: int


class PagedSampling(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """Takes the place of the manager's own list. `told` is called in the library's thread with each step before it is computed."""

    def __init__(self, eos_ids: Sequence[int], max_rows: int, max_tokens: int, device: str, told: Callable[[PagedStep], None]) -> None:
        """`max_tokens`: of the longest sequence. Takes 4 bytes for each of its tokens and each of the rows."""
        super().__init__(LogitsProcessorList())
        self.tensors_required = len(FLOATS) + len(INTS)
        self.do_processing = True
        self.recorded = False  # True where steps are CUDA graphs: then every step must be the same operations
        self.num_threads: int | None = None
        self._told = told
        self._eos_ids = torch.tensor(list(eos_ids), dtype=torch.long, device=device)
        self._history = torch.zeros((max_rows, max_tokens), dtype=torch.int32, device=device)
        self._any_drawn = self._any_filtered = self._any_penalised = False

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Only tickets come; what they ask for was checked when they were admitted."""

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Neutral values into [arguments, 1]: a request without a ticket, as the library warms up with, is greedy."""
        int32_tensor.copy_(_columns([_arguments(NEUTRAL, False, 0, 0, 0)]))

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: Tensor) -> Tensor:
        """Before each step: the arguments [arguments, rows] of the rows that will get a token, in the order of their logits."""
        if self.num_threads is not None and self.num_threads != torch.get_num_threads():
            torch.set_num_threads(self.num_threads)  # of this thread; see ThreadedEngine
        states = [request.state for request in requests_in_batch if request.has_new_token]
        samplings = [_sampling(state) for state in states]
        self._any_drawn = any(not sampling.greedy for sampling in samplings)
        self._any_filtered = any(sampling.top_k > 0 or sampling.top_p < 1 for sampling in samplings)
        self._any_penalised = any(map(has_penalty, samplings))
        if states:
            arg_storage[:, : len(states)] = _columns([_arguments_of(state) for state in states]).to(arg_storage.device)
        for row, (state, sampling) in enumerate(zip(states, samplings, strict=True)):
            if has_penalty(sampling):
                tokens = torch.tensor([*state.initial_tokens, *state.generated_tokens], dtype=torch.int32)
                self._history[row, : len(tokens)] = tokens.to(self._history.device)
        self._told(_step(requests_in_batch))
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, logits_processor_args: Tensor) -> Tensor:
        """[rows, vocabulary] fp32 scores to scores whose argmax is each row's choice."""
        given = logits_processor_args[:, : scores.shape[0]]
        floats = dict(zip(FLOATS, given[: len(FLOATS)].contiguous().view(torch.float32)[:, :, None], strict=True))
        ints = dict(zip(INTS, given[len(FLOATS) :].long()[:, :, None], strict=True))
        if self._any_penalised or self.recorded:
            scores = self._penalise(scores, floats, ints)
        scores[:, self._eos_ids] = scores[:, self._eos_ids].masked_fill(ints["masks_eos"] > 0, -torch.inf)
        if self._any_drawn or self.recorded:
            drawn = _draw(scores, floats, ints, self._any_filtered or self.recorded)
            scores = torch.where(floats["temperature"] > 0, drawn, scores)
        return scores

    def _penalise(self, scores: Tensor, floats: dict[str, Tensor], ints: dict[str, Tensor]) -> Tensor:
        rows, vocabulary = scores.shape
        at = torch.arange(self._history.shape[1], device=scores.device)
        known = at < ints["num_tokens"]
        tokens = self._history[:rows].long().masked_fill(~known, vocabulary)  # one column more takes what is no token
        generated = known & (at >= ints["num_prompt"])
        seen = torch.zeros((rows, vocabulary + 1), dtype=torch.bool, device=scores.device).scatter_(1, tokens, True)
        counts = torch.zeros((rows, vocabulary + 1), device=scores.device).scatter_add_(1, tokens, generated.float())[:, :-1]
        repetition = floats["repetition_penalty"]
        repeated = torch.where(scores > 0, scores / repetition, scores * repetition)
        scores = torch.where(seen[:, :-1], repeated, scores)
        return scores - (floats["frequency_penalty"] * counts + floats["presence_penalty"] * (counts > 0))


def _draw(scores: Tensor, floats: dict[str, Tensor], ints: dict[str, Tensor], filtered: bool) -> Tensor:
    """Scores whose argmax is a draw: the Gumbel-max trick over what the filters keep, in the order and with the ties of sampling.py."""
    scores = torch.log_softmax(scores / floats["temperature"].clamp(min=1e-5), dim=-1)
    if filtered:
        scores = scores.masked_fill(scores < _floor(scores, ints["top_k"], floats["top_p"]), -torch.inf)
    scores = scores.masked_fill(scores < scores.amax(dim=-1, keepdim=True) + floats["min_p"].log(), -torch.inf)
    return scores + _gumbel(ints["key"], scores.shape[-1])


def _floor(scores: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """The smallest log-probability [rows, 1] that top-k [rows, 1] and then top-p [rows, 1] keep."""
    ordered = scores.sort(dim=-1, descending=True).values
    rank = torch.arange(scores.shape[-1], device=scores.device)
    kept = (top_k <= 0) | (rank < top_k)
    share = ordered.exp().masked_fill(~kept, 0)
    above = share.cumsum(dim=-1) - share  # probability of everything above it; the one that crosses the goal is kept
    kept &= (top_p >= 1) | (above < top_p * share.sum(dim=-1, keepdim=True)) | (rank == 0)
    return ordered.masked_fill(~kept, torch.inf).amin(dim=-1, keepdim=True)


def _gumbel(key: Tensor, vocabulary: int) -> Tensor:
    """Noise [rows, vocabulary] that depends on the row's key [rows, 1] and the token alone.

    MurmurHash3's finaliser (https://github.com/aappleby/smhasher) in 32 bits, over 23 of which lies the uniform number, so that neither 0
    nor 1 comes out in fp32. No generator: a state on the device could be neither kept per row nor recorded.
    """
    mixed = (key + torch.arange(vocabulary, device=key.device) * 0x9E3779B1) & UINT32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & UINT32
    uniform = (((mixed ^ (mixed >> 16)) >> 9).float() + 0.5) * 2.0**-23
    return -(-uniform.log()).log()


def _sampling(state: Any) -> Sampling:
    ticket: Ticket | None = state.logit_processor_kwargs.get("ticket")
    return NEUTRAL if ticket is None else ticket.sampling


def _arguments_of(state: Any) -> tuple[list[float], list[int]]:
    """Of one row at the step that is prepared: `position_offset` counts its positions up to and with this step's."""
    ticket: Ticket | None = state.logit_processor_kwargs.get("ticket")
    if ticket is None:
        return _arguments(NEUTRAL, False, 0, 0, 0)
    sampling, num_prompt, num_tokens = ticket.sampling, len(ticket.row.prompt_ids), state.position_offset
    masks_eos = sampling.ignore_eos or num_tokens - num_prompt < sampling.min_tokens
    key = zlib.crc32(struct.pack("<QQ", ticket.seed % 2**64, num_tokens))  # another draw at each position, the same after a preemption
    return _arguments(sampling, masks_eos, key, num_prompt, num_tokens)


def _arguments(sampling: Sampling, masks_eos: bool, key: int, num_prompt: int, num_tokens: int) -> tuple[list[float], list[int]]:
    """In the order of FLOATS and INTS; the key as the int32 of the same bits."""
    floats = [float(getattr(sampling, name)) for name in FLOATS]
    return floats, [min(sampling.top_k, 2**31 - 1), int(masks_eos), key - 2**32 if key >= 2**31 else key, num_prompt, num_tokens]


def _columns(rows: Sequence[tuple[list[float], list[int]]]) -> Tensor:
    """[arguments, rows] int32, the floats as the same bits."""
    floats = torch.tensor([floats for floats, _ in rows], dtype=torch.float32).view(torch.int32)
    ints = torch.tensor([ints for _, ints in rows], dtype=torch.int32)
    return torch.cat([floats, ints], dim=1).T.contiguous()


def _step(requests: Sequence[Any]) -> PagedStep:
    work, num_prompt = [], 0
    for request in requests:
        ticket: Ticket | None = request.state.logit_processor_kwargs.get("ticket")
        if ticket is None:
            continue
        work.append((ticket, request.query_length))
        start = request.state.position_offset - request.query_length
        num_own = max(0, min(request.state.position_offset, len(ticket.row.prompt_ids)) - start)
        num_prompt += num_own
        if ticket.row.first_token_at is None:  # not what a preempted row computes again
            ticket.num_prefilled += num_own
    return PagedStep(tuple(work), num_prompt, sum(request.has_new_token for request in requests))
