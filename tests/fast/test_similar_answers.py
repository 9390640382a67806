"""Similar answers as callers see them: what they are told, who refuses them, what the books say, and the samples in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.cache.answers import Answers
from serve_app.cache.key import answer_key
from serve_app.cache.similar.lookup import Similar
from serve_app.errors import Overloaded
from serve_app.messages import Answer, Ask, CachePolicy
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings
from serve_app.settings_similar import SimilarSettings
from serve_app.store.database import Database
from serve_app.store.similar import SimilarStore, Trial
from tests.fast.fakes import FakeModel, MemoryStore, ask, finish
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_feeds import until
from tests.fast.fakes_http import chat_body, client_of
from tests.fast.fakes_similar import FakeEmbedding

STORED, ASKED = ask("What is batching?"), ask("Hi, what's batching?", request_id="request-2")
PRINT = "f" * 64
REFUSING = CachePolicy(similar=False)


class Desk:
    """Answers over a fake model whose similar hits are sampled when `sampled` says so."""

    def __init__(self, database: Database) -> None:
        self.model, self.store, self.time, self.sampled, self.metrics = FakeModel(), MemoryStore(), 1000.0, False, Metrics()
        self.rows = SimilarStore(database)
        self.similar = Similar(
            self.rows,
            "tiny",
            self.metrics,
            load=lambda _source: FakeEmbedding(),
            chance=lambda: 0.0 if self.sampled else 0.999,
            now=lambda: self.time,
        )
        self.similar.tune(SimilarSettings.model_construct(**{**SimilarSettings().model_dump(), "enabled": True, "timeout_s": 5.0}))
        self.answers = Answers(
            self.model.generate,
            self.model.fingerprint,
            self.model.promote,
            self.store,
            CacheSettings(),
            self.metrics,
            lambda: self.time,
            self.similar,
        )

    async def generated(self, question: Ask, text: str = "It is 5.") -> Answer:
        """Ask what is not found, and have the model answer."""
        caller, num = asyncio.create_task(self.answers.whole(question)), len(self.model.requests)
        await until(lambda: len(self.model.requests) > num)
        self.model.say(text)
        self.model.finish()
        return await caller

    async def learned(self) -> None:
        """A first question is answered, stored and known."""
        await self.generated(STORED)
        await until(lambda: bool(self.rows.newer(0, "fake", (), 9)))

    def booked(self) -> list[tuple[str, float, float]]:
        """Outcome, requests and compute-seconds."""
        return sorted((row.outcome, row.requests, row.compute_s) for row in self.answers.books.take())

    def trial(self) -> Trial | None:
        return next(iter(self.rows.trials()), None)


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    desk = Desk(database)
    await desk.similar.sync()
    yield desk
    await desk.answers.close()
    await desk.similar.close()


async def test_the_caller_gets_the_stored_answer_and_is_told_whose_it_is(desk: Desk) -> None:
    await desk.learned()
    desk.time += 30
    answer = await desk.answers.whole(ASKED)
    opening = answer.opening
    assert (answer.text, opening.outcome, opening.key, opening.age_s) == ("It is 5.", "similar", answer_key(STORED, PRINT), 30.0)
    assert opening.similarity is not None
    assert (0.85 <= opening.similarity < 1, opening.replay_s, len(desk.model.requests)) == (True, 0.0, 1)


async def test_it_is_an_outcome_of_its_own_and_avoids_compute(desk: Desk) -> None:
    await desk.learned()
    desk.answers.books.take()
    await desk.answers.whole(ASKED)
    (row,) = desk.answers.books.take()
    assert (row.outcome, row.requests, row.compute_s, row.avoided_s) == ("similar", 1, 0.0, 0.5)


@pytest.mark.parametrize(
    "policy",
    [REFUSING, CachePolicy(no_cache=True), CachePolicy(max_age_s=0), CachePolicy(max_age_s=20)],
    ids=["similar", "no-cache", "0", "20"],
)
async def test_who_does_not_want_it_gets_a_new_answer(desk: Desk, policy: CachePolicy) -> None:
    await desk.learned()
    desk.time += 30
    answer = await desk.generated(replace(ASKED, policy=policy), "Anew.")
    assert (answer.text, answer.opening.similarity) == ("Anew.", None)


async def test_who_refuses_it_is_not_given_it_by_joining_another_who_takes_it(desk: Desk) -> None:
    await desk.learned()
    takes = asyncio.create_task(desk.answers.whole(ASKED))
    await asyncio.sleep(0)
    refuses = await desk.generated(replace(ASKED, policy=REFUSING), "Anew.")
    assert ((await takes).text, refuses.text) == ("It is 5.", "Anew.")


async def test_no_store_takes_a_similar_answer_and_is_not_remembered(desk: Desk) -> None:
    await desk.learned()
    desk.sampled = True
    answer = await desk.answers.whole(replace(ASKED, policy=CachePolicy(no_store=True)))
    await until(lambda: len(desk.model.requests) == 2)
    desk.model.say("It is 5.")
    desk.model.finish()
    await until(lambda: desk.trial() is not None)
    assert (answer.opening.outcome, len(desk.store.entries)) == ("similar", 1)


async def test_a_sample_is_generated_at_low_priority_booked_stored_and_judged(desk: Desk) -> None:
    await desk.learned()
    desk.answers.books.take()
    desk.sampled = True
    assert (await desk.answers.whole(ASKED)).text == "It is 5."  # at once: nobody waits for the sample
    await until(lambda: len(desk.model.requests) == 2)
    sample = desk.model.requests[-1]
    assert (sample.request_id, sample.priority) == ("request-2.shadow", "batch")
    desk.model.say("It ", "is 6.")
    desk.model.finish(compute_s=0.25)
    await until(lambda: desk.trial() is not None)
    trial = desk.trial()
    assert trial is not None
    assert (trial.judged, trial.wrong) == (1, 1)
    assert desk.booked() == [("shadow", 0, 0.25), ("similar", 1, 0.0)]
    hit = await desk.answers.whole(ASKED)
    assert (hit.text, hit.opening.outcome, hit.opening.key) == ("It is 6.", "hit", answer_key(ASKED, PRINT))


async def test_one_sample_of_a_question_at_a_time(desk: Desk) -> None:
    await desk.learned()
    desk.sampled = True
    for _ in range(3):
        await desk.answers.whole(ASKED)
    await until(lambda: len(desk.model.requests) == 2)
    assert len(desk.model.requests) == 2


async def test_a_sample_that_fails_does_not_count(desk: Desk) -> None:
    await desk.learned()
    desk.sampled = True
    await desk.answers.whole(ASKED)
    await until(lambda: len(desk.model.requests) == 2)
    desk.model.fail(Overloaded("full", retry_after_s=1))
    await until(lambda: not desk.answers._shadow._running)
    assert desk.trial() is None


async def test_closing_gives_a_sample_up(desk: Desk) -> None:
    await desk.learned()
    desk.sampled = True
    await desk.answers.whole(ASKED)
    await until(lambda: len(desk.model.requests) == 2)
    await desk.answers.close()
    assert [request.request_id for request in desk.model.cancelled] == ["request-2.shadow"]


async def test_a_broken_store_means_a_new_answer(desk: Desk) -> None:
    await desk.learned()
    desk.store.broken = True
    assert (await desk.generated(ASKED, "Anew.")).opening.outcome == "miss"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_reply_says_how_similar_the_question_was(stream: bool) -> None:
    services = FakeServices()
    services.will_open("similar", 7.0)
    services._opening = replace(services._opening, similarity=0.91251)
    async with client_of(services) as client:
        reply = await client.post("/v1/chat/completions", json=chat_body(stream=stream, cache={"similar": True}))
    told = {name: reply.headers[name] for name in ("x-cache", "x-cache-similarity", "age")}
    assert told == {"x-cache": "similar", "x-cache-similarity": "0.913", "age": "7"}
    if not stream:
        made = reply.json()["frugal"]
        assert (made["cache"], made["compute_s"], made["avoided_s"]) == ("similar", 0.0, finish().compute_s)


async def test_other_replies_say_nothing_of_it_and_a_wrong_value_is_refused() -> None:
    async with client_of(FakeServices()) as client:
        plain = await client.post("/v1/chat/completions", json=chat_body(cache={"similar": False}))
        wrong = await client.post("/v1/chat/completions", json=chat_body(cache={"similar": "no"}))
    assert (plain.status_code, "x-cache-similarity" in plain.headers) == (200, False)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "cache.similar")
