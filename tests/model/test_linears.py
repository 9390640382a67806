"""The forms of a 4-bit layer give what the fused kernel gives, alone and several as one, and the model is as before afterwards."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from serve_app.model.linears import MIN_TOKENS, added, gated, linears, quick
from serve_app.model.quantize import is_fast_cpu
from tests.model.conftest import Embedded

pytestmark = pytest.mark.skipif(not is_fast_cpu(), reason="the fused 4-bit kernel needs AVX512-BF16; without it nothing is packed")

COUNTS = (1, MIN_TOKENS - 1, MIN_TOKENS, 2 * MIN_TOKENS)


def tokens_for(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(count))


def assert_near(out: torch.Tensor, fused: torch.Tensor) -> None:
    assert out.shape == fused.shape
    assert (out.float() - fused.float()).abs().max() <= 0.02 * fused.float().abs().max()


@pytest.mark.parametrize("keep", [False, True])
def test_merged_layers_give_what_each_gives_alone(embedded: Embedded, keep: bool) -> None:
    own = embedded.loaded.model.model.layers[3].self_attn
    layers = [own.q_proj, own.k_proj, own.v_proj]
    run, run_in_groups = linears(layers, keep), linears(layers, keep, (2, 1))
    with torch.inference_mode():
        for count in COUNTS:
            tokens = tokens_for(count, own.q_proj.in_features)
            outs = run(tokens)
            for out, layer in zip(outs, layers, strict=True):
                assert_near(out, layer(tokens[None])[0])
            both, value = run_in_groups(tokens)
            assert torch.equal(both, torch.cat(outs[:2], -1))
            assert torch.equal(value, outs[2])


@pytest.mark.parametrize("keep", [False, True])
def test_what_follows_a_product_gives_what_it_gives_afterwards(embedded: Embedded, keep: bool) -> None:
    mlp = embedded.loaded.model.model.layers[3].mlp
    run_gated, run_added = gated(mlp.gate_proj, mlp.up_proj, keep), added(mlp.down_proj, keep)
    with torch.inference_mode():
        for count in COUNTS:
            tokens = tokens_for(count, mlp.gate_proj.in_features)
            wide = tokens_for(count, mlp.down_proj.in_features)
            before = tokens.clone()
            assert_near(run_gated(tokens), silu(mlp.gate_proj(tokens[None])[0]) * mlp.up_proj(tokens[None])[0])
            assert_near(run_added(wide, tokens), tokens + mlp.down_proj(wide[None])[0])
            assert torch.equal(tokens, before)  # a residual is not changed in place


@pytest.mark.parametrize("keep", [False, True])
def test_a_model_of_unknown_layers_takes_the_quick_forms_and_is_as_before_afterwards(embedded: Embedded, keep: bool) -> None:
    layer = embedded.loaded.model.model.layers[0].mlp.down_proj
    own = type(layer).forward
    with torch.inference_mode():
        for count in COUNTS:
            tokens = tokens_for(count, layer.in_features)[None]
            fused = layer(tokens).float()
            with quick(embedded.loaded.model, keep):
                assert layer.forward is not own
                unpacked = layer(tokens).float()
            assert (unpacked - fused).abs().max() <= 0.02 * fused.abs().max()
            assert torch.equal(unpacked, fused) == (count < MIN_TOKENS and not keep)
    assert "forward" not in vars(layer)
