"""What travels between the boxes arrives as it was sent."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from serve_app import messages, messages_feeds
from serve_app.errors import Overloaded
from serve_app.messages import Answer, Ask, CachePolicy, Chunk, Failed, Generate, Message, Opening, Sampling, Selection, Usage
from serve_app.messages_feeds import ArticlePage, ArticleQuery, DailyPage, DailyQuery, Expected, Probe, ProbeStep, Rerun, RerunPreview
from tests.fast.fakes_api import CARD, article, digest, feed, finish, summary

GENERATE = Generate("request-1", "tiny", Sampling(seed=7, stop=("\n",)), (Message("user", "Hi"),), priority="batch")
OPENING = Opening("hit", "k" * 64, 3.5)

EXAMPLES: list[Any] = [
    Message("user", "Hi"),
    Sampling(temperature=0.5, stop=("a", "b")),
    GENERATE,
    CachePolicy(no_cache=True, max_age_s=2.0),
    Ask(GENERATE, CachePolicy(no_store=True), "tenant", "feed0"),
    OPENING,
    Chunk("text", 2),
    Usage(3, 4, 1),
    finish(),
    Failed(Overloaded("full; wait", retry_after_s=2.0)),
    Answer(OPENING, "text", finish("length")),
    Selection(model="tiny", created_before=5.0),
    dataclasses.replace(CARD, notes=("slow path",), sampling_fields=("seed",)),
    summary(),
    article(),
    feed(num_articles=(("done", 3), ("pending", 1))),
    ArticleQuery("feed0", "done", "word", 1.0, 5, "cursor"),
    ArticlePage((article(),), "cursor"),
    digest(),
    DailyQuery("ray", 5, "cursor"),
    DailyPage((digest(),), "cursor"),
    Rerun("feed0", "ray", ("a0",), "failed", "1", "tiny", 5.0),
    RerunPreview(False, 3, 5, 1, Expected(900, 300, 12.5, 0.0002)),
    Expected(900, 300, 12.5, 0.0002),
    ProbeStep("address", True, "fine", {"feed_id": None}),
    Probe("https://example.org/", False, (ProbeStep("address", True, "fine"),), ("https://example.org/feed",)),
]


def test_there_is_an_example_of_every_message() -> None:
    modules = (messages, messages_feeds)
    named = {module.__name__ for module in modules}
    defined = {cls for module in modules for cls in vars(module).values() if dataclasses.is_dataclass(cls) and cls.__module__ in named}
    assert {type(example) for example in EXAMPLES} == defined


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_pickles_to_an_equal_one(message: object) -> None:
    again = pickle.loads(pickle.dumps(message))
    assert (type(again), again) == (type(message), message)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_cannot_be_changed(message: Any) -> None:
    name = dataclasses.fields(message)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(message, name, None)


@pytest.mark.parametrize(
    ("sampling", "greedy", "repeatable"),
    [
        (Sampling(), True, True),
        (Sampling(seed=1), True, True),
        (Sampling(top_p=0.5, top_k=3, min_p=0.1), True, True),
        (Sampling(temperature=0.7), False, False),
        (Sampling(temperature=0.7, top_k=1), False, False),
        (Sampling(temperature=0.7, seed=1), False, True),
        (Sampling(temperature=0.7, seed=0), False, True),
    ],
)
def test_only_greedy_or_seeded_sampling_is_repeatable(sampling: Sampling, greedy: bool, repeatable: bool) -> None:
    assert (sampling.greedy, sampling.repeatable) == (greedy, repeatable)
