"""What a freshly loaded model takes: memory from its tensors, and its rates alone from a short run.

The first run also packs 4-bit CPU weights, so a copy must have been saved before. Tests: tests/model/test_loader.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

NUM_PROMPT, NUM_STEPS = 200, 8
NUM_WARM_UP = 16  # prompt tokens; the first forward packs weights and fills caches, and is not measured


def measure_alone(model: Any, pad_id: int, max_context: int) -> tuple[float, float]:
    """Prompt tokens per second and seconds per decode step, one request at a time through `generate`, after a short warm-up."""
    num_prompt = min(NUM_PROMPT, max_context - NUM_STEPS - 1)
    ids = (torch.arange(num_prompt) % (model.config.vocab_size - 100) + 50).clamp(max=model.config.vocab_size - 1)[None].to(model.device)
    timed_generate(model, ids[:, :NUM_WARM_UP], pad_id, 1)
    first_s, step_s = timed_generate(model, ids, pad_id, NUM_STEPS)
    return num_prompt / first_s, step_s


def timed_generate(model: Any, ids: Tensor, pad_id: int, num_steps: int) -> tuple[float, float]:
    """Seconds of the prompts `ids` [rows, tokens] to their first token, and seconds per step after it."""
    clock = _Clock()
    started_at = time.perf_counter()
    config = GenerationConfig(max_new_tokens=num_steps + 1, do_sample=False, pad_token_id=pad_id)
    with torch.inference_mode():
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, stopping_criteria=StoppingCriteriaList([clock])
        )
    return clock.times[0] - started_at, (clock.times[-1] - clock.times[0]) / num_steps


class _Clock(StoppingCriteria):  # type: ignore[misc]
    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        input_ids[:, -1].tolist()  # waits for the device
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def memory_of(model: Any) -> tuple[int, int]:
    """Number of parameters, and bytes of all weights and quantisation states; tied weights count once."""
    num_parameters = 0
    sizes: dict[int, int] = {}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        num_parameters += state.shape.numel() if state is not None else parameter.numel()
        for tensor in (parameter, *_state_tensors(state), getattr(parameter, "SCB", None)):
            if isinstance(tensor, Tensor):
                sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    for buffer in model.buffers():
        sizes[buffer.data_ptr()] = buffer.numel() * buffer.element_size()
    return num_parameters, sum(sizes.values())


def _state_tensors(state: Any) -> Iterator[Tensor]:
    for part in (state, getattr(state, "state2", None)):
        yield from (tensor for tensor in (getattr(part, "absmax", None), getattr(part, "code", None)) if tensor is not None)
