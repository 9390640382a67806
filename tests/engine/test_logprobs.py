"""Log-probabilities of the tokens: the model's own, in order, of the text's tokens only, and nothing where nobody asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from serve_app.errors import BadRequest
from serve_app.logprobs import Candidate, TokenLogprob, pack, unpack
from serve_app.messages import Chunk, Generate, Sampling
from serve_app.metrics import Metrics
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.prompts import encode
from serve_app.model.raw import RawLogprobs
from serve_app.model.rows import Row, Scored
from serve_app.model.spelling import Spelling
from serve_app.model.static import StaticEngine
from serve_app.settings import ModelTuning
from tests.engine.engine_bench import Items, ending_of, text_of
from tests.engine.test_engine import read
from tests.engine.test_inflight import REFERENCE, GatedRunner
from tests.model import tiny

Engine = StaticEngine | SlotsEngine


@pytest_asyncio.fixture(params=["static", "slots"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    tuning, metrics = ModelTuning(max_batch_size=8), Metrics()
    made: Engine
    if request.param == "static":
        made = StaticEngine(tiny.loaded(eos_ids=()), tuning, metrics)
    else:
        made = SlotsEngine(tiny.loaded(eos_ids=()), tuning, metrics, runner=GatedRunner())
    yield made
    await asyncio.to_thread(made.close, 0)


async def generate(engine: Engine, *requests: Generate) -> list[Items]:
    streams = [Stream(request) for request in requests]
    assert engine.admit(streams) == streams
    return await asyncio.gather(*map(read, streams))


def logprobs_of(items: Items) -> list[TokenLogprob]:
    return [entry for item in items if isinstance(item, Chunk) for entry in item.logprobs]


def expected(prompt: str, answer: str) -> torch.Tensor:
    """log_softmax of the model's own logits for each token of the answer, [tokens, vocabulary]."""
    ids = torch.tensor([tiny.tokenizer().encode(f"{prompt} {answer}")])
    num = len(answer.split())
    with torch.inference_mode():
        logits: torch.Tensor = REFERENCE(input_ids=ids).logits[0, -num - 1 : -1]
    return logits.log_softmax(dim=-1)


async def test_they_are_the_models_own_whatever_bias_penalty_and_temperature_do(engine: Engine) -> None:
    plain = tiny.ask("w1 w2", "plain", logprobs=2, max_tokens=6)
    changed = tiny.ask("w3", "changed", logprobs=20, max_tokens=6, temperature=1.5, seed=4, repetition_penalty=1.5, logit_bias=((7, 9.0),))
    without = tiny.ask("w5", "without", max_tokens=6)
    answers = await generate(engine, plain, changed, without)
    for request, items, num_top in ((plain, answers[0], 2), (changed, answers[1], 20)):
        assert request.prompt is not None
        table, told, text = expected(request.prompt, text_of(items)), logprobs_of(items), text_of(items)
        assert [entry.chosen.token for entry in told] == text.split()
        assert [text[entry.offset :].split()[0] for entry in told] == text.split()
        for row, entry in zip(table, told, strict=True):
            assert entry.chosen.logprob == pytest.approx(float(row[tiny.WORDS.index(entry.chosen.token)]), abs=1e-4)
            best = row.topk(num_top)
            assert [one.logprob for one in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert [one.token for one in entry.top] == [tiny.WORDS[token] for token in best.indices.tolist()]
    assert [entry.chosen == entry.top[0] for entry in logprobs_of(answers[0])] == [True] * 6
    assert logprobs_of(answers[2]) == []


async def test_the_tokens_of_a_stop_string_have_none(engine: Engine) -> None:
    whole = text_of((await generate(engine, tiny.ask("w1 w2 w3", max_tokens=12)))[0]).split()
    (items,) = await generate(engine, tiny.ask("w1 w2 w3", max_tokens=12, stop=(f" {whole[4]} {whole[5]}",), logprobs=0))
    assert [entry.chosen.token for entry in logprobs_of(items)] == whole[:4]
    assert ending_of(items).usage.completion_tokens == 6


async def test_a_bias_on_a_token_that_there_is_not_is_refused_by_name(engine: Engine) -> None:
    fine, wrong = (tiny.ask("w1", logit_bias=((3, 1.0), (token, 1.0))) for token in (95, 96))
    with pytest.raises(BadRequest, match="logit_bias: this model has no token 96; send ids from 0 to 95") as caught:
        encode(tiny.tokenizer(), wrong, 128)
    assert caught.value.param == "logit_bias"
    refused, taken = engine.admit([Stream(wrong), stream := Stream(fine)])
    assert (type(refused), taken) == (BadRequest, stream)
    await read(stream)


def utf8_row(sampling: dict[str, Any], eos_ids: Sequence[int] = ()) -> Row:
    """A row of a model whose tokens are the bytes."""

    class Bytes(Spelling):
        def __init__(self) -> None:
            pass

        def is_special(self, token: int) -> bool:
            return token == 0

        def spell(self, token: int) -> bytes:
            return bytes([token])

    request = tiny.ask("x", logprobs=1, **{"max_tokens": 100, **sampling})
    return Row(Stream(request), [1], eos_ids, lambda tokens: bytes(filter(None, tokens)).decode("utf-8", "replace"), Bytes())


async def taken(row: Row, data: bytes) -> Items:
    """What comes of a row that takes bytes as tokens, and ends; everything waits for its reader, and so comes as one chunk."""
    for number, byte in enumerate(data):
        reason = row.take(byte, 0.0, Scored(-float(number), [(byte, -float(number))]))
        if reason is not None:
            break
    row.end(row.finish(reason or "length", 1.0, tiny.CARD, 1.0))
    return await read(row.stream)


async def test_the_bytes_of_one_character_come_together_at_its_offset() -> None:
    data = "a\N{GRINNING FACE}b".encode()
    items = await taken(utf8_row({"max_tokens": 6}), data)
    assert text_of(items) == data.decode()
    told = logprobs_of(items)
    assert b"".join(entry.chosen.utf8 for entry in told) == data
    assert [entry.offset for entry in told] == [0, 1, 1, 1, 1, 2]
    assert [entry.chosen.logprob for entry in told] == [-0.0, -1.0, -2.0, -3.0, -4.0, -5.0]
    assert told[1].top == (Candidate(data[1:2], -1.0),)


async def test_text_that_is_held_back_holds_its_log_probabilities_back() -> None:
    row = utf8_row({"stop": ("##",)})
    sent: list[Chunk] = []
    for byte in b"a#b#":
        row.take(byte, 0.0, Scored(-1.0))
        if row.stream._waiting:
            item = await anext(row.stream)
            assert isinstance(item, Chunk)
            sent.append(item)
    assert [(chunk.text, b"".join(entry.chosen.utf8 for entry in chunk.logprobs)) for chunk in sent] == [("a", b"a"), ("#b", b"#b")]
    items = await taken(row, b"#")
    assert (text_of(items), logprobs_of(items), ending_of(items).reason) == ("", [], "stop")


async def test_the_end_of_sequence_and_special_tokens_have_none() -> None:
    items = await taken(utf8_row({}, eos_ids=[3]), b"a\x00b\x03")
    assert [entry.chosen.token for entry in logprobs_of(items)] == ["a", "b"]
    assert ending_of(items).usage.completion_tokens == 4


async def test_bytes_that_never_became_a_character_are_told_at_the_end() -> None:
    items = await taken(utf8_row({"max_tokens": 2}), b"a\xf0")
    assert [entry.chosen.token for entry in logprobs_of(items)] == ["a", "\\xf0"]


def test_what_is_packed_comes_back() -> None:
    told = (
        TokenLogprob(Candidate(b"\xf0\x9f", -0.5), (Candidate(b" x", -0.25), Candidate(b"", -9999.0)), 7),
        TokenLogprob(Candidate(b"a", 0)),
    )
    assert unpack(pack(told)) == told


def tokenizer_of(model: Any, decoder: Any, added: Sequence[AddedToken] = ()) -> Any:
    made = Tokenizer(model)
    made.decoder = decoder
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken("<|end|>", special=True)])
    made.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")


