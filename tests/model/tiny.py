"""A tiny random fp32 Llama with a tokenizer of words, made in memory in milliseconds: for tests that need a real `generate`, not sense.

fp32, because in bf16 the company of other rows changes the last bits of the logits, and with them the text.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from serve_app.messages import Generate, Message, ModelCard, Priority, Sampling
from serve_app.model.loader import LoadedModel

EOS = 0
WORDS = ["<eos>", "<unk>", *(f"w{number}" for number in range(94))]
TEMPLATE = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"

CARD = ModelCard(
    id="tiny",
    source="memory",
    revision="",
    architecture="LlamaForCausalLM",
    quantization="none",
    dtype="float32",
    device="cpu",
    fingerprint="tiny",
    max_context=128,
    num_parameters=1,
    weights_bytes=1,
    alone_prefill_tokens_per_s=1000.0,
    alone_decode_step_s=0.01,
    loaded_at=0.0,
)


@functools.cache
def network() -> Any:
    """The same random weights every time. Scaled up, or greedy search would repeat one token for ever."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=EOS,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    model.generation_config = GenerationConfig(pad_token_id=EOS)
    return model


@functools.cache
def tokenizer() -> Any:
    """One token per word; `<eos>` is also the padding."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>")
    made.chat_template = TEMPLATE
    return made


def loaded(model: Any = None, eos_ids: tuple[int, ...] = (EOS,), device: str = "cpu") -> LoadedModel:
    """The tiny model as the loader would hand it over."""
    return LoadedModel(model or network(), tokenizer(), replace(CARD, device=device), eos_ids, EOS, 1, 256)


def ask(prompt: str, request_id: str = "r1", priority: Priority = "interactive", **sampling: Any) -> Generate:
    """A request for a raw prompt."""
    return Generate(request_id, "tiny", Sampling(**{"max_tokens": 8, **sampling}), prompt=prompt, priority=priority)


def chat(content: str, **sampling: Any) -> Generate:
    """A request with one user message."""
    return Generate("c1", "tiny", Sampling(**{"max_tokens": 8, **sampling}), messages=(Message("user", content),))
