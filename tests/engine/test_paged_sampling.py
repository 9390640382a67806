"""The choice inside transformers' continuous batching: the same with CUDA graphs as without, draws as probable as they should be."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from serve_app.messages import Sampling
from serve_app.model.draws import draw
from serve_app.model.engine import Stream
from serve_app.model.paged_sampling import PagedSampling, PagedStep, Ticket
from serve_app.model.rows import Row
from serve_app.model.sampling import RowSampler
from tests.model import tiny

VOCABULARY = 40
EOS = 3


@dataclass
class State:
    """What of the library's request is read."""

    initial_tokens: list[int]
    generated_tokens: list[int]
    logit_processor_kwargs: dict[str, Any]
    position_offset: int = 0


@dataclass
class Request:
    """The library's request in a step."""

    state: State
    has_new_token: bool
    query_length: int


@dataclass
class Told:
    """Takes the steps."""

    steps: list[PagedStep] = field(default_factory=list)

    def __call__(self, step: PagedStep) -> None:
        self.steps.append(step)


def request(prompt: list[int], generated: list[int], **sampling: Any) -> Request:
    """A row at the step after its `generated` tokens; its whole prompt where there are none."""
    row = Row(Stream(tiny.ask("w1", **sampling)), prompt, (EOS,), str)
    state = State(prompt, generated, {"ticket": Ticket(0, row, seed=row.stream.request.sampling.seed or 0)}, len(prompt) + len(generated))
    return Request(state, True, 1 if generated else len(prompt))


def scores_for(rows: int) -> Tensor:
    return torch.randn((rows, VOCABULARY), generator=torch.Generator().manual_seed(1)) * 3


def chosen(requests: list[Request], scores: Tensor, recorded: bool = False, told: Told | None = None) -> Tensor:
    """The scores after everything, as the library would compute them."""
    sampling = PagedSampling((EOS,), 8, 64, "cpu", told or Told())
    sampling.recorded = recorded
    storage = torch.zeros((sampling.tensors_required, 16), dtype=torch.int32)
    sampling.fill_defaults(defaults := torch.zeros((sampling.tensors_required, 1), dtype=torch.int32))
    storage[:] = defaults
    sampling.prepare_tensor_args(requests, storage)
    return sampling(torch.zeros(len(requests), dtype=torch.long), scores.clone(), storage[:, : len(requests)])


ROWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.2, "seed": 3, "top_k": 5, "top_p": 0.7},
    {"temperature": 1.0, "seed": 9, "min_p": 0.1, "presence_penalty": 1.0},
    {"repetition_penalty": 1.5, "frequency_penalty": 0.5},
    {"ignore_eos": True, "temperature": 0.5, "seed": 2**63},
    {"min_tokens": 5},
]


async def test_a_recorded_step_chooses_as_one_that_leaves_out_what_nobody_asked_for() -> None:
    requests = [request([1, 2, 5], [6, 6, 7], **sampling) for sampling in ROWS]
    scores = scores_for(len(requests))
    assert torch.equal(chosen(requests, scores, recorded=True), chosen(requests, scores))
    for number, one in enumerate(requests):
        assert torch.equal(chosen([one], scores[number : number + 1])[0], chosen(requests, scores)[number])


async def test_greedy_rows_keep_their_scores_and_a_masked_end_of_sequence_has_none() -> None:
    scores = scores_for(3)
    out = chosen([request([1, 2], [4]), request([1, 2], [4], min_tokens=2), request([1, 2], [4, 5], min_tokens=2)], scores)
    assert torch.equal(out[0], scores[0])
    assert out[1, EOS] == -torch.inf
    assert torch.equal(out[2], scores[2])


async def test_penalties_are_those_of_the_other_engines() -> None:
    sampling = {"repetition_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": -0.4}
    scores, prompt, generated = scores_for(1), [1, 2, 5], [6, 6, 7]
    other = RowSampler([Sampling(**sampling)], [prompt], ())  # type: ignore[arg-type]
    expected = scores.clone()
    for tokens in ([], *([token] for token in generated)):
        expected = other(torch.tensor([tokens or [0]]), scores.clone())
    assert torch.allclose(chosen([request(prompt, generated, **sampling)], scores), expected)


NUM_GRID = 20_000


@pytest.mark.parametrize("filters", [{}, {"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 6, "top_p": 0.8}])
async def test_tokens_are_drawn_as_often_as_they_are_probable_and_never_where_a_filter_forbids(filters: dict[str, Any]) -> None:
    num_draws, scores = 4000, scores_for(1)
    requests = [request([1] * 10, [], temperature=1.5, seed=seed, **filters) for seed in range(num_draws)]
    sampling = PagedSampling((EOS,), 1, 64, "cpu", Told())
    storage = torch.zeros((sampling.tensors_required, num_draws), dtype=torch.int32)
    sampling.prepare_tensor_args(requests, storage)
    drawn = sampling(torch.zeros(num_draws), scores.repeat(num_draws, 1), storage).argmax(dim=-1)
    often = torch.bincount(drawn, minlength=VOCABULARY) / num_draws
    grid = [(number + 0.5) / NUM_GRID for number in range(NUM_GRID)]  # evenly over all random numbers: the other engines' distribution
    others = draw(scores.repeat(NUM_GRID, 1), [Sampling(temperature=1.5, **filters)] * NUM_GRID, grid)
    expected = torch.bincount(torch.tensor(others), minlength=VOCABULARY) / NUM_GRID
    assert not often[expected == 0].any()
    assert (often - expected).abs().max() < 4 * (0.25 / num_draws) ** 0.5  # four standard deviations at most


async def test_a_step_tells_what_is_computed_for_whom_and_what_of_a_prompt_was_there_already() -> None:
    told = Told()
    running, whole, part = request([1, 2], [4]), request([1] * 6, []), request([1] * 8, [])
    part.has_new_token, part.query_length, part.state.position_offset = False, 3, 7  # 4 shared, 3 in this step, one left
    chosen([running, whole, part], scores_for(3), told=told)
    tickets = [one.state.logit_processor_kwargs["ticket"] for one in (running, whole, part)]
    assert told.steps == [PagedStep(tuple(zip(tickets, (1, 6, 3), strict=True)), num_prompt=9, num_tokens=2)]
    assert [ticket.num_prefilled for ticket in tickets] == [0, 6, 3]


async def test_what_the_library_warms_up_with_is_greedy() -> None:
    scores = scores_for(1)
    assert torch.equal(chosen([Request(State([0], [], {}, 1), True, 1)], scores, recorded=True), scores)


async def test_a_ticket_survives_the_copies_that_a_preemption_makes() -> None:
    ticket = request([1], []).state.logit_processor_kwargs["ticket"]
    assert copy.deepcopy({"ticket": ticket})["ticket"] is ticket
