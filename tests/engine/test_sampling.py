"""Each row gets the token that its own settings ask for, whatever its neighbours ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.messages import Sampling
from serve_app.model.draws import draw
from serve_app.model.penalties import Seen
from serve_app.model.sampling import RowSampler

VOCABULARY = 50
EOS = 3


def scores(*best: int, seed: int = 0) -> torch.Tensor:
    """Random scores, one row for each token named, which gets the highest."""
    made = torch.randn(len(best), VOCABULARY, generator=torch.Generator().manual_seed(seed))
    for row, token in enumerate(best):
        made[row, token] = made[row].max() + 1
    return made


def choose(table: torch.Tensor, samplings: Sequence[Sampling], prompts: Sequence[Sequence[int]] | None = None, steps: int = 1) -> list[Any]:
    """The tokens that the rows get over some steps with the same scores, [rows][steps]."""
    prompts = prompts or [[1, 2]] * len(samplings)
    sampler = RowSampler(samplings, prompts, [EOS])
    width = max(map(len, prompts))
    ids = torch.tensor([[EOS] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    for _ in range(steps):
        tokens = sampler(ids, table.clone()).argmax(dim=-1)
        ids = torch.cat([ids, tokens[:, None]], dim=-1)
    return list(ids[:, width:].tolist())


def test_plain_greedy_rows_leave_the_scores_as_they_are() -> None:
    table = scores(5, 6)
    same = RowSampler([Sampling(), Sampling()], [[1], [1]], [EOS])(torch.tensor([[1], [1]]), table)
    assert same is table
    assert torch.equal(same, scores(5, 6))


def test_a_seed_draws_the_same_tokens_alone_and_beside_others() -> None:
    drawn = Sampling(temperature=0.9, top_p=0.9, top_k=20, min_p=0.01, seed=11)
    alone = choose(scores(5), [drawn], steps=20)[0]
    table = torch.cat([scores(7, seed=1), scores(5), scores(9, seed=2)])
    beside = choose(table, [Sampling(temperature=1.3, top_k=3), drawn, Sampling()], steps=20)
    assert beside[1] == alone
    assert beside[2] == [9] * 20
    assert len(set(alone)) > 1


def test_two_seeds_draw_differently() -> None:
    assert choose(scores(5), [Sampling(temperature=2, seed=1)], steps=20) != choose(scores(5), [Sampling(temperature=2, seed=2)], steps=20)


def test_draws_follow_the_probabilities() -> None:
    table = torch.full((1, VOCABULARY), -torch.inf)
    table[0, 7], table[0, 8] = torch.tensor(0.75).log(), torch.tensor(0.25).log()
    drawn = choose(table, [Sampling(temperature=1.0, seed=3)], steps=2000)[0]
    assert set(drawn) == {7, 8}
    assert drawn.count(7) / 2000 == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1, top_k=2, seed=1), {10, 11}),
        (Sampling(temperature=1, top_p=0.6, seed=1), {10, 11}),  # 0.4, 0.3: the second one crosses 0.6
        (Sampling(temperature=1, min_p=0.49, seed=1), {10, 11, 12}),  # at least about half of 0.4
        (Sampling(temperature=1, top_k=3, top_p=0.4, seed=1), {10}),  # 0.4 of 0.9 is 0.44
        (Sampling(temperature=1, seed=1), {10, 11, 12, 13}),
    ],
)
def test_filters_keep_the_most_probable(sampling: Sampling, allowed: set[int]) -> None:
    table = torch.full((1, VOCABULARY), -torch.inf)
    table[0, 10:14] = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert set(choose(table, [sampling], steps=300)[0]) == allowed


@pytest.mark.parametrize("sampling", [Sampling(temperature=1, top_p=0.9), Sampling(temperature=1, top_k=3)])
def test_equally_probable_tokens_stay_together(sampling: Sampling) -> None:
    numbers = [(number + 0.5) / 150 for number in range(150)]
    assert sorted(draw(torch.zeros(150, 150), [sampling] * 150, numbers)) == list(range(150))


FILTERS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 299, 1000]),
    top_p=st.sampled_from([1.0, 0.999999, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)


@given(st.lists(FILTERS, min_size=1, max_size=6), st.integers(0, 50), st.sampled_from([0.2, 3.0]))
@settings(max_examples=25, deadline=None)
def test_filters_keep_what_their_definitions_say_in_any_company(rows: list[Sampling], seed: int, spread: float) -> None:
    table = torch.randn(len(rows), 300, generator=torch.Generator().manual_seed(seed)).mul(spread).bfloat16().float()  # with equal ones
    kept = [kept_by_definition(table[row], sampling) for row, sampling in enumerate(rows)]
    for number in (0.0, 0.3, 0.77, 1 - 2**-53):
        together = draw(table.clone(), rows, [number] * len(rows))
        assert together == [draw(table[row : row + 1].clone(), [sampling], [number])[0] for row, sampling in enumerate(rows)]
        assert [token for token, allowed in zip(together, kept, strict=True) if token not in allowed] == []
    for row, sampling in enumerate(rows):
        numbers = [(number + 0.5) / 100 for number in range(100)]
        found = set(draw(table[row].expand(100, -1).clone(), [sampling] * 100, numbers))
        chances = torch.softmax(table[row].double() / sampling.temperature, dim=-1)
        mass = sum(float(chances[token]) for token in kept[row])
        assert found >= {token for token in kept[row] if float(chances[token]) / mass > 1 / 50}


def kept_by_definition(scores: torch.Tensor, sampling: Sampling) -> set[int]:
    """One token at a time, from the most probable one on, ties included."""
    chances = torch.softmax(scores / sampling.temperature, dim=-1).double()
    order = sorted(range(len(scores)), key=lambda token: -float(chances[token]))
    if sampling.top_k:
        order = [token for token in order if float(chances[token]) >= float(chances[order[min(sampling.top_k, len(order)) - 1]])]
    whole = sum(float(chances[token]) for token in order) if sampling.top_k else 1.0
    kept: list[int] = []
    before = 0.0
    for token in order:
        tied = bool(kept) and float(chances[token]) == float(chances[kept[-1]])
        if before < sampling.top_p * whole + 1e-6 or tied:
            kept.append(token)
        before += float(chances[token])
    return {token for token in kept if float(chances[token]) >= sampling.min_p * float(chances[order[0]]) * (1 - 1e-6)}


def test_a_bias_moves_greedy_and_drawn_rows_alike_and_no_neighbour() -> None:
    rows = [Sampling(logit_bias=((5, -100.0),)), Sampling(logit_bias=((9, 50.0),)), Sampling(), Sampling(temperature=1, seed=1)]
    rows[3] = replace(rows[3], logit_bias=((8, 100.0),))
    chosen = choose(scores(5, 5, 5, 5), rows, steps=5)
    assert chosen[0] != [5] * 5
    assert chosen[1:] == [[9] * 5, [5] * 5, [8] * 5]


def test_a_bias_comes_before_the_penalties() -> None:
    table = torch.full((1, VOCABULARY), -9.0)
    table[0, 5], table[0, 6] = -1.0, 2.0
    rows = [Sampling(logit_bias=((5, 6.0),), repetition_penalty=2.0)]
    assert choose(table, rows, [[5]]) == [[5]]  # (-1 + 6) / 2 = 2.5; the other way round it would be -1 * 2 + 6 = 4, as good
    assert choose(table, [replace(rows[0], logit_bias=((5, 4.5),))], [[5]]) == [[6]]  # (-1 + 4.5) / 2 = 1.75, and not 2.5


def test_a_bias_on_the_end_of_sequence_does_not_undo_min_tokens() -> None:
    chosen = choose(scores(5), [Sampling(logit_bias=((EOS, 100.0),), min_tokens=2)], steps=4)[0]
    assert [token == EOS for token in chosen] == [False, False, True, True]


def test_penalties_count_more_tokens_than_their_first_arrays_hold() -> None:
    prompt = list(range(1, 45)) * 3
    seen = Seen(Sampling(repetition_penalty=2.0), prompt)
    for token in [*range(40, 200), 199, 199]:
        seen.add(token)
    assert sorted(seen.ids.tolist()) == list(range(1, 200))
    counts = dict(zip(seen.ids.tolist(), seen.counts.tolist(), strict=True))
    assert (counts[1], counts[40], counts[44], counts[199]) == (0, 1, 1, 3)


def test_repetition_penalty_counts_prompt_and_answer_but_not_padding() -> None:
    table = torch.zeros(2, VOCABULARY)
    table[:, 5], table[:, EOS], table[:, 6] = 2.0, 1.9, 1.8
    rows = [Sampling(repetition_penalty=4.0), Sampling()]
    assert choose(table, rows, [[5], [1, 2, 4]], steps=3) == [[EOS, 6, 5], [5, 5, 5]]


def test_frequency_and_presence_penalties_count_the_answer_only() -> None:
    table = torch.full((1, VOCABULARY), -9.0)
    table[0, 5], table[0, 6] = 2.0, 0.5
    assert choose(table, [Sampling(frequency_penalty=1.0)], [[5, 5, 5]], steps=4) == [[5, 5, 6, 5]]
    assert choose(table, [Sampling(presence_penalty=1.75)], [[5, 5, 5]], steps=3) == [[5, 6, 5]]


def test_no_end_of_sequence_before_min_tokens_nor_where_it_is_ignored() -> None:
    rows = [Sampling(min_tokens=3), Sampling(ignore_eos=True), Sampling()]
    chosen = choose(scores(EOS, EOS, EOS), rows, steps=4)
    assert [[token == EOS for token in row] for row in chosen] == [[False, False, False, True], [False] * 4, [True] * 4]
