"""Linear maps on a CPU in the form that is quickest for the number of tokens, several of the same input as one.

4-bit weights have three forms here:

    packed     bitsandbytes' fused kernel, which unpacks them again for every few tokens: the least memory
    unpacked   all of a layer's weights unpacked for one product of many tokens, and thrown away
    kept       unpacked once, in bf16 and in oneDNN's own order: the quickest at every number of tokens, 2 bytes a weight more

Outputs are those of `torch.nn.Linear`, one per layer. Tests: tests/model/test_linears.py.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MIN_TOKENS = 256  # measured on AVX512-BF16: packed and unpacked are equal at about 230

Linears = Callable[[Tensor], tuple[Tensor, ...]]


def linears(layers: Sequence[Any], keep: bool) -> Linears:
    """A function of [tokens, inputs] to one [tokens, outputs] per layer; the layers are as before afterwards.

    `keep`: with a bf16 copy of the weights, where this CPU has a use for one.
    """
    if keep and all(can_keep(layer) for layer in layers):
        return _kept(layers)
    if all(is_packed(layer) for layer in layers):
        return _packed(layers)
    return lambda tokens: tuple(layer(tokens) for layer in layers)


@contextlib.contextmanager
def quick(model: Any, keep: bool) -> Iterator[None]:
    """In here, every 4-bit CPU layer of the model computes that way by itself: for architectures whose layers are not known."""
    changed = [layer for layer in model.modules() if is_packed(layer)]
    for layer in changed:
        layer.forward = _alone(layer, keep)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward  # the class's own is below it


def _alone(layer: Any, keep: bool) -> Callable[[Tensor], Tensor]:
    run = linears([layer], keep)
    return lambda tokens: run(tokens)[0]


def is_packed(layer: Any) -> bool:
    """True for a 4-bit layer in the order of bitsandbytes' fused CPU kernel."""
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False))


def can_keep(layer: Any) -> bool:
    """True for a layer whose weights are, or unpack to, bf16 on a CPU."""
    return is_packed(layer) or (
        type(layer) is torch.nn.Linear and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu"
    )


def kept_bytes(layers: Iterable[Any]) -> int:
    """What `keep` takes for these, beside the layers."""
    return sum(2 * layer.in_features * layer.out_features for layer in layers if can_keep(layer))


def unpack(layer: Any) -> Callable[[], Tensor]:
    """What gives a packed layer's weights, [outputs, inputs] in bf16. Holds a second copy of the 4-bit values, in the plain order."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse, dequantize_4bit

    own = copy.copy(layer.weight.quant_state)  # the inverse changes what it is given
    own.original_nested = False  # scales that were quantised are plain by now, and would be quantised once more
    weight, state = _convert_weight_packed_for_cpu_inverse(layer.weight.data, own)
    state.absmax = state.absmax.T.reshape(-1).float()  # the fused layout's are [blocks, outputs] in bf16
    state.dtype = torch.bfloat16
    return lambda: dequantize_4bit(weight, state)


def _kept(layers: Sequence[Any]) -> Linears:
    weight = torch.cat([unpack(layer)() if is_packed(layer) else layer.weight.data for layer in layers])
    bias = _bias(layers, weight)
    sizes = [layer.out_features for layer in layers]
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def run(tokens: Tensor) -> tuple[Tensor, ...]:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, ordered, bias, "none", [], "")
        return out.split(sizes, -1) if len(sizes) > 1 else (out,)

    return run


def _packed(layers: Sequence[Any]) -> Linears:
    unpacks = [unpack(layer) for layer in layers]
    fused = [layer.forward for layer in layers]

    def run(tokens: Tensor) -> tuple[Tensor, ...]:
        if tokens.numel() < MIN_TOKENS * tokens.shape[-1] or tokens.dtype != torch.bfloat16:
            return tuple(forward(tokens) for forward in fused)
        return tuple(functional.linear(tokens, weight(), layer.bias) for weight, layer in zip(unpacks, layers, strict=True))

    return run


def _bias(layers: Sequence[Any], weight: Tensor) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = (weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data for layer in layers)
    return torch.cat([part.to(weight.dtype) for part in parts])
