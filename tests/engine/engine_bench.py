"""What the tests of engines share: a bench that makes engines over one model, a gate before its forwards, and readers of streams."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig

from serve_app.messages import Chunk, Failed, Finish, Generate
from serve_app.model.continuous import TransformersEngine
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.loader import LoadedModel
from serve_app.model.static import StaticEngine
from serve_app.settings import ModelTuning
from tests.model import tiny

AnyEngine = StaticEngine | SlotsEngine | TransformersEngine
Items = list[Chunk | Finish | Failed]
MAX_GAP = 0.02  # of the top two logits, where an order of sums may decide; fp32 differs by some 1e-5


async def read(stream: Stream) -> Items:
    async with asyncio.timeout(60):
        return [item async for item in stream]


def text_of(items: Items) -> str:
    return "".join(item.text for item in items if isinstance(item, Chunk))


def ending_of(items: Items) -> Any:
    """The one ending, which is the last item."""
    assert [isinstance(item, Chunk) for item in items] == [True] * (len(items) - 1) + [False]
    return items[-1]


def words(count: int, seed: int) -> str:
    choose = random.Random(seed)
    return " ".join(f"w{choose.randrange(94)}" for _ in range(count))


class Gate:
    """Stops every forward of a model until `open`, and counts them; while `error` is set, they raise it."""

    def __init__(self, model: Any) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.num_forwards = 0
        self.error: Exception | None = None
        # Every forward begins there, the model's own and one that is written out (dense.py).
        self._handle = model.get_input_embeddings().register_forward_pre_hook(self._before)

    def _before(self, module: Any, args: Any) -> None:
        self.num_forwards += 1
        self.entered.set()
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error

    def remove(self) -> None:
        self._handle.remove()


@dataclass
class Bench:
    """Makes engines of one kind over one model, which no two of them share at a time."""

    make: Callable[[LoadedModel, ModelTuning], AnyEngine]
    model: Any
    device: str = "cpu"
    engines: list[AnyEngine] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    def start(self, eos_ids: tuple[int, ...] = (), **tuning: Any) -> AnyEngine:
        for before in self.engines:
            before.close(0)
        loaded = tiny.loaded(self.model, eos_ids, self.device)
        engine = self.make(loaded, ModelTuning(**{"max_batch_size": 8, **tuning}))
        self.engines.append(engine)
        return engine

    def gate(self) -> Gate:
        self.gates.append(Gate(self.model))
        return self.gates[-1]

    def close(self) -> None:
        for gate in self.gates:
            gate.error = None
            gate.open.set()
        for engine in self.engines:
            engine.close(0)
        for gate in self.gates:
            gate.remove()

    def alone(self, prompt: str, max_tokens: int) -> tuple[list[str], list[float]]:
        """What plain `generate` writes, greedily, and by how much each word won. While no engine has the model."""
        ids = torch.tensor([tiny.tokenizer().encode(prompt)], device=self.device)
        config = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=tiny.EOS,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        out = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        best = [logits[0].float().topk(2).values for logits in out.logits]
        return [tiny.WORDS[token] for token in out.sequences[0, ids.shape[1] :]], [float(one - two) for one, two in best]


async def generate(engine: AnyEngine, *requests: Generate) -> list[Items]:
    """All requests as one group."""
    streams = [Stream(request) for request in requests]
    assert engine.admit(streams) == streams
    return await asyncio.gather(*map(read, streams))


def assert_same(text: str, expected: tuple[Sequence[str], Sequence[float]]) -> None:
    """Equal up to the first word where the two best tokens were as good as equal."""
    plain = [word for word in expected[0] if word not in ("<eos>", "<unk>")]
    if text.split() != plain:
        same = next(number for number, (one, two) in enumerate(zip([*text.split(), ""], [*plain, ""], strict=False)) if one != two)
        assert min(expected[1][same:], default=1.0) < MAX_GAP, (text, plain)
