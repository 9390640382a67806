"""The engine's arm of the comparison over a small engine of the test's own, and the arithmetic of the rounds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serve_app.bench.load import closed_loop
from serve_app.bench.paired import EngineSender, compare
from serve_app.bench.samples import Reply, RequestFailed, Run, Sample
from serve_app.bench.turns import Pair
from serve_app.bench.workloads import Ask, build
from serve_app.errors import FrugalError, GenerationFailed, Overloaded
from serve_app.messages import Failed, ModelCard
from serve_app.model.engine import Account, Stream
from serve_app.settings import ModelTuning, SamplingDefaults
from tests.fast.fakes_api import CARD, finish


class EchoEngine:
    """Says two words at once to everybody; `groups` are the sizes in which they came."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.refusal: FrugalError | None = None
        self.failure: FrugalError | None = None

    @property
    def card(self) -> ModelCard:
        return CARD

    def admit(self, group: Sequence[Stream]) -> list[Stream | FrugalError]:
        self.groups.append(len(group))
        if self.refusal:
            return [self.refusal for _ in group]
        for stream in group:
            stream.put_text("Hello world", stream.request.sampling.max_tokens)
            stream.end(Failed(self.failure) if self.failure else finish("length", stream.request.sampling.max_tokens))
        return list(group)

    def tune(self, tuning: ModelTuning) -> None: ...

    def set_threads(self, num_threads: int) -> None: ...

    def promote(self, request_id: str) -> None: ...

    def account(self) -> Account:
        return Account()

    def alive(self) -> bool:
        return True

    def close(self, drain_s: float) -> None: ...


ASKED = build("stream", Ask(requests=6, max_tokens=5), "tiny", "").questions


async def test_all_who_ask_at_once_reach_the_engine_as_one_group() -> None:
    engine = EchoEngine()
    run = await closed_loop(EngineSender(engine, SamplingDefaults()).send, ASKED, 4, 60.0)
    assert engine.groups[0] == 4
    assert sum(engine.groups) == 6
    replies = [sample.result for sample in run.samples]
    assert [(reply.prompt_tokens, reply.completion_tokens, len(reply.text_at)) for reply in replies if isinstance(reply, Reply)] == [
        (7, 5, 1)
    ] * 6


async def test_an_engine_that_refuses_or_breaks_is_counted_by_the_errors_name() -> None:
    engine = EchoEngine()
    sender = EngineSender(engine, SamplingDefaults())
    engine.failure = GenerationFailed("broke")
    with pytest.raises(RequestFailed, match="engine_GenerationFailed"):
        await sender.send(ASKED[0])
    engine.refusal = Overloaded("full", retry_after_s=1)
    with pytest.raises(RequestFailed, match="engine_Overloaded"):
        await sender.send(ASKED[0])


def test_the_comparison_is_the_median_of_the_rounds_ratios() -> None:
    def run(tokens: int) -> Run:
        return Run([Sample(0.0, 0.0, 1.0, Reply(7, tokens))], num_sent=1, wall_s=1.0)

    found = compare([Pair(run(80), run(100)), Pair(run(45), run(50)), Pair(run(70), run(100))])
    assert [each["ratio"] for each in found["rounds"]] == [0.8, 0.9, 0.7]
    assert found["end_to_end_vs_engine"] == 0.8
    assert found["rounds"][1]["server"]["output_tokens_per_s"] == 45.0


def test_a_round_that_was_interrupted_has_no_ratio() -> None:
    found = compare([Pair(Run(interrupted=True), Run())])
    assert (found["rounds"][0]["ratio"], found["end_to_end_vs_engine"]) == (None, None)
