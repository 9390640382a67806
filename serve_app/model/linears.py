"""Linear maps on a CPU in the form that is quickest for the number of tokens, several of the same input as one.

4-bit weights have three forms here:

    packed     bitsandbytes' fused kernel, which unpacks them again for every few tokens: the least memory
    unpacked   all of a layer's weights unpacked for one product of many tokens, and thrown away
    kept       unpacked once, in bf16 and in oneDNN's own order: the quickest at every number of tokens, 2 bytes a weight more

Outputs are those of `torch.nn.Linear`, one per layer. What a decoder layer does with them next, a gate or a residual, is part of the
product where weights are kept: oneDNN does it before an output leaves the core's registers. Tests: tests/model/test_linears.py.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MIN_TOKENS = 256  # measured on AVX512-BF16: packed and unpacked are equal at about 230

Linears = Callable[[Tensor], tuple[Tensor, ...]]
Gated = Callable[[Tensor], Tensor]
Added = Callable[[Tensor, Tensor], Tensor]
Ordered = tuple[Tensor, Tensor | None]  # weights in oneDNN's order, and the bias


def linears(layers: Sequence[Any], keep: bool, groups: Sequence[int] = ()) -> Linears:
    """A function of [tokens, inputs] to one [tokens, outputs] per layer, or per group of so many layers; these are as before afterwards.

    `keep`: with a bf16 copy of the weights, where this CPU has a use for one.
    """
    if keep and all(can_keep(layer) for layer in layers):
        return _kept(layers, groups)
    run = _packed(layers) if all(is_packed(layer) for layer in layers) else _each(layers)
    return _joined(run, groups) if groups else run


def gated(gate: Any, up: Any, keep: bool) -> Gated:
    """A function of [tokens, inputs] to silu(gate) * up (SwiGLU, https://arxiv.org/abs/2002.05202); `keep` as above."""
    if keep and can_keep(gate) and can_keep(up):
        of_gate, of_up = _ordered([gate]), _ordered([up])
        return lambda tokens: _product_with(tokens, _product(tokens, of_gate, "swish"), of_up, "mul")
    both = linears([gate, up], keep)

    def run(tokens: Tensor) -> Tensor:
        opened, held = both(tokens)
        return functional.silu(opened).mul_(held)

    return run


def added(layer: Any, keep: bool) -> Added:
    """A function of [tokens, inputs] and a residual [tokens, outputs] to their sum; `keep` as above."""
    if keep and can_keep(layer):
        ordered = _ordered([layer])
        return lambda tokens, residual: _product_with(tokens, residual, ordered, "add")
    run = linears([layer], keep)
    return lambda tokens, residual: residual + run(tokens)[0]


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


def _each(runs: Sequence[Callable[[Tensor], Tensor]]) -> Linears:
    return lambda tokens: tuple(run(tokens) for run in runs)


def _joined(run: Linears, groups: Sequence[int]) -> Linears:
    def joined(tokens: Tensor) -> tuple[Tensor, ...]:
        parts = iter(run(tokens))
        return tuple(torch.cat(tuple(itertools.islice(parts, num)), -1) for num in groups)

    return joined


def _kept(layers: Sequence[Any], groups: Sequence[int]) -> Linears:
    ordered = _ordered(layers)
    outputs = iter([layer.out_features for layer in layers])
    sizes = [sum(itertools.islice(outputs, num)) for num in groups or [1] * len(layers)]

    def run(tokens: Tensor) -> tuple[Tensor, ...]:
        out = _product(tokens, ordered, "none")
        return out.split(sizes, -1) if len(sizes) > 1 else (out,)

    return run


def _product(tokens: Tensor, ordered: Ordered, then: str) -> Tensor:
    """oneDNN's, with what follows for each output (looked up here: a build of torch may be without it)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, *ordered, then, [], "")
    return out


def _product_with(tokens: Tensor, other: Tensor, ordered: Ordered, how: str) -> Tensor:
    """The same, each output added to or multiplied with one of `other`."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(tokens, other, *ordered, how)
    return out


def _ordered(layers: Sequence[Any]) -> Ordered:
    """The layers below one another."""
    weight = torch.cat([unpack(layer)() if is_packed(layer) else layer.weight.data for layer in layers])
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()), _bias(layers, weight)


def _packed(layers: Sequence[Any]) -> Linears:
    unpacks = [unpack(layer) for layer in layers]
    fused = _each([layer.forward for layer in layers])

    def run(tokens: Tensor) -> tuple[Tensor, ...]:
        if tokens.numel() < MIN_TOKENS * tokens.shape[-1] or tokens.dtype != torch.bfloat16:
            return fused(tokens)
        return tuple(functional.linear(tokens, weight(), layer.bias) for weight, layer in zip(unpacks, layers, strict=True))

    return run


def _bias(layers: Sequence[Any], weight: Tensor) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = (weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data for layer in layers)
    return torch.cat([part.to(weight.dtype) for part in parts])
