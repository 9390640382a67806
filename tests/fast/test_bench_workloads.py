"""What each workload asks: how many different questions, in which words, past the cache or not."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from serve_app.api.openai import ChatRequest
from serve_app.bench import prompts
from serve_app.bench.replies import Question
from serve_app.bench.workloads import PAST_THE_CACHE, Ask, Name, build
from serve_app.settings import SamplingDefaults


def bodies(questions: tuple[Question, ...]) -> list[dict[str, Any]]:
    return [json.loads(question.body) for question in questions]


def prompts_of(questions: tuple[Question, ...]) -> list[str]:
    return [body["messages"][0]["content"] for body in bodies(questions)]


def test_cached_asks_one_question_that_was_answered_before() -> None:
    workload = build("cached", Ask(requests=5), "tiny", "salt")
    assert len(workload.primes) == 1
    assert workload.questions == workload.primes * 5
    assert workload.headers == {}
    assert bodies(workload.primes) == [
        {"model": "tiny", "messages": [{"role": "user", "content": "What is bread?"}], "max_tokens": 16, "temperature": 0}
    ]


def test_cached_asks_several_questions_in_turn() -> None:
    workload = build("cached", Ask(requests=7, distinct=3), "tiny", "")
    assert len(set(workload.primes)) == 3
    assert [workload.primes.index(question) for question in workload.questions] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("name", ["articles", "stream"])
def test_articles_and_stream_ask_only_different_questions_past_the_cache(name: Name) -> None:
    workload = build(name, Ask(requests=200, max_tokens=9), "tiny", "")
    asked = prompts_of(workload.questions + workload.primes)
    assert len(set(asked)) == len(asked) == 201
    assert workload.headers == PAST_THE_CACHE
    assert build(name, Ask(cache=True), "tiny", "").headers == {}
    assert {body["max_tokens"] for body in bodies(workload.questions)} == {9}


def test_the_next_round_asks_other_questions() -> None:
    first, second = (build("stream", Ask(requests=10), "tiny", "", number * 11) for number in (0, 1))
    assert set(first.primes + first.questions) & set(second.primes + second.questions) == set()


def test_a_stream_forces_its_length_and_wants_the_counts() -> None:
    (question,) = build("stream", Ask(requests=1, max_tokens=12), "tiny", "").questions
    body = json.loads(question.body)
    assert (question.stream, question.num_tokens) == (True, 12)
    assert (body["stream"], body["ignore_eos"], body["stream_options"]) == (True, True, {"include_usage": True})


def test_zipf_asks_few_questions_often_and_most_seldom() -> None:
    workload = build("zipf", Ask(), "tiny", "3f2a")
    counts = Counter(prompts_of(workload.questions))
    assert len(workload.questions) == 2000
    assert workload.told["distinct"] == 400
    assert max(counts, key=lambda prompt: counts[prompt]) == prompts.short(0, "3f2a")
    weight = sum(1 / rank for rank in range(1, 401))
    for rank in (1, 2, 4):  # the expected number, give or take four standard deviations
        expected = 2000 / rank / weight
        assert abs(counts[prompts.short(rank - 1, "3f2a")] - expected) < 4 * expected**0.5
    assert workload.told["best_hit_ratio"] == 1 - len(counts) / 2000
    assert set(prompts_of(workload.primes)) & set(counts) == set()


def test_zipf_draws_the_same_with_the_same_seed_and_is_new_to_a_cache_with_another_salt() -> None:
    first, again, other = (build("zipf", Ask(seed=1), "tiny", salt) for salt in ("a", "a", "b"))
    assert first == again
    assert set(first.questions) & set(other.questions) == set()
    assert build("zipf", Ask(seed=2), "tiny", "a").questions != first.questions


def test_zipf_with_the_exponent_0_asks_all_alike() -> None:
    counts = Counter(build("zipf", Ask(requests=4000, distinct=4, zipf_s=0.0), "tiny", "").questions)
    assert all(900 < count < 1100 for count in counts.values())


@pytest.mark.parametrize("name", ["cached", "articles", "zipf", "stream"])
def test_every_question_is_a_request_that_the_server_takes(name: Name) -> None:
    for question in build(name, Ask(requests=3), "tiny", "ab").questions:
        ask = ChatRequest.model_validate_json(question.body).ask("id", SamplingDefaults())
        assert ask.generate.sampling.greedy


def test_no_two_numbers_have_the_same_short_question() -> None:
    asked = [prompts.short(number) for number in range(3000)]
    assert len(set(asked)) == 3000
    assert max(len(text.split()) for text in asked) < 15


def test_articles_are_prose_of_the_same_length() -> None:
    asked = [prompts.article(number) for number in range(60)]
    assert all(prompts.WORDS < len(text.split()) < prompts.WORDS + 60 for text in asked)
