"""The forms of a 4-bit layer give what the fused kernel gives, alone and several as one, and the model is as before afterwards."""

from __future__ import annotations

import pytest
import torch

from serve_app.model.linears import MIN_TOKENS, linears, quick
from serve_app.model.quantize import is_fast_cpu
from tests.model.conftest import Embedded

pytestmark = pytest.mark.skipif(not is_fast_cpu(), reason="the fused 4-bit kernel needs AVX512-BF16; without it nothing is packed")

COUNTS = (1, MIN_TOKENS - 1, MIN_TOKENS, 2 * MIN_TOKENS)


def tokens_for(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("keep", [False, True])
def test_merged_layers_give_what_each_gives_alone(embedded: Embedded, keep: bool) -> None:
    own = embedded.loaded.model.model.layers[3].self_attn
    layers = [own.q_proj, own.k_proj, own.v_proj]
    run = linears(layers, keep)
    with torch.inference_mode():
        for count in COUNTS:
            tokens = tokens_for(count, own.q_proj.in_features)
            for out, layer in zip(run(tokens), layers, strict=True):
                fused = layer(tokens[None])[0].float()
                assert out.shape == fused.shape
                assert (out.float() - fused).abs().max() <= 0.02 * fused.abs().max()


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
