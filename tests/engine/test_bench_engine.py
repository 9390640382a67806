"""The engine benchmark's pure parts: what is asked, who runs again, what the rounds come to, and what is printed."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from typing import Any

import pytest
from click.testing import CliRunner

from serve_app.__main__ import main
from serve_app.bench.engine.arms import gaps
from serve_app.bench.engine.interference import whole
from serve_app.bench.engine.options import ARMS, Arm, arms_for, arms_named, mistake
from serve_app.bench.engine.rounds import Result, median, medians, order, ratios, sized
from serve_app.bench.engine.steps import ratio
from serve_app.bench.engine.table import table
from serve_app.bench.engine.workloads import MEAN_TOKENS, build, lengths
from serve_app.model.pace import Costs, Pace
from serve_app.settings import ModelTuning

ONE, PLAIN = Arm("one", 1), Arm("plain", 8)
STATIC, SLOTS = ({size: Arm(kind, size) for size in (4, 8, 16, 32)} for kind in ("static", "slots"))


def result(requests_per_s: float, **changes: Any) -> Result:
    figures = {"ttft_p50_s": 0.5, "itl_p50_ms": 20.0, "itl_p95_ms": 30.0, "itl_p99_ms": 40.0, "wasted_row_share": 0.1}
    return Result(8, 8 / requests_per_s, requests_per_s, 80, 16, 10 * requests_per_s, 2 * requests_per_s, **{**figures, **changes})


def test_skewed_answers_are_exponential_and_cut() -> None:
    drawn = lengths(20_000, 512)
    assert (min(drawn), max(drawn)) == (1, 512)
    assert drawn.count(512) == pytest.approx(20_000 * 2.718281828 ** (-512 / MEAN_TOKENS), rel=0.25)
    assert statistics.median(drawn) == pytest.approx(MEAN_TOKENS * 0.693, rel=0.05)
    uncut = lengths(20_000, 1_000_000)
    assert statistics.mean(uncut) == pytest.approx(MEAN_TOKENS, rel=0.03)
    assert statistics.stdev(uncut) == pytest.approx(MEAN_TOKENS, rel=0.05)


def test_every_arm_and_every_run_gets_the_same_lengths() -> None:
    assert lengths(10, 512) == lengths(256, 512)[:10]
    assert lengths(10, 512) != lengths(10, 512, seed=1)
    assert build("skewed", "tiny", 20) == build("skewed", "tiny", 20)


def test_a_skewed_request_forces_its_length() -> None:
    workload = build("skewed", "tiny", 200)
    samplings = [request.sampling for request in workload.requests]
    assert all(sampling.ignore_eos and sampling.min_tokens == sampling.max_tokens for sampling in samplings)
    assert len({sampling.max_tokens for sampling in samplings}) > 50
    assert max(request.sampling.max_tokens for request in build("skewed", "tiny", 200, 9).requests) == 9


def test_chats_share_their_system_prompt_and_ask_different_questions() -> None:
    asked = [request.messages for request in build("chat", "tiny", 50).requests]
    assert {messages[0].role for messages in asked} == {"system"}
    assert len({messages[0].content for messages in asked}) == 1
    assert len({messages[1].content for messages in asked}) == 50


def test_articles_may_end_early_and_keep_their_priority() -> None:
    workload = build("articles", "tiny", 3, priority="batch")
    assert [(request.sampling.max_tokens, request.sampling.ignore_eos) for request in workload.requests] == [(64, False)] * 3
    assert {request.priority for request in workload.requests} == {"batch"}


def test_one_at_a_time_gets_every_eighth_request_with_the_mean_length_of_all() -> None:
    workload = build("skewed", "tiny")
    assert len(workload.sample) == 32
    of_all, of_sample = (
        statistics.mean(request.sampling.max_tokens for request in requests) for requests in (workload.requests, workload.sample)
    )
    assert of_sample == pytest.approx(of_all, rel=0.02)
    assert build("articles", "tiny", 96).sample == build("articles", "tiny", 96).requests[4::8]
    assert len(build("articles", "tiny", 2).sample) == 1


def test_arms_are_named_and_keep_their_order() -> None:
    assert [arm.name for arm in ARMS] == [
        *("one", "static-4", "static-8", "static-16", "static-32", "plain"),
        *("slots-16", "slots-32", "slots-64", "unguessed-32"),
    ]
    assert arms_named(()) == ARMS
    assert arms_named(("slots-16", "one")) == (ONE, SLOTS[16])


def test_after_the_first_round_the_best_of_each_engine_run_again_in_turn() -> None:
    arms = [ONE, STATIC[4], STATIC[8], PLAIN, SLOTS[16], SLOTS[32]]
    first = {ONE: result(1), STATIC[4]: result(2), STATIC[8]: result(4), PLAIN: result(3), SLOTS[16]: result(8), SLOTS[32]: result(7)}
    assert order(arms, []) == arms
    assert order(arms, [first]) == [SLOTS[16], PLAIN, STATIC[8], ONE]
    assert order(arms, [first, {}]) == [ONE, STATIC[8], PLAIN, SLOTS[16]]


def test_plain_takes_the_best_static_size() -> None:
    plain = Arm("plain", 0)
    assert sized(plain, {ONE: result(9), STATIC[4]: result(3), STATIC[8]: result(2)}) == Arm("plain", 4)
    assert sized(plain, {ONE: result(9)}) == Arm("plain", 16)
    assert sized(PLAIN, {STATIC[4]: result(3)}) == PLAIN


def test_ratios_pair_what_ran_in_the_same_round() -> None:
    unguessed = Arm("unguessed", 32)
    rounds = [
        {ONE: result(1), STATIC[4]: result(3), STATIC[8]: result(4), PLAIN: result(4), SLOTS[16]: result(8), unguessed: result(5)},
        {SLOTS[16]: result(3), PLAIN: result(2), STATIC[8]: result(1), ONE: result(0.5)},  # the machine was slow
        {ONE: result(1), STATIC[8]: result(4), PLAIN: result(5), SLOTS[16]: result(10)},
    ]
    assert ratios(rounds) == {
        "slots_vs_static": 2.5,
        "slots_vs_one": 8.0,
        "slots_vs_unguessed": 1.6,
        "static_vs_one": 4.0,
        "static_vs_plain": 0.8,
        "best_static": 8,
        "best_slots": 16,
    }


def test_a_ratio_without_a_side_is_null() -> None:
    assert ratios([{SLOTS[16]: result(2)}]) == {
        **dict.fromkeys(("slots_vs_static", "slots_vs_one", "slots_vs_unguessed", "static_vs_one", "static_vs_plain", "best_static")),
        "best_slots": 16,
    }


def test_figures_are_medians_over_the_rounds_that_an_arm_ran_in() -> None:
    plain = {"ttft_p50_s": None, "itl_p50_ms": None}
    rounds = [{STATIC[4]: result(1), PLAIN: result(2, **plain)}, {PLAIN: result(4, **plain)}, {PLAIN: result(3, **plain)}]
    assert medians(rounds) == [(STATIC[4], 1, asdict(result(1))), (PLAIN, 3, asdict(result(3, **plain)))]


def test_a_median_of_whole_numbers_is_whole_and_passes_over_what_is_missing() -> None:
    assert (median([8, 8]), median([1.0, 2.0]), median([None, 3.0]), median([None])) == (8, 1.5, 3.0, None)
    assert isinstance(median([8, 8]), int)


def test_the_ratio_of_steps_is_the_median_of_the_rounds_ratios() -> None:
    times = {"fused": [4.0, 2.0, 9.0], "kept": [2.0, 2.0, 3.0]}
    assert ratio(times, "fused", "kept") == 2.0
    assert ratio(times, "fused", "unpacked") is None


def test_a_text_of_several_tokens_shares_its_gap_and_one_of_none_has_none() -> None:
    found = list(gaps([(1.0, 2), (1.5, 1), (1.75, 0), (2.5, 4)]))
    assert found == [(0.5, 1.5), *[(0.25, 2.5)] * 4]


def test_with_chunking_off_a_prompt_is_one_step_beside_somebody_who_waits() -> None:
    for configured in (ModelTuning(), ModelTuning(target_itl_ms=20.0)):
        tuning, longest = whole(configured, 1024)
        pace = Pace(Costs(step_s=0.01, row_s=0.0, prompt_token_s=0.001, guess_s=0.001), longest)
        assert pace.limits(tuning, 16, interactive=True).chunk_tokens == 1024
        assert pace.limits(configured, 16, interactive=True).chunk_tokens < 100


@pytest.mark.parametrize(
    ("workloads", "given", "said"),
    [
        (("steps",), {"requests"}, "--requests goes with --workload articles or skewed or chat"),
        (("interference",), {"arms"}, "--arm goes with"),
        (("articles",), {"duration_s"}, "--duration goes with --workload interference"),
        (("articles", "interference"), {"duration_s", "arms", "max_tokens", "priority", "rounds"}, None),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(workloads: tuple[str, ...], given: set[str], said: str | None) -> None:
    found = mistake(workloads, given)
    assert found is None if said is None else found is not None and found.startswith(said)


def test_plain_alone_goes_with_articles_alone() -> None:
    assert mistake(("chat", "skewed"), {"arms"}, ("plain",)) == "--arm plain goes with --workload articles; name it, or another arm"
    assert mistake(("chat", "articles"), {"arms"}, ("plain",)) is None
    assert mistake(("chat",), {"arms"}, ("plain", "one")) is None
    assert arms_for("chat", [ONE, PLAIN]) == [ONE]
    assert arms_for("articles", [ONE, PLAIN]) == [ONE, PLAIN]


def test_the_command_refuses_it_before_it_reads_anything() -> None:
    done = CliRunner().invoke(main, ["bench", "engine", "no-such.yaml", "--workload", "steps", "--requests", "4"])
    assert (done.exit_code, "--requests goes with --workload articles" in done.output) == (2, True)


def document() -> dict[str, Any]:
    """Of a workload in two rounds, a step and an interference."""
    rounds = [{ONE: result(0.25), STATIC[4]: result(1), STATIC[8]: result(2), PLAIN: result(2.5, itl_p50_ms=None)}, {STATIC[8]: result(2)}]
    arms = [{"arm": arm.name, "batch_size": arm.batch_size, "rounds": num, **figures} for arm, num, figures in medians(rounds)]
    heard: dict[str, Any] = {f"itl_{at}_ms": 20.0 for at in ("p50", "p95", "p99", "max")}
    heard |= {"stream_tokens_per_s": 300.0, "prompts": 20, "prompts_finished": 19, "prompt_ttft_p50_s": None}
    return {
        "model": {"id": "tiny", "quantization": "nf4", "device": "cpu"},
        "conditions": {"cpu": "fast", "cores": 2, "load_average": 0.5, "python": "3", "torch": "2", "transformers": "5", "commit": "ab"},
        "workloads": {
            "chat": {
                "requests": 64,
                "max_tokens": 9,
                "priority": "batch",
                "one_runs_every": 8,
                "skipped": {"slots-64": "too large"},
                "arms": arms,
            }
        },
        "steps": {
            "prefill": {"chunk_tokens": 800, "tokens_per_s": {"fused": 1000.0, "kept": 2500.0}},
            "decode": {"rows": 32, "context": 256, "step_s": {"generate": 0.06, "runner": 0.03}},
        },
        "interference": {"streams": 16, "every_s": 1.0, "duration_s": 20.0, "chunked": heard, "whole": heard},
        "ratios": {
            "chat": ratios(rounds),
            "steps": {"unpacked_vs_fused": None, "kept_vs_fused": 2.5, "runner_vs_fused": None, "decode_generate_vs_runner": 2.0},
            "interference": {"itl_p50_whole_vs_chunked": 0.5},
        },
    }


def test_the_table_shows_each_part_with_its_ratios_and_what_to_know() -> None:
    lines = table(json.loads(json.dumps(document()))).splitlines()
    assert lines[0] == "chat: 64 requests, at most 9 new tokens each, batch"
    assert [line.split()[0] for line in lines[1:6]] == ["arm", "one", "static-4", "static-8", "plain-8"]
    assert max(map(len, lines[1:6])) <= 140
    assert lines[4].split() == ["static-8", "2.00", "-", "20", "4.0", "0.50", "s", "20", "ms", "30", "40", "10%", "-", "0", "2"]
    assert lines[6:11] == [
        "one ran on every 8th request, 8 in all; its rate is of these",
        "slots-64 was skipped: too large",
        "after the first round, only the best size of each engine ran again",
        "static batches against one at a time 8.00, static batches against plain generate 0.80; best sizes: static 8",
        "",
    ]
    assert lines[11:14] == [
        "steps: prefill of 800 tokens, tokens/s: fused 1000, kept 2500",
        "decode step of 32 rows at 256 tokens of context, ms: generate 60.0, runner 30.0",
        "kept against fused 2.50, a decode step of generate against the runner's 2.00",
    ]
    assert lines[15] == "interference: 16 streams, a prompt every 1 s, for 20 s"
    assert lines[17].startswith("   whole: ITL p50 20 ms, p95 20 ms, p99 20 ms, max 20 ms; 300 tokens/s of the streams; 19 of 20 prompts")
    assert lines[-1].startswith("on fast, 2 cores, load 0.5; tiny (nf4, cpu)")
