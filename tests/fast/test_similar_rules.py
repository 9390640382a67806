"""Which questions may be looked up, and which may stand for each other: whatever is in the key must be equal, but for the question."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.cache.similar.rules import eligible, group_key, trial_id
from serve_app.messages import Ask, Message, Sampling
from serve_app.settings_similar import SimilarSettings
from tests.fast.fakes import ask

SYSTEM = Message("system", "Answer in French.")
TALK = (Message("user", "Hello"), Message("assistant", "Hi"))


def chat(*messages: Message, **changes: object) -> Ask:
    return ask(messages=messages, **changes)  # type: ignore[arg-type]


QUESTION = Message("user", "What is batching?")
BASE = chat(SYSTEM, *TALK, QUESTION)


def test_another_last_question_is_in_the_same_group() -> None:
    assert group_key(BASE, "f") == group_key(chat(SYSTEM, *TALK, Message("user", "What's batching?")), "f")


@pytest.mark.parametrize(
    "other",
    [
        chat(*TALK, QUESTION),
        chat(Message("system", "Answer in German."), *TALK, QUESTION),
        chat(SYSTEM, QUESTION),
        chat(SYSTEM, Message("user", "Hello!"), TALK[1], QUESTION),
        chat(SYSTEM, *TALK, QUESTION, sampling=Sampling(max_tokens=5)),
        chat(SYSTEM, *TALK, QUESTION, sampling=Sampling(stop=("x",))),
        chat(SYSTEM, *TALK, QUESTION, sampling=Sampling(temperature=1.0, seed=1)),
        chat(SYSTEM, *TALK, QUESTION, model="other"),
        replace(BASE, scope="another tenant"),
    ],
)
def test_whatever_else_differs_makes_another_group(other: Ask) -> None:
    assert group_key(other, "f") != group_key(BASE, "f")


def test_other_weights_make_another_group() -> None:
    assert group_key(BASE, "f") != group_key(BASE, "g")


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        (BASE, True),
        (chat(QUESTION, sampling=Sampling(temperature=1.0, seed=1)), True),
        (chat(QUESTION, sampling=Sampling(temperature=1.0)), False),
        (chat(QUESTION, sampling=Sampling(logprobs=0)), False),
        (chat(prompt="Once upon a time"), False),
        (chat(QUESTION, TALK[1]), False),
        (chat(SYSTEM), False),
        (chat(Message("user", " ")), False),
        (chat(Message("user", "x" * 500)), True),
        (chat(Message("user", "x" * 501)), False),
        (replace(BASE, feed_id="feed"), False),
    ],
)
def test_what_may_be_looked_up(asked: Ask, may: bool) -> None:
    assert eligible(asked, SimilarSettings()) is may


@pytest.mark.parametrize("change", [{"threshold": 0.9}, {"max_false_hit_rate": 0.02}, {"epoch": 1}, {"embedding": "/models/other"}])
def test_what_a_person_decides_begins_a_new_trial(change: dict[str, object]) -> None:
    settings = SimilarSettings()
    assert trial_id("m", settings.model_copy(update=change)) != trial_id("m", settings)
    assert trial_id("m", settings.model_copy(update={"shadow_share": 1.0})) == trial_id("m", settings)
    assert trial_id("n", settings) != trial_id("m", settings)
