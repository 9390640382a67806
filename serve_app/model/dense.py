"""The forward of the Llama family written out for a CPU: fewer and larger operations than transformers' modules need.

    tokens -> embedding -> layers x (norm, query+key+value, rotation, attention, output; norm, gate+up, down) -> norm -> logits

Of each layer, query, key and value are one product, and gate and up another (linears.py). Every other model, and every GPU, runs through
transformers' own modules (runner.py). Gives what they give, but for the rounding of bf16. Tests: tests/model/test_architectures.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model import attention
from serve_app.model.layout import Layout
from serve_app.model.linears import Linears, linears

# Whose layers are those above and nothing else. A subclass may differ in anything, so names are compared, not types.
FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

Norm = Callable[[Tensor], Tensor]


def fits(model: Any) -> bool:
    """True where `Dense` gives what the model's own forward gives."""
    config = model.config
    return type(model).__name__ in FAMILY and model.device.type == "cpu" and getattr(config, "hidden_act", "") == "silu"


class Dense:
    """One model's forward over a slot KV cache. `keep`: with a bf16 copy of the weights (linears.py)."""

    def __init__(self, model: Any, keep: bool) -> None:
        self._embed = model.model.embed_tokens
        self._rotary = model.model.rotary_emb
        self._layers = [_layer(layer, model.config, keep) for layer in model.model.layers]
        self._norm = _norm(model.model.norm)
        self._head = linears([model.lm_head], keep)

    def __call__(self, ids: Tensor, positions: Tensor, wanted: Tensor, layout: Layout) -> Tensor:
        """The logits [wanted, vocabulary] of some of the packed tokens; `ids` and `positions` are [tokens]."""
        hidden = self._embed(ids)
        cos, sin = (part[0, :, None] for part in self._rotary(hidden, positions[None]))
        half = cos.shape[-1] // 2
        turn = (cos, torch.cat((-sin[..., :half], sin[..., half:]), -1))
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            mixed = layer.attend(layer.norm(hidden), turn, layout, index)
            if index == last:  # nothing reads the other tokens' outputs any more
                hidden, mixed = hidden[wanted], mixed[wanted]
                if not wanted.numel():
                    return hidden.new_empty(0, self._embed.num_embeddings)
            hidden = hidden + layer.out(mixed)[0]
            gate, up = layer.gate_up(layer.norm_after(hidden))
            hidden += layer.down(functional.silu(gate).mul_(up))[0]
        return self._head(self._norm(hidden))[0]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer; `dim` of a head, `window` 0 where it sees everything."""

    qkv: Linears
    out: Linears
    gate_up: Linears
    down: Linears
    norm: Norm
    norm_after: Norm
    norm_query: Norm | None
    norm_key: Norm | None
    dim: int
    window: int
    scaling: float

    def attend(self, hidden: Tensor, turn: tuple[Tensor, Tensor], layout: Layout, index: int) -> Tensor:
        """[tokens, heads * dim], before the output product."""
        query, key, value = (part.unflatten(-1, (-1, self.dim)) for part in self.qkv(hidden))
        if self.norm_query is not None and self.norm_key is not None:
            query, key = self.norm_query(query), self.norm_key(key)
        query, key = _rotate(query, *turn), _rotate(key, *turn)
        return attention.run(query, key, value, layout, index, self.window, self.scaling).flatten(1)


def _groups(layer: Any) -> tuple[list[Any], ...]:
    own, mlp = layer.self_attn, layer.mlp
    return [own.q_proj, own.k_proj, own.v_proj], [own.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]


def _layer(layer: Any, config: Any, keep: bool) -> _Layer:
    own = layer.self_attn
    window = getattr(own, "sliding_window", None) if hasattr(own, "sliding_window") else getattr(config, "sliding_window", None)
    query_norm, key_norm = (getattr(own, name, None) for name in ("q_norm", "k_norm"))
    qkv, out, gate_up, down = (linears(group, keep) for group in _groups(layer))
    return _Layer(
        qkv,
        out,
        gate_up,
        down,
        norm=_norm(layer.input_layernorm),
        norm_after=_norm(layer.post_attention_layernorm),
        norm_query=None if query_norm is None else _norm(query_norm),
        norm_key=None if key_norm is None else _norm(key_norm),
        dim=own.head_dim,
        window=window or 0,
        scaling=own.scaling,
    )


def _norm(module: Any) -> Norm:
    weight, eps = module.weight.data, module.variance_epsilon
    return lambda hidden: functional.rms_norm(hidden, weight.shape, None, eps).mul_(weight)  # rounded before the weight, as theirs


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) of [tokens, heads, dim]; the first half of `sin` is negated."""
    first, second = heads.chunk(2, -1)
    return (heads * cos).add_(torch.cat((second, first), -1) * sin)  # not addcmul, which rounds once less than theirs
