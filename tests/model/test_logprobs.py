"""Log-probabilities of the embedded model: its vocabulary spells the text's very bytes, and its best tokens are the greedy ones."""

from __future__ import annotations

import asyncio

from serve_app.messages import Chunk, Finish, Generate, Message, Sampling
from serve_app.metrics import Metrics
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine, slots_of
from serve_app.model.spelling import Spelling
from serve_app.settings import ModelSettings, ModelTuning
from tests.model.conftest import Embedded

TEXT = " na\u00efve \U0001f600\n\t\u4e2d\u6587 x\u00a0y"


def test_the_tokens_of_a_text_spell_its_bytes(embedded: Embedded) -> None:
    tokenizer = embedded.loaded.tokenizer
    spelling = Spelling(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert b"".join(map(spelling.spell, ids)) == TEXT.encode()
    assert any(not tokenizer.decode([token]).isprintable() for token in ids)  # halves of characters are among them
    assert all(map(spelling.is_special, embedded.loaded.eos_ids))


def test_every_token_spells_something(embedded: Embedded) -> None:
    spelling = Spelling(embedded.loaded.tokenizer)
    assert [token for token in range(len(embedded.loaded.tokenizer)) if not spelling.spell(token)] == []


async def test_a_greedy_answer_and_its_log_probabilities_agree(embedded: Embedded) -> None:
    loaded = embedded.loaded
    sampling = Sampling(max_tokens=12, logprobs=3)
    request = Generate("r", loaded.card.id, sampling, (Message("user", "Say hello in French, Chinese and emoji."),))
    engine = SlotsEngine(loaded, ModelTuning(max_batch_size=4), Metrics(), runner=slots_of(loaded, ModelSettings(kv_cache_mb=400)))
    stream = Stream(request)
    assert engine.admit([stream]) == [stream]
    items = [item async for item in stream]
    await asyncio.to_thread(engine.close, 0)
    assert isinstance(items[-1], Finish)
    chunks = [item for item in items if isinstance(item, Chunk)]
    text, told = "".join(chunk.text for chunk in chunks), [entry for chunk in chunks for entry in chunk.logprobs]
    assert b"".join(entry.chosen.utf8 for entry in told).decode("utf-8", "replace") == text
    assert [entry.chosen for entry in told] == [entry.top[0] for entry in told]
    assert [len(entry.top) for entry in told] == [3] * len(told)
    assert all(-20 < entry.chosen.logprob <= 0 for entry in told)
    assert [text[entry.offset :].startswith(entry.chosen.token) for entry in told if not entry.chosen.token.startswith("\\x")]
