"""The lookup of a replica over a real database and a fake embedding: what it finds, shares with other replicas, samples and survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from serve_app.cache.key import answer_key
from serve_app.cache.similar.lookup import MAX_WAITING, Similar
from serve_app.cache.similar.rules import Found
from serve_app.messages import Ask
from serve_app.metrics import Metrics
from serve_app.settings_similar import SimilarSettings
from serve_app.store.answers import StoredAnswer
from serve_app.store.database import Database
from serve_app.store.similar import SimilarStore
from tests.fast.fakes import ask, finish
from tests.fast.fakes_similar import FakeEmbedding

ON = {"enabled": True, "max_entries": 100, "timeout_s": 5.0}
PRINT = "f" * 64


class Replica:
    """A replica with its own embedding; `store` holds the answers of all."""

    def __init__(self, database: Database, store: dict[str, StoredAnswer], **settings: Any) -> None:
        self.metrics, self.store, self.embedding, self.chance, self.time = Metrics(), store, FakeEmbedding(), 0.5, 100.0
        rows, chance = SimilarStore(database), lambda: self.chance
        self.similar = Similar(rows, "tiny", self.metrics, load=self.load, chance=chance, now=lambda: self.time)
        self.loaded: list[str] = []
        self.tune(**settings)

    def load(self, source: str) -> FakeEmbedding:
        self.loaded.append(source)
        return self.embedding

    def tune(self, **settings: Any) -> None:
        self.similar.tune(SimilarSettings.model_construct(**{**SimilarSettings().model_dump(), **ON, **settings}))

    async def answered(self, question: Ask | str, text: str = "Gathering work.") -> None:
        """A question was generated, and its answer stored."""
        asked = ask(question) if isinstance(question, str) else question
        key = answer_key(asked, PRINT)
        self.store[key] = StoredAnswer(key, "tiny", "", "", text, finish(), 50.0)
        await self.similar.learn(asked, PRINT, key)

    async def find(self, question: Ask | str) -> Found | None:
        async def get(key: str) -> StoredAnswer | None:
            return self.store.get(key)

        return await self.similar.find(ask(question) if isinstance(question, str) else question, PRINT, get)

    async def says(self, question: Ask | str) -> str | None:
        found = await self.find(question)
        return found.answer.text if found else None

    def count(self, name: str, **labels: str) -> float:
        families = dict(self.metrics.snapshot("AnswerCache", "r").families)
        return sum(one.value for one in families.get(name, ()) if one.labels == tuple(sorted(labels.items())))


Maker = Callable[..., Replica]


@pytest.fixture
async def make(database: Database) -> AsyncIterator[Maker]:
    made: list[Replica] = []
    store: dict[str, StoredAnswer] = {}

    def one(**settings: Any) -> Replica:
        made.append(Replica(database, store, **settings))
        return made[-1]

    yield one
    for replica in made:
        replica.embedding.free.set()
        await replica.similar.close()


async def test_a_question_in_other_words_gets_the_stored_answer(make: Maker) -> None:
    replica = make()
    await replica.similar.sync()
    await replica.answered("What is batching?")
    found = await replica.find("Hi, what's batching?")
    assert found is not None
    assert (found.answer.text, 0.85 <= found.similarity < 1) == ("Gathering work.", True)
    assert replica.count("frugal_similar_lookups_total", result="hit") == 1


async def test_what_the_gate_stops_is_counted_and_the_next_candidate_looked_at(make: Maker) -> None:
    replica = make()
    await replica.similar.sync()
    await replica.answered("What is batching not?", "Opposite.")
    await replica.answered("Please, what is batching?", "Right.")
    assert await replica.says("what is batching") == "Right."
    assert await replica.says("What is batching 7?") is None
    assert replica.count("frugal_similar_stopped_total", reason="number") == 2


async def test_off_it_does_nothing_at_all(make: Maker) -> None:
    replica = make(enabled=False)
    await replica.similar.sync()
    await replica.answered("What is batching?")
    assert (await replica.says("What's batching?"), replica.loaded, replica.embedding.asked) == (None, [], [])


async def test_a_question_is_forgotten_when_its_answer_is_gone_for_good_and_not_while_the_store_is_down(
    make: Maker, database: Database
) -> None:
    replica = make()
    await replica.similar.sync()
    await replica.answered("What is batching?")
    stored = dict(replica.store)
    replica.store.clear()
    assert await replica.says("What's batching?") is None
    replica.store.update(stored)  # it was down
    replica.time += 3600
    assert await replica.says("What's batching?") == "Gathering work."
    replica.store.clear()
    assert await replica.says("What's batching?") is None
    assert len(SimilarStore(database).newer(0, "fake", (), 9)) == 1
    replica.time += 600
    assert await replica.says("What's batching?") is None
    assert SimilarStore(database).newer(0, "fake", (), 9) == []


async def test_replicas_find_what_others_have_learned_and_so_does_one_that_starts_later(make: Maker) -> None:
    one, two = make(), make()
    await one.similar.sync()
    await two.similar.sync()
    await one.answered("What is batching?")
    assert await two.says("What's batching?") is None
    await two.similar.sync()
    assert await two.says("What's batching?") == "Gathering work."
    later = make()
    await later.similar.sync()
    assert await later.says("What's batching?") == "Gathering work."
    assert later.count("frugal_similar_entries") == 1


async def test_vectors_of_another_embedding_are_not_compared_with(make: Maker) -> None:
    one, two = make(), make(embedding="/models/other")
    two.embedding.name = "other"
    await one.similar.sync()
    await two.similar.sync()
    await one.answered("What is batching?")
    await two.similar.sync()
    assert await two.says("What's batching?") is None


async def test_another_tenant_is_never_found(make: Maker) -> None:
    replica = make()
    await replica.similar.sync()
    await replica.answered(Ask(ask("What is batching?").generate, scope="a"))
    assert await replica.says(Ask(ask("What's batching?").generate, scope="b")) is None
    assert await replica.says(Ask(ask("What's batching?").generate, scope="a")) is not None


async def test_a_slow_embedding_is_not_waited_for(make: Maker) -> None:
    replica = make(timeout_s=0.01)
    await replica.similar.sync()
    replica.embedding.free.clear()
    assert await replica.says("What is batching?") is None
    assert replica.count("frugal_similar_lookups_total", result="late") == 1


async def test_where_many_wait_the_next_is_not_looked_up(make: Maker) -> None:
    replica = make()
    await replica.similar.sync()
    replica.embedding.free.clear()
    waiting = [asyncio.create_task(replica.find(f"What is {number}?")) for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    assert replica.similar.num_waiting == MAX_WAITING
    assert await replica.says("What is batching?") is None
    assert replica.count("frugal_similar_lookups_total", result="busy") == 1
    replica.embedding.free.set()
    assert await asyncio.gather(*waiting) == [None] * MAX_WAITING


async def test_a_broken_embedding_means_nothing_found(make: Maker) -> None:
    replica = make()
    await replica.similar.sync()
    replica.embedding.broken = True
    assert await replica.says("What is batching?") is None
    await replica.answered("What is caching?")
    assert replica.count("frugal_similar_lookups_total", result="error") == 1


async def test_so_many_hits_are_sampled_as_the_share_says(make: Maker) -> None:
    replica = make(shadow_share=0.25)
    drawn = []
    for chance in (0.0, 0.2499, 0.25, 0.99):
        replica.chance = chance
        drawn.append(replica.similar.wants_sample())
    assert drawn == [True, True, False, False]


async def test_wrong_samples_raise_the_threshold_for_all_replicas_and_over_a_restart(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    one, two = make(backoff_step=0.1), make(backoff_step=0.1)
    await one.similar.sync()
    await two.similar.sync()
    await one.answered("What is batching?", "It is 5.")
    found = await one.find("What's batching?")
    assert found is not None
    assert [await replica.similar.judge(found, text) for replica, text in ((one, "it is 5"), (one, "It is 6."), (two, "It is 7."))] == [
        True,
        False,
        False,
    ]
    assert "2 of 3 compared answers were wrong, more than max_false_hit_rate 0.01 allows; the threshold is 0.95 now" in caplog.text
    await one.similar.sync()
    assert (one.count("frugal_similar_threshold"), two.count("frugal_similar_threshold")) == (0.95, 0.95)
    assert one.count("frugal_similar_samples_total", verdict="wrong") == 1
    later = make(backoff_step=0.1)
    await later.similar.sync()
    for _ in range(2):
        await later.similar.judge(found, "It is 6.")
    assert (later.similar.ready, later.count("frugal_similar_threshold")) == (False, 1.05)


async def test_only_a_person_brings_it_back(make: Maker) -> None:
    replica = make(backoff_step=0.5)
    await replica.similar.sync()
    await replica.answered("What is batching?", "It is 5.")
    found = await replica.find("What's batching?")
    assert found is not None
    for _ in range(2):
        await replica.similar.judge(found, "It is 6.")
    replica.tune(backoff_step=0.5, shadow_share=1.0)
    await replica.similar.sync()
    assert await replica.says("What's batching?") is None
    replica.tune(backoff_step=0.5, epoch=1)
    assert await replica.says("What's batching?") is None  # not before the new trial has been read
    await replica.similar.sync()
    assert await replica.says("What's batching?") == "It is 5."


async def test_the_table_is_bounded_as_the_index_is(make: Maker, database: Database) -> None:
    replica = make(max_entries=2)
    await replica.similar.sync()
    for word in ("batching", "caching", "quantizing"):
        await replica.answered(f"What is {word}?", word)
    await replica.similar.trim()
    assert [row.question for row in SimilarStore(database).newer(0, "fake", (), 9)] == ["What is caching?", "What is quantizing?"]
    assert [await replica.says(f"What's {word}?") for word in ("batching", "caching", "quantizing")] == [None, "caching", "quantizing"]
