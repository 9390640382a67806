"""The forward of the Llama family written out for a CPU: fewer and larger operations than transformers' modules need.

    tokens -> embedding -> layers x (norm, query+key+value, rotation, attention, output; norm, gate+up, down) -> norm -> logits

Of each layer, query, key and value are one product; gate, residual and what they are multiplied with or added to are part of another
(linears.py). Every other model, and every GPU, runs through transformers' own modules (runner.py). Gives what they give, but for the
rounding of bf16. Tests: tests/model/test_architectures.py.
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
from serve_app.model.linears import Added, Gated, Linears, added, gated, linears

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
            hidden = layer.out(mixed, hidden)
            hidden = layer.down(layer.gate_up(layer.norm_after(hidden)), hidden)
        return self._head(self._norm(hidden))[0]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer; `num_heads` of queries and of keys, `dim` of a head, `window` 0 where it sees everything."""

    qk_v: Linears  # queries and keys as one, and values
    out: Added
    gate_up: Gated
    down: Added
    norm: Norm
    norm_after: Norm
    norm_query: Norm | None
    norm_key: Norm | None
    num_heads: tuple[int, int]
    dim: int
    window: int
    scaling: float

    def attend(self, hidden: Tensor, turn: tuple[Tensor, Tensor], layout: Layout, index: int) -> Tensor:
        """[tokens, heads * dim], before the output product."""
        both, value = (part.unflatten(-1, (-1, self.dim)) for part in self.qk_v(hidden))
        if self.norm_query is not None and self.norm_key is not None:
            query, key = both.split(self.num_heads, 1)
            both = torch.cat((self.norm_query(query), self.norm_key(key)), 1)
        query, key = _rotate(both, *turn).split(self.num_heads, 1)
        return attention.run(query, key, value, layout, index, self.window, self.scaling).flatten(1)


def _layer(layer: Any, config: Any, keep: bool) -> _Layer:
    own, mlp = layer.self_attn, layer.mlp
    window = getattr(own, "sliding_window", None) if hasattr(own, "sliding_window") else getattr(config, "sliding_window", None)
    query_norm, key_norm = (getattr(own, name, None) for name in ("q_norm", "k_norm"))
    return _Layer(
        qk_v=linears([own.q_proj, own.k_proj, own.v_proj], keep, (2, 1)),
        out=added(own.o_proj, keep),
        gate_up=gated(mlp.gate_proj, mlp.up_proj, keep),
        down=added(mlp.down_proj, keep),
        norm=_norm(layer.input_layernorm),
        norm_after=_norm(layer.post_attention_layernorm),
        norm_query=None if query_norm is None else _norm(query_norm),
        norm_key=None if key_norm is None else _norm(key_norm),
        num_heads=(own.q_proj.out_features // own.head_dim, own.k_proj.out_features // own.head_dim),
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
