"""Tiny random models of many architectures, with the vocabulary of tiny.py; made in memory in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from tests.model import tiny

WINDOW = 24
FULL_AND_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
SMALL = {
    "vocab_size": len(tiny.WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": tiny.EOS,
    "pad_token_id": tiny.EOS,
}
# What each adds to Llama: norms of queries and keys, biases, sliding windows, heads of another size, caps, fused or later norms, experts.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": FULL_AND_SLIDING},
    "qwen3": {"head_dim": 12},
    "mistral": {"sliding_window": WINDOW},
    "gemma3_text": {
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": WINDOW,
        "layer_types": FULL_AND_SLIDING,
        "final_logit_softcapping": 30.0,
    },
    "gemma2": {
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": WINDOW,
        "layer_types": FULL_AND_SLIDING,
        "attn_logit_softcapping": 2.0,  # low enough to change the text
        "final_logit_softcapping": 30.0,
    },
    "phi3": {"sliding_window": WINDOW},
    "olmo2": {},
    "gpt_neox": {"num_key_value_heads": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
}


def make(kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A model of one architecture, by transformers' name of it; the same random weights every time.

    Vectors too are random: norms that are all one and biases that are all zero would hide that somebody leaves them out.
    """
    torch.manual_seed(7)
    given = {name: option for name, option in {**SMALL, **options}.items() if option is not None or name == "sliding_window"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    model.generation_config = GenerationConfig(pad_token_id=tiny.EOS)
    return model
