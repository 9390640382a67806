"""Weights in fewer bits: each linear layer of a bf16 model becomes its bitsandbytes counterpart, one at a time, in place.

Done here rather than by `from_pretrained(quantization_config=...)` because that takes neither a GGUF file nor a block size other than 64;
the layers, the choice of layers and the saved format are bitsandbytes' and transformers' own. Tests: tests/model/test_loader.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from serve_app.errors import ModelLoadError
from serve_app.settings import ModelSettings


def is_fast_cpu() -> bool:
    """True where bitsandbytes' fused CPU kernel runs: it needs AVX512-BF16."""
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


def unpack(model: Any) -> Any:
    """The same 4-bit values as plain fp32 layers, for a CPU without the fused kernel.

    Dequantising in every forward took 3.7 times as long per decode step and 6.8 times as long per prompt token (SmolLM2-135M, AVX2, one
    thread), and such a CPU has no bf16 arithmetic. Costs 8 times the memory of the 4-bit weights.
    """
    return model.dequantize(dtype=torch.float32).to(torch.float32)


def quantise(model: Any, settings: ModelSettings, device: str) -> None:
    """Change `model` (bf16, on the CPU). The layers keep their place; 4-bit ones come back to the CPU, int8 ones stay on `device`.

    Raises:
        ModelLoadError: a layer's shape would fail in the CPU kernel's forward.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    config = bitsandbytes_config(settings)
    skipped = set(AutoHfQuantizer.from_config(config, pre_quantized=False).get_modules_to_not_convert(model))
    layers = [(name, layer) for name, layer in _linear_layers(model) if not _is_skipped(name, skipped)]
    if not layers:
        raise ModelLoadError(f"{type(model).__name__} has no linear layers to quantise; set model.quantization: none")
    if device == "cpu":
        check_shapes(((name, layer.out_features, layer.in_features) for name, layer in layers), settings)
    for name, layer in layers:
        model.set_submodule(name, _int8(layer, device) if settings.quantization == "int8" else _four_bit(layer, settings, device))
    model.config.quantization_config = config  # so that the saved copy says what it is
    model.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=True)


def bitsandbytes_config(settings: ModelSettings) -> Any:
    """The settings as transformers writes them into config.json. The block size travels with each weight's own state."""
    from transformers import BitsAndBytesConfig

    if settings.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantization,
        bnb_4bit_use_double_quant=settings.double_quantization,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def check_shapes(layers: Iterable[tuple[str, int, int]], settings: ModelSettings) -> None:
    """What the fused CPU kernel asserts in its first forward, before it: (name, out_features, in_features) of every 4-bit layer."""
    if not is_fast_cpu():
        return
    for name, num_out, num_in in layers:
        if num_out % 32:
            raise ModelLoadError(
                f"{name} has {num_out} outputs, and the 4-bit CPU kernel needs a multiple of 32; "
                "set model.quantization: none, or model.device: cuda"
            )
        if num_in % settings.block_size:
            fitting = [str(size) for size in (64, 128, 256, 512) if num_in % size == 0 and size < settings.block_size]
            smaller = f"model.block_size: {fitting[-1]}, or " if fitting else ""
            raise ModelLoadError(
                f"{name} has {num_in} inputs, and the 4-bit CPU kernel needs a multiple of model.block_size ({settings.block_size}); "
                f"set {smaller}model.quantization: none"
            )


def _linear_layers(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if type(module) is torch.nn.Linear]


def _is_skipped(name: str, skipped: set[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") or name.endswith(f".{other}") for other in skipped)


def _four_bit(layer: Any, settings: ModelSettings, device: str) -> Any:
    import bitsandbytes as bnb

    with torch.device("meta"):  # its own weights would be allocated only to be dropped
        new = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=settings.double_quantization,
            quant_type=settings.quantization,
        )
    weight = bnb.nn.Params4bit(
        layer.weight.data,
        requires_grad=False,
        blocksize=settings.block_size,
        compress_statistics=settings.double_quantization,
        quant_type=settings.quantization,
        module=new,
    )
    new.weight = weight.to(device).to("cpu")  # the first move quantises: on the GPU where there is one, which is far faster
    new.quant_state = new.weight.quant_state
    new.bias = layer.bias
    return new.eval().requires_grad_(False)


def _int8(layer: Any, device: str) -> Any:
    import bitsandbytes as bnb

    new = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, bias=layer.bias is not None, has_fp16_weights=False, threshold=6.0)
    new.load_state_dict(layer.state_dict())
    return new.to(device).eval().requires_grad_(False)  # the move quantises
