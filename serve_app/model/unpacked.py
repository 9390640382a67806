"""4-bit linear layers for many tokens at once on a CPU: unpack the weights once, then one bf16 matrix product.

bitsandbytes' fused kernel unpacks the weights again for every few rows. From some hundred tokens on, unpacking them all (20 ms for the
embedded model) and multiplying in bf16 is quicker; below, the fused kernel stays. Costs a second copy of the 4-bit values, because the
fused kernel's own layout cannot be unpacked. Tests: tests/model/test_unpacked.py.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MIN_TOKENS = 256  # measured on AVX512-BF16: equal at about 230


@contextlib.contextmanager
def many_tokens(model: Any) -> Iterator[None]:
    """In here, the model's packed 4-bit CPU layers take the quicker way by the number of tokens."""
    changed = [layer for layer in model.modules() if _is_packed(layer)]
    for layer in changed:
        layer.forward = _forward(layer)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward  # the class's own is below it


def _is_packed(layer: Any) -> bool:
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False))


def _forward(layer: Any) -> Callable[[Tensor], Tensor]:
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse, dequantize_4bit

    fused: Callable[[Tensor], Tensor] = layer.forward
    own = copy.copy(layer.weight.quant_state)  # the inverse changes what it is given
    own.original_nested = False  # scales that were quantised are plain by now, and would be quantised once more
    weight, state = _convert_weight_packed_for_cpu_inverse(layer.weight.data, own)
    state.absmax = state.absmax.T.reshape(-1).float()  # the fused layout's are [blocks, outputs] in bf16
    state.dtype = torch.bfloat16

    def forward(tokens: Tensor) -> Tensor:
        if tokens.numel() < MIN_TOKENS * tokens.shape[-1] or tokens.dtype != torch.bfloat16:
            return fused(tokens)
        return functional.linear(tokens, dequantize_4bit(weight, state), layer.bias)

    return forward
