"""The engine benchmark, as small as it can be: a table for people, and a document for programs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from serve_app.bench import engine, prompts
from tests.model.conftest import Embedded

pytestmark = pytest.mark.model


def test_a_run_gives_progress_a_table_and_a_document(embedded: Embedded) -> None:
    said: list[str] = []
    loaded = replace(embedded.loaded, threads=1)
    document = json.loads(
        json.dumps(
            engine.run(loaded, (("static", 1), ("slots", 2), ("transformers", 2)), num_articles=2, max_tokens=4, rounds=1, say=said.append)
        )
    )
    assert [line.split(":")[0] for line in said] == ["round 1 of 1, static 1", "round 1 of 1, slots 2", "round 1 of 1, transformers 2"]
    assert set(document) == {"benchmark", "model", "workload", "conditions", "arms", "ratios"}
    assert document["benchmark"] == "engine"
    assert document["model"]["id"] == embedded.loaded.card.id
    assert document["workload"] == {"name": "articles", "articles": 2, "max_tokens": 4, "rounds": 1}
    assert {"cpu", "cores", "load_average", "python", "commit", "torch", "ray"} <= set(document["conditions"])
    assert [(arm["engine"], arm["batch_size"]) for arm in document["arms"]] == [("static", 1), ("slots", 2), ("transformers", 2)]
    for arm in document["arms"]:
        assert set(arm) == {
            "engine",
            "batch_size",
            "articles_per_min",
            "prompt_tokens_per_s",
            "completion_tokens_per_s",
            "ttft_p50_s",
            "wasted_row_share",
            "cached_token_share",
        }
        assert min(arm["articles_per_min"], arm["prompt_tokens_per_s"], arm["completion_tokens_per_s"], arm["ttft_p50_s"]) > 0
        assert 0 <= arm["wasted_row_share"] < 1
    ratios, (one, slots, _) = document["ratios"]["articles"], document["arms"]
    assert ratios["slots_vs_one"] == ratios["slots_vs_static"] == slots["articles_per_min"] / one["articles_per_min"]
    assert (ratios["best_static"], ratios["best_slots"]) == (1, 2)
    lines = engine.table(document).splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("articles/min at the best batch size: ")


def test_articles_of_the_load_generator_are_300_to_500_tokens(embedded: Embedded) -> None:
    tokenizer = embedded.loaded.tokenizer
    asked = [[{"role": "user", "content": prompts.article(number)}] for number in range(200)]
    lengths = [len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]) for messages in asked]
    assert [length for length in lengths if not 300 <= length <= 500] == []
