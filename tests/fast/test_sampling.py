"""Each row gets the token that its own settings ask for, whatever its neighbours ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from serve_app.messages import Sampling
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
        (Sampling(temperature=1, min_p=0.5, seed=1), {10, 11, 12}),  # at least half of 0.4
        (Sampling(temperature=1, top_k=3, top_p=0.4, seed=1), {10}),  # 0.4 of 0.9 is 0.44
        (Sampling(temperature=1, seed=1), {10, 11, 12, 13}),
    ],
)
def test_filters_keep_the_most_probable(sampling: Sampling, allowed: set[int]) -> None:
    table = torch.full((1, VOCABULARY), -torch.inf)
    table[0, 10:14] = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert set(choose(table, [sampling], steps=300)[0]) == allowed


def test_a_nucleus_wider_than_the_head_is_found_too() -> None:
    table = torch.zeros(1, 5000)
    sampler = RowSampler([Sampling(temperature=1, top_p=0.9, seed=1)], [[1]], [])
    assert int(torch.isfinite(sampler(torch.tensor([[1]]), table)).sum()) == 5000  # equal ones stay together


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
