"""Models that would write something else over slots than alone are refused at load, with what is in the way and the way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from serve_app.errors import ModelLoadError
from serve_app.model.runner import Runner
from tests.model.families import FAMILIES, WINDOW, make

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("bloom", {}, "0 of its 3 layers attend through transformers' attention interface"),
        ("mamba", {}, "0 of its 3 layers"),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "1 of its 3 layers"),
        ("stablelm", {}, "its forward does not work with transformers' attention interface"),
        ("gpt_oss", {**EXPERTS, "head_dim": 8, "sliding_window": WINDOW}, "layer 0 attends with s_aux"),
        ("llama4_text", EXPERTS, "layer 0 is of the type chunked_attention, and attends with no window"),
        ("gpt_neox", {}, "layer 0 has 4 key-value heads of 8 and 8, where its configuration says 2 of 8"),
    ],
)
def test_what_attention_would_leave_out_is_found(kind: str, options: dict[str, Any], says: str) -> None:
    model = make(kind, **options)
    with pytest.raises(ModelLoadError, match=f"cannot run over slots: {says}.*; set model.engine: static$"):
        Runner(model, 2, 64)


def test_a_model_that_looks_ahead_is_refused() -> None:
    model = make("gemma3_text", **FAMILIES["gemma3_text"])
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(ModelLoadError, match="layer 0 looks ahead"):
        Runner(model, 2, 64)


def test_a_state_that_goes_from_token_to_token_beside_attention_is_found() -> None:
    model = make("olmo2")
    down = model.model.layers[1].mlp.down_proj
    down.register_forward_hook(lambda layer, inputs, out: out + out.roll(1, -2))  # a convolution over two tokens
    with pytest.raises(ModelLoadError, match=r"in company, the logits of a prompt differ by \d+% from those that it has alone"):
        Runner(model, 2, 64)


@pytest.mark.parametrize("kind", ["llama", "olmo2"])
def test_a_rotation_by_the_longest_row_is_refused_beyond_its_limit(kind: str) -> None:
    model = make(kind, rope_parameters=DYNAMIC)
    Runner(model, 2, 64)
    with pytest.raises(ModelLoadError, match=r"beyond 64 its rotary embedding \(dynamic\) .* set model.max_context: 64 or less"):
        Runner(model, 2, 65)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FAMILIES)
def test_families_that_run_over_slots_are_taken_and_left_as_they_were(kind: str, dtype: torch.dtype) -> None:
    model = make(kind, dtype, **FAMILIES[kind])
    before = model.config._attn_implementation
    Runner(model, 2, 64)
    assert model.config._attn_implementation == before
