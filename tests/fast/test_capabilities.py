"""A request that uses what an engine cannot do is refused by the field's name, with what to do; one that does not use it is not."""

from __future__ import annotations

import pytest

from serve_app.errors import BadRequest
from serve_app.messages import Sampling
from serve_app.model.capabilities import ALL, ENGINES, refusal, used_by


@pytest.mark.parametrize(
    ("sampling", "used"),
    [
        (Sampling(), []),
        (Sampling(max_tokens=7), []),
        (Sampling(seed=5, top_p=0.5, top_k=3, min_p=0.1), []),  # greedy: they change nothing
        (Sampling(temperature=0.5, seed=5, top_p=0.5), ["temperature", "top_p", "seed"]),
        (Sampling(stop=("x",), frequency_penalty=-1.0, ignore_eos=True), ["frequency_penalty", "stop", "ignore_eos"]),
        (Sampling(presence_penalty=0.1, repetition_penalty=1.1, min_tokens=1), ["presence_penalty", "repetition_penalty", "min_tokens"]),
    ],
)
def test_a_request_uses_the_fields_that_change_its_answer(sampling: Sampling, used: list[str]) -> None:
    assert used_by(sampling) == used


def test_a_field_that_is_not_served_is_refused_with_the_engines_that_serve_it() -> None:
    sampling = Sampling(temperature=0.5, seed=5, min_tokens=2)
    assert refusal(sampling, "transformers", ALL) is None
    assert refusal(sampling, "transformers", ALL - {"seed", "stop"}) == BadRequest(
        "seed is not served by the engine of this model (model.engine: transformers); leave it out, or serve this model with "
        "model.engine: slots or model.engine: static",
        param="seed",
    )
    assert refusal(Sampling(seed=5), "transformers", ALL - {"seed"}) is None


def test_a_field_that_no_other_engine_serves_can_only_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.model.capabilities.ENGINES", {"slots": ALL - {"stop"}})
    refused = refusal(Sampling(stop=("x",)), "slots", ALL - {"stop"})
    assert refused is not None
    assert refused.message == "stop is not served by the engine of this model (model.engine: slots); leave it out"


def test_every_declared_field_is_one_that_a_request_can_have() -> None:
    assert all(served <= ALL for served in ENGINES.values())
    assert ENGINES["slots"] == ENGINES["static"] == ALL
