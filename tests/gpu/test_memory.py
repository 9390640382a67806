"""4-bit weights on CUDA, and how much of the GPU's memory weights and KV cache take."""

from __future__ import annotations

import asyncio
import gc

import pytest
import torch

from serve_app.errors import ModelLoadError
from serve_app.messages import Finish
from serve_app.model.engine import Stream
from serve_app.model.kvcache import SlotCache, bytes_per_slot
from serve_app.model.loader import load
from serve_app.model.paged import PagedBatching
from serve_app.settings import ModelSettings
from tests.gpu.test_engines import KV_BYTES, Make, slots, transformers
from tests.model import tiny
from tests.model.conftest import Embedded

MARGIN_BYTES = 1_000_000_000  # of a step: logits of 256 rows, the activations of 2,048 tokens, CUDA graphs


def test_weights_are_quantised_on_the_gpu_and_read_back_in_4_bits(embedded: Embedded) -> None:
    card, model = embedded.loaded.card, embedded.loaded.model
    assert "quantising to nf4" in embedded.phases
    assert (card.device, card.dtype, card.quantization) == ("cuda:0", "bfloat16", "nf4")
    assert 105e6 < card.weights_bytes < 125e6
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert model.model.layers[0].mlp.down_proj.weight.dtype == torch.uint8
    phases: list[str] = []
    again = load(ModelSettings(device="cuda"), embedded.data_path, 2, phases.append).card
    assert not any(phase.startswith(("converting", "quantising", "saving")) for phase in phases)
    assert again.fingerprint == card.fingerprint


@pytest.mark.parametrize("make", [slots, transformers])
async def test_an_engine_stays_within_its_weights_its_kv_budget_and_a_margin(embedded: Embedded, make: Make) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine = make(embedded.loaded)
    streams = [Stream(tiny.ask("the " * 1500, str(number), max_tokens=16)) for number in range(8)]
    assert engine.admit(streams) == streams
    for stream in streams:
        assert isinstance([item async for item in stream][-1], Finish)
    await asyncio.to_thread(engine.close, 0)
    peak = torch.cuda.max_memory_allocated()
    assert before >= embedded.loaded.card.weights_bytes
    assert peak <= before + KV_BYTES + MARGIN_BYTES


def test_a_kv_cache_beyond_the_gpus_free_memory_is_refused_with_the_arithmetic(embedded: Embedded) -> None:
    free, config = torch.cuda.mem_get_info()[0], embedded.loaded.model.config.get_text_config()
    num_slots = free // bytes_per_slot(config, 2048, torch.bfloat16, "cuda:0") + 1
    with pytest.raises(ModelLoadError, match=rf"{num_slots} slots x 2048 tokens .* MB are free; lower model\.kv_cache_mb"):
        SlotCache(config, num_slots, 2048, torch.bfloat16, "cuda:0")
    with pytest.raises(ModelLoadError, match=r"are free on cuda:0; lower model\.kv_cache_mb"):
        PagedBatching(embedded.loaded, 2 * free)
    assert torch.cuda.mem_get_info()[0] > free // 2
