"""The slots engine on real 4-bit weights: what it writes differs from `generate` only where two tokens are as good as equal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import torch
from transformers import GenerationConfig

from serve_app.messages import Chunk, Finish, Generate, Message, Sampling
from serve_app.metrics import Metrics
from serve_app.model.engine import Engine, Stream
from serve_app.model.inflight import SlotsEngine, slots_of
from serve_app.model.prompts import encode
from serve_app.settings import ModelSettings, ModelTuning
from tests.model.conftest import Embedded

QUESTIONS = [
    "What is the capital of France?",
    "Why is a batch cheaper than its parts?",
    "Name three uses of a cache, one sentence each.",
    "Write a short story about a parcel that nobody had ordered.",
    "Explain quantization to a child.",
    "What does a scheduler do?",
]
NUM_TOKENS = 40
MAX_GAP = 0.5  # of the top two logits at the first difference: bf16 sums depend on the company


async def test_every_difference_from_generate_begins_where_two_tokens_are_as_good_as_equal(embedded: Embedded) -> None:
    loaded = embedded.loaded
    settings = ModelSettings(kv_cache_mb=400)
    await assert_writes_as_generate(
        embedded, lambda: SlotsEngine(loaded, ModelTuning(max_batch_size=4), Metrics(), runner=slots_of(loaded, settings))
    )


async def assert_writes_as_generate(embedded: Embedded, make: Callable[[], Engine]) -> None:
    """An engine over real weights. `generate` runs before it is made: an engine may change what the model attends with."""
    loaded = embedded.loaded
    requests = [
        Generate(str(number), loaded.card.id, Sampling(max_tokens=NUM_TOKENS, ignore_eos=True), (Message("user", text),))
        for number, text in enumerate(QUESTIONS)
    ]
    singly = [plain(embedded, request) for request in requests]
    engine = make()
    streams = [Stream(request) for request in requests]
    assert engine.admit(streams) == streams
    texts = await asyncio.gather(*map(read, streams))
    await asyncio.to_thread(engine.close, 0)
    for (tokens, gaps), text in zip(singly, texts, strict=True):
        expected = [loaded.tokenizer.decode(tokens[:count], skip_special_tokens=True) for count in range(len(tokens) + 1)]
        same = next(count for count in range(len(tokens), -1, -1) if text.startswith(expected[count]))
        assert same == len(tokens) or gaps[same] <= MAX_GAP, (text, expected[-1])


def plain(embedded: Embedded, request: Generate) -> tuple[list[int], list[float]]:
    """What `generate` writes alone where an end of sequence has no probability, as with `ignore_eos`, and by how much each token won."""
    loaded = embedded.loaded
    ids = torch.tensor([encode(loaded.tokenizer, request, loaded.card.max_context)], device=loaded.device)
    config = GenerationConfig(
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        pad_token_id=loaded.pad_id,
        suppress_tokens=list(loaded.eos_ids),
        output_scores=True,
        return_dict_in_generate=True,
    )
    with torch.inference_mode():
        out = loaded.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, eos_token_id=None)
    best = [scores[0].float().topk(2).values for scores in out.scores]
    return out.sequences[0, ids.shape[1] :].tolist(), [float(first - second) for first, second in best]


async def read(stream: Stream) -> str:
    items = [item async for item in stream]
    assert isinstance(items[-1], Finish)
    assert items[-1].usage.completion_tokens == NUM_TOKENS
    return "".join(item.text for item in items if isinstance(item, Chunk))
