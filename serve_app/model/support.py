"""Whether a model gives over slots what it gives alone, asked of the model itself at load: a wrong answer would be silent.

    its rotation -> one forward that records how its layers attend -> a prompt in company against the same prompt alone

The record finds what attention.py would leave out (sinks, position biases, layers without attention); the comparison finds what goes from
token to token beside attention (convolutions, recurrent states). A sliding window is too long to be compared, so the record has to show it.
Tests: tests/engine/test_support.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from serve_app.errors import ModelLoadError
from serve_app.model import attention
from serve_app.model.kvcache import SlotCache, shape_of
from serve_app.model.layout import Layout, Segment

PROBE = "slots-probe"
KNOWN = {"layout", "scaling", "is_causal", "sliding_window", "softcap"}  # options that attention.py honours
HARMLESS = {"dropout", "position_ids", "cache_position", "output_attentions", "output_hidden_states", "output_router_logits", "use_cache"}
WINDOWS = {"full_attention": False, "attention": False, "sliding_attention": True}  # layer types, and whether they have a window
MAX_DIFFERENCE = 0.25  # of logits, relative; bf16 gives 0.02, a state that leaks between neighbours 0.5 and more


@contextlib.contextmanager
def attending(model: Any, name: str) -> Iterator[None]:
    """In here, the model attends by that name of transformers' attention interface."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def refuse_unsupported(model: Any, slot_tokens: int) -> None:
    """Costs four forwards of a few tokens.

    Raises:
        ModelLoadError: with what is in the way, and what to set.
    """
    refuse_rotation(model, slot_tokens)
    reason = _in_the_way(model) or _difference(model)
    if reason:
        raise ModelLoadError(f"{type(model).__name__} cannot run over slots: {reason}; set model.engine: static")


def refuse_rotation(model: Any, slot_tokens: int) -> None:
    """Where the rotary embedding depends on the longest row, one row's length would change its neighbours' answers.

    Raises:
        ModelLoadError: with the longest context at which that does not happen.
    """
    config = model.config.get_text_config()
    rotation = getattr(config, "rope_parameters", None) or {}
    parts = [rotation, *(part for part in rotation.values() if isinstance(part, dict))]
    for part in parts:
        kind = part.get("rope_type", "default")
        if "dynamic" not in kind and kind != "longrope":
            continue
        limit = part.get("original_max_position_embeddings") or config.max_position_embeddings
        if slot_tokens > limit:
            raise ModelLoadError(
                f"{type(model).__name__} cannot run over slots of {slot_tokens} tokens: beyond {limit} its rotary embedding ({kind}) "
                f"changes for all rows at once; set model.max_context: {limit} or less, or model.engine: static"
            )


@dataclass(slots=True)
class _Record:
    """Travels in the place of a layout. Each call: the layer, its key-value heads, key and value dimensions, and its options."""

    calls: list[tuple[int, tuple[int, int, int], dict[str, Any]]] = field(default_factory=list)


def _note(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **options: Any) -> tuple[Tensor, None]:
    """transformers' attention interface: remembers how it was called, and attends to nothing."""
    given = {"is_causal": getattr(module, "is_causal", True), "attention_mask": attention_mask}
    given |= {name: option for name, option in options.items() if option is not None}
    options["layout"].calls.append((module.layer_idx, (key.shape[1], key.shape[-1], value.shape[-1]), given))
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None


def _in_the_way(model: Any) -> str:
    """Nothing where every layer attends once, as attention.py computes it."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(PROBE, _note)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PROBE, attention.no_mask)
    record = _Record()
    try:
        with attending(model, PROBE):
            _forward(model, _tokens(model, 3), [0, 1, 2], [2], record)
    except Exception as error:  # whatever a model raises that is not made for it
        return f"its forward does not work with transformers' attention interface ({type(error).__name__}: {str(error)[:200]})"
    config = model.config.get_text_config()
    num_layers, *expected = shape_of(config)
    if sorted(layer for layer, _, _ in record.calls) != list(range(num_layers)):
        return f"{len(record.calls)} of its {num_layers} layers attend through transformers' attention interface"
    kinds = getattr(config, "layer_types", None) or [""] * num_layers
    reasons = (_odd(kinds[layer], (expected[0], expected[1]), shape, options) for layer, shape, options in record.calls)
    return next((f"layer {layer} {reason}" for (layer, _, _), reason in zip(record.calls, reasons, strict=True) if reason), "")


def _odd(kind: str, expected: tuple[int, int], shape: tuple[int, int, int], options: dict[str, Any]) -> str:
    """What is odd about a layer's call: `kind` is the configuration's word for it, `expected` its heads and their dimension."""
    if shape != (*expected, expected[1]):
        return f"has {shape[0]} key-value heads of {shape[1]} and {shape[2]}, where its configuration says {expected[0]} of {expected[1]}"
    if not options["is_causal"]:
        return "looks ahead"
    unknown = sorted(name for name, option in options.items() if name not in KNOWN | HARMLESS and option is not None)
    if unknown:
        return f"attends with {', '.join(unknown)}"
    if kind and WINDOWS.get(kind) is not bool(options.get("sliding_window")):
        return f"is of the type {kind}, and attends with {options.get('sliding_window') or 'no'} window"
    return ""


def _difference(model: Any) -> str:
    """Nothing where a prompt in company has the logits that it has alone, in prefill and in decode."""
    short, long = _tokens(model, 5), _tokens(model, 8).flip(0)
    cache = SlotCache(model.config.get_text_config(), 2, 16, model.get_input_embeddings().weight.dtype, str(model.device))
    with torch.inference_mode():
        alone = model(input_ids=long[None], use_cache=False).logits[0, -2:].float()
    prompts = Layout(cache, [], [Segment(0, 0, 4, 0), Segment(1, 0, 7, 4)])
    decodes = Layout(cache, [(0, 4), (1, 7)], [])
    with attending(model, attention.NAME):
        prefilled = _forward(model, torch.cat((short[:4], long[:7])), [*range(4), *range(7)], [10], prompts)
        decoded = _forward(model, torch.stack((short[4], long[7])), [4, 7], [1], decodes)
    spread = (alone - alone.mean(-1, keepdim=True)).norm()
    difference = float((torch.cat((prefilled, decoded)) - alone).norm() / spread)
    if difference <= MAX_DIFFERENCE:
        return ""
    return f"in company, the logits of a prompt differ by {difference:.0%} from those that it has alone"


def _tokens(model: Any, count: int) -> Tensor:
    return (torch.arange(count, device=model.device) * 7 + 11) % model.get_input_embeddings().weight.shape[0]


def _forward(model: Any, ids: Tensor, positions: list[int], wanted: list[int], layout: object) -> Tensor:
    at, kept = (torch.tensor(numbers, device=model.device) for numbers in (positions, wanted))
    with torch.inference_mode():
        out = model(input_ids=ids[None], position_ids=at[None], use_cache=False, logits_to_keep=kept, layout=layout)
    logits: Tensor = out.logits[0].float()
    return logits