def test_a_byte_level_vocabulary_spells_its_very_bytes() -> None:
    pieces = {"\u0120Hello": 0, "\u00f0\u0141": 1, "\u010a": 2, "a": 3, "\u0100": 4}
    spelling = Spelling(tokenizer_of(models.BPE(pieces, []), decoders.ByteLevel(), [AddedToken("\u00e9t\u00e9")]))
    assert [spelling.spell(token) for token in range(7)] == [
        b" Hello",
        b"\xf0\x9f",
        b"\n",
        b"a",
        b"\x00",
        b"<|end|>",
        "\u00e9t\u00e9".encode(),
    ]
    assert [spelling.is_special(token) for token in range(7)] == [False] * 5 + [True, False]
    assert spelling.spell(99) == b""


def test_a_sentencepiece_vocabulary_spells_spaces_and_single_bytes() -> None:
    pieces = {"<unk>": 0, "\u2581Hello": 1, "<0xF0>": 2, "lo": 3}
    decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    spelling = Spelling(tokenizer_of(models.BPE(pieces, [], unk_token="<unk>"), decoder))
    assert [spelling.spell(token) for token in range(1, 4)] == [b" Hello", b"\xf0", b"lo"]


def test_any_other_vocabulary_spells_the_decoded_token() -> None:
    assert Spelling(tiny.tokenizer()).spell(7) == tiny.WORDS[7].encode()


def test_a_token_that_is_no_whole_character_is_written_as_openai_does() -> None:
    assert [Candidate(data, 0.0).token for data in (b"\xf0\x9f", "\u00e9".encode())] == ["\\xf0\\x9f", "\u00e9"]
    assert replace(Candidate(b"a", 0.0), utf8=b"b").token == "b"


def test_equally_probable_tokens_come_in_order_of_their_ids_as_greedy_decoding_takes_them() -> None:
    logits = torch.zeros(1, 50)
    logits[0, [41, 7, 23]] = 3.0
    (scored,) = RawLogprobs(logits, [Sampling(logprobs=3)]).of([int(logits.argmax())])
    assert scored is not None
    assert [token for token, _ in scored.top] == [7, 23, 41]
    assert scored.logprob == scored.top[0][1]
