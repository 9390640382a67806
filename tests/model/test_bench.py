"""The engine benchmark, as small as it can be: the whole command, steps and interference, and the lengths of what is asked."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from serve_app.bench.engine import interference, steps
from serve_app.bench.engine.arms import Bench, measure, slot_tokens
from serve_app.bench.engine.command import run
from serve_app.bench.engine.options import Arm, Options
from serve_app.bench.engine.workloads import build, prose_ids
from serve_app.errors import ContextLengthExceeded
from serve_app.model.linears import is_packed
from serve_app.model.prompts import encode
from serve_app.settings import ModelSettings, ModelTuning
from tests.model.conftest import Embedded

pytestmark = pytest.mark.model

SHIPPED = pathlib.Path(__file__).parents[2] / "serve_config.yaml"
FIVE = {"slots_vs_static", "slots_vs_one", "slots_vs_unguessed", "static_vs_one", "static_vs_plain"}


@pytest.fixture
def bench(embedded: Embedded) -> Bench:
    return Bench(replace(embedded.loaded, threads=1), ModelSettings(), ModelTuning())


def test_the_whole_command_gives_progress_a_table_and_a_document(embedded: Embedded) -> None:
    arms = [part for name in ("one", "static-4", "static-8", "plain", "slots-16") for part in ("--arm", name)]
    loads = [part for name in ("articles", "skewed", "chat") for part in ("--workload", name)]
    few = ["--requests", "2", "--max-tokens", "4", "--rounds", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "bench", "engine", str(SHIPPED), *loads, *arms, *few],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FRUGAL_DATA_DIR": str(embedded.data_path)},
    )
    assert "skewed, round 2 of 2, one: " in done.stderr
    assert done.stdout.startswith("articles: 2 requests, at most 4 new tokens each, interactive\narm ")
    document = json.loads(done.stdout.splitlines()[-1])
    assert set(document) == {"benchmark", "model", "conditions", "workloads", "ratios"}
    assert (document["benchmark"], document["model"]["id"]) == ("engine", embedded.loaded.card.id)
    assert {"cpu", "cores", "load_average", "commit", "torch", "itl_method", "peak_rss_method"} <= set(document["conditions"])
    for name in ("articles", "skewed", "chat"):
        workload, ratios = document["workloads"][name], document["ratios"][name]
        assert {each: workload[each] for each in ("requests", "max_tokens", "priority")} == {
            "requests": 2,
            "max_tokens": 4,
            "priority": "interactive",
        }
        found = {arm["arm"]: arm for arm in workload["arms"]}
        assert list(found) == ["one", "static-4", "static-8", *(["plain"] if name == "articles" else []), "slots-16"]
        again = {"one", "plain", f"static-{ratios['best_static']}", f"slots-{ratios['best_slots']}"}
        assert {arm: each["rounds"] for arm, each in found.items()} == {arm: 2 if arm in again else 1 for arm in found}
        assert {arm: each["requests"] for arm, each in found.items()} == {arm: 1 if arm == "one" else 2 for arm in found}
        assert all(each["peak_rss_bytes"] > embedded.loaded.card.weights_bytes for each in found.values())
        assert all(each["itl_p99_ms"] >= each["itl_p50_ms"] > 0 for arm, each in found.items() if arm != "plain")
        assert {each for each in FIVE if ratios[each] is None} == {
            "slots_vs_unguessed",
            *(() if name == "articles" else ("static_vs_plain",)),
        }
    assert found["slots-16"]["cached_token_share"] > 0.4  # the second chat copies the system prompt of the first


def test_plain_generate_is_asked_what_the_engines_are_asked(bench: Bench) -> None:
    workload = build("articles", "m", 3, 4)
    found = [measure(bench, arm, workload)[0] for arm in (Arm("plain", 2), Arm("static", 2), Arm("slots", 2))]
    assert len({(result.requests, result.prompt_tokens, result.completion_tokens) for result in found}) == 1


def test_skewed_answers_have_their_lengths_and_only_static_rows_are_wasted(bench: Bench) -> None:
    workload = build("skewed", "m", 3, 20)
    shortened = replace(workload.requests[0], sampling=replace(workload.requests[0].sampling, max_tokens=5, min_tokens=5))
    workload = replace(workload, requests=(shortened, *workload.requests[1:]))
    static, slots = (measure(bench, Arm(kind, 4), workload)[0] for kind in ("static", "slots"))
    asked = [request.sampling.max_tokens for request in workload.requests]
    assert static.completion_tokens == slots.completion_tokens == sum(asked)
    assert static.wasted_row_share == pytest.approx(1 - sum(asked) / (3 * max(asked)))
    assert slots.wasted_row_share == 0


def test_a_workload_that_does_not_fit_is_refused_with_what_to_change(bench: Bench) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"workload chat takes \d+ tokens of context, and model.max_context is 2048; raise it"):
        slot_tokens(bench.loaded, build("chat", "m", 2, 2000))


def test_an_arm_that_does_not_fit_into_memory_costs_the_others_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    two = Options(("articles",), (Arm("static", 2), Arm("slots", 2)), requests=2, max_tokens=2, rounds=2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    document = run(bench, two, said.append)
    workload = document["workloads"]["articles"]
    assert [(arm["arm"], arm["rounds"]) for arm in workload["arms"]] == [("static-2", 2)]
    assert workload["skipped"]["slots-2"].startswith("the KV cache takes ")
    assert document["ratios"]["articles"]["slots_vs_static"] is None
    assert [line.split(":")[1] for line in said if "slots" in line] == [" skipped"]


def test_steps_compare_the_forms_of_the_weights_and_the_two_decodes(bench: Bench) -> None:
    said: list[str] = []
    found = steps.run(bench, 1, said.append, chunk_tokens=64, rows=3, context=20, num_steps=2)
    packed = any(is_packed(layer) for layer in bench.loaded.model.modules())
    forms = {"fused", "unpacked", "kept", "runner"} if packed else {"own", "runner"}
    assert set(found["prefill"]["tokens_per_s"]) == forms
    assert set(found["decode"]["step_s"]) == {"generate", "runner"}
    assert found["ratios"]["decode_generate_vs_runner"] > 0
    assert {name for name, ratio in found["ratios"].items() if ratio} == {
        "decode_generate_vs_runner",
        *(f"{form}_vs_fused" for form in forms - {"fused"} if packed),
    }
    assert len(said) == len(forms) + 2
    assert "forward" not in vars(bench.loaded.model.model.layers[0].mlp.down_proj)


def test_interference_hears_the_streams_and_the_prompts_both_ways(bench: Bench) -> None:
    found = interference.run(bench, 1, 2.0, lambda _line: None)
    for name in ("chunked", "whole"):
        assert found[name]["prompts"] == 2
        assert found[name]["itl_max_ms"] >= found[name]["itl_p99_ms"] >= found[name]["itl_p50_ms"] > 0
    assert found["whole"]["prompt_tokens"] == pytest.approx(500, abs=5)
    assert found["ratios"]["itl_p99_whole_vs_chunked"] == found["whole"]["itl_p99_ms"] / found["chunked"]["itl_p99_ms"]


@pytest.mark.parametrize(("name", "least", "most"), [("articles", 300, 500), ("skewed", 40, 60), ("chat", 600, 660)])
def test_prompts_have_the_lengths_that_are_told(embedded: Embedded, name: str, least: int, most: int) -> None:
    workload = build(name, "m", 200)  # type: ignore[arg-type]
    lengths = [len(encode(embedded.loaded.tokenizer, request, 2048)) for request in workload.requests]
    assert [length for length in lengths if not least <= length <= most] == []


def test_prose_has_the_number_of_tokens_and_begins_differently(embedded: Embedded) -> None:
    found = [prose_ids(embedded.loaded.tokenizer, number, 800) for number in range(50)]
    assert {len(ids) for ids in found} == {800}
    assert len({tuple(ids[:16]) for ids in found}) == 50
