"""Every field of a question changes its key, or is named here with the reason why not."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cache.key import answer_key, shard_key
from serve_app.messages import Ask, CachePolicy, Generate, Message, Sampling

SAMPLED = Sampling(temperature=0.5, seed=1)
BASE = Ask(Generate("id", "model", SAMPLED, (Message("system", "a"), Message("user", "b"))))
OTHER_SAMPLING: dict[str, object] = {
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 2,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repetition_penalty": 1.1,
    "stop": ("x",),
    "max_tokens": 9,
    "min_tokens": 3,
    "ignore_eos": True,
    "logit_bias": ((5, 1.0),),
    "logprobs": 0,
}
OLD_KEY = "05e725ad539905f55d687149a595d50e8b9ced7befcc48b3ce65233a782e6120"  # of BASE, when Sampling ended with ignore_eos
CHANGES_NOTHING = {
    "request_id": "names the request, not the question",
    "priority": "changes when, not what",
    "fingerprint": "is an argument of its own",
    "choice": "tells apart only what chance makes differ, see below",
    "sampling": "field by field below",
}
OTHER_GENERATE: dict[str, object] = {"model": "other", "messages": (Message("user", "b"),), "prompt": "raw"}


def test_every_field_is_spoken_for() -> None:
    assert {field.name for field in fields(Sampling)} == set(OTHER_SAMPLING)
    assert {field.name for field in fields(Generate)} == set(OTHER_GENERATE) | set(CHANGES_NOTHING)


@pytest.mark.parametrize("name", OTHER_SAMPLING)
def test_each_sampling_field_changes_the_key(name: str) -> None:
    sampling = replace(SAMPLED, **{name: OTHER_SAMPLING[name]})  # type: ignore[arg-type]
    other = replace(BASE, generate=replace(BASE.generate, sampling=sampling))
    assert answer_key(other, "f") != answer_key(BASE, "f")


@pytest.mark.parametrize("name", OTHER_GENERATE)
def test_each_part_of_the_question_changes_the_key(name: str) -> None:
    other = replace(BASE, generate=replace(BASE.generate, **{name: OTHER_GENERATE[name]}))  # type: ignore[arg-type]
    assert answer_key(other, "f") != answer_key(BASE, "f")
    assert shard_key(other) != shard_key(BASE)


def test_weights_and_scope_change_the_key_and_who_asks_does_not() -> None:
    assert answer_key(BASE, "g") != answer_key(BASE, "f")
    assert answer_key(replace(BASE, scope="tenant"), "f") != answer_key(BASE, "f")
    same = replace(BASE, generate=replace(BASE.generate, request_id="x", priority="batch"), policy=CachePolicy(no_store=True), feed_id="f1")
    assert answer_key(same, "f") == answer_key(BASE, "f")


def test_greedy_decoding_ignores_what_only_sampling_uses() -> None:
    def greedy(**changes: object) -> str:
        sampling = replace(Sampling(), **changes)  # type: ignore[arg-type]
        return answer_key(replace(BASE, generate=replace(BASE.generate, sampling=sampling)), "f")

    assert greedy() == greedy(seed=3) == greedy(top_p=0.5) == greedy(top_k=4) == greedy(min_p=0.2)
    assert greedy() != greedy(max_tokens=5)


def test_answers_stored_before_log_probabilities_and_bias_came_are_still_found() -> None:
    assert answer_key(BASE, "f") == OLD_KEY


@pytest.mark.parametrize(("sampling", "differ"), [(Sampling(), False), (SAMPLED, False), (Sampling(temperature=0.5), True)])
def test_another_choice_is_another_question_only_where_chance_makes_them_differ(sampling: Sampling, differ: bool) -> None:
    first, second = (replace(BASE, generate=replace(BASE.generate, sampling=sampling, choice=choice)) for choice in (0, 1))
    assert (answer_key(first, "f") != answer_key(second, "f")) == differ
    assert (shard_key(first) != shard_key(second)) == differ


def test_more_or_fewer_log_probabilities_are_another_question() -> None:
    keys = {answer_key(replace(BASE, generate=replace(BASE.generate, sampling=Sampling(logprobs=num))), "f") for num in (None, 0, 1, 5)}
    assert len(keys) == 4


TURNS = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=8)), min_size=1, max_size=4)


@given(TURNS, TURNS)
def test_two_conversations_have_one_key_only_if_they_are_one(one: list[Message], two: list[Message]) -> None:
    keys = {answer_key(replace(BASE, generate=replace(BASE.generate, messages=tuple(turns))), "f") for turns in (one, two)}
    assert (len(keys) == 1) == (one == two)
