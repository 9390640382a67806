"""Many tokens through unpacked weights give what the fused kernel gives, and the model is as before afterwards."""

from __future__ import annotations

import pytest
import torch

from serve_app.model.quantize import is_fast_cpu
from serve_app.model.unpacked import MIN_TOKENS, many_tokens
from tests.model.conftest import Embedded

pytestmark = pytest.mark.skipif(not is_fast_cpu(), reason="the fused 4-bit kernel needs AVX512-BF16; without it nothing is packed")


def test_both_ways_give_the_same_values(embedded: Embedded) -> None:
    layer = embedded.loaded.model.model.layers[0].mlp.down_proj
    own = type(layer).forward
    with torch.inference_mode():
        for count in (1, MIN_TOKENS - 1, MIN_TOKENS, 2 * MIN_TOKENS):
            tokens = torch.randn(1, count, layer.in_features, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(count))
            fused = layer(tokens).float()
            with many_tokens(embedded.loaded.model):
                assert layer.forward is not own
                unpacked = layer(tokens).float()
            assert (unpacked - fused).abs().max() <= 0.02 * fused.abs().max()
            assert (count < MIN_TOKENS) == torch.equal(unpacked, fused)
    assert "forward" not in vars(layer)
