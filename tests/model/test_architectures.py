"""Every architecture writes over slots what it writes alone, whoever else runs: token for token in fp32, within rounding in bf16."""

from __future__ import annotations

import asyncio
import functools
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from serve_app.metrics import Metrics
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.kvcache import SlotCache
from serve_app.model.runner import Runner
from serve_app.model.scheduler import Limits, Scheduler, Sequence
from serve_app.settings import ModelTuning
from tests.engine.engine_bench import text_of
from tests.engine.test_engine import read
from tests.model import tiny
from tests.model.families import FAMILIES, make
from tests.model.forced import own_logits, slots_logits

SLOT_TOKENS = 320
VOCABULARY = len(tiny.WORDS)
every_family = pytest.mark.parametrize("kind", FAMILIES)


@functools.cache
def network(kind: str) -> Any:
    return make(kind, **FAMILIES[kind])


def paged(model: Any, num_slots: int = 4) -> Runner:
    """A runner whose pages are so short that every sequence has several."""
    runner = Runner(model, num_slots, SLOT_TOKENS)
    runner.cache = SlotCache(model.config, num_slots, SLOT_TOKENS, model.dtype, "cpu", page_tokens=32)
    return runner


def alone(model: Any, prompt_ids: list[int], max_tokens: int) -> list[int]:
    """What `generate` writes."""
    ids = torch.tensor([prompt_ids])
    config = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, pad_token_id=tiny.EOS, eos_token_id=None)
    tokens: list[int] = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)[
        0, ids.shape[1] :
    ].tolist()
    return tokens


def is_greedy(model: Any, prompt_ids: list[int], token_ids: list[int]) -> bool:
    """Whether each token is the best one after those before it: so it is what `generate` writes, asked in one forward."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt_ids + token_ids]), use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
    return bool(logits.argmax(-1).tolist() == token_ids)


class Mixture:
    """Sequences that come, share prefixes, leave and end at random, over a real runner, under limits that change at random."""

    def __init__(self, runner: Runner, seed: int) -> None:
        self._random = Random(seed)
        self._runner = runner
        self._scheduler = Scheduler(runner.num_slots, runner.slot_tokens, self._limits())
        self._systems = [self._words(length) for length in (20, 40, 150)]
        self.arrived: list[Sequence] = []
        self.num_left = 0

    def play(self, num_sequences: int) -> None:
        with self._runner.attached():
            while len(self.arrived) < num_sequences or self._scheduler.waiting or self._scheduler.running:
                for _ in range(self._random.randrange(3) if len(self.arrived) < num_sequences else 0):
                    self._arrive()
                if self._random.random() < 0.05 and self.arrived:
                    self._scheduler.cancel(self._random.choice(self.arrived).number)
                self._scheduler.tuning = self._limits()
                self._step()

    def _step(self) -> None:
        step, departed = self._scheduler.plan(0.0)
        self.num_left += len(departed)
        best = [] if step.is_empty else self._runner.run(step).argmax(-1).tolist()
        tokens, at = [], 0
        for sequence in step.yields:
            guess = step.guesses.get(sequence, ())
            own = best[at : at + 1 + len(guess)]
            num_right = next((number for number, token in enumerate(guess) if token != own[number]), len(guess))
            tokens.append(own[: num_right + 1])
            at += 1 + len(guess)
        over = [
            sequence for sequence, new in zip(step.yields, tokens, strict=True) if len(sequence.token_ids) + len(new) == sequence.max_tokens
        ]
        self._scheduler.settle(step, tokens, over)
        self._scheduler.check()

    def _arrive(self) -> None:
        begins = self._random.choice([[], *self._systems])
        prompt_ids = begins + self._words(self._random.randint(1, 130))
        sequence = Sequence(len(self.arrived), prompt_ids, self._random.randint(1, 24), "interactive", float(len(self.arrived)))
        self._scheduler.add(sequence)
        self.arrived.append(sequence)

    def _limits(self) -> Limits:
        chunk = self._random.choice([7, 7, 16, 33, 300])
        live, prefix, guesses = self._random.randint(2, 4), self._random.choice([2, 16]), self._random.choice([0, 1, 5])
        return Limits(chunk + 4, chunk, live, starvation_s=30.0, min_prefix=prefix, max_guesses=guesses)

    def _words(self, count: int) -> list[int]:
        return [self._random.randrange(2, VOCABULARY) for _ in range(count)]


@every_family
def test_in_random_mixtures_every_sequence_gets_its_own_tokens(kind: str) -> None:
    model = network(kind)
    mixture = Mixture(paged(model), seed=len(kind))
    mixture.play(num_sequences=30)
    for sequence in mixture.arrived:
        assert is_greedy(model, sequence.prompt_ids, sequence.token_ids), f"{len(sequence.prompt_ids)} prompt tokens"
    complete = sum(len(sequence.token_ids) == sequence.max_tokens for sequence in mixture.arrived)
    assert complete + mixture.num_left >= 30 > complete > 15
    assert sum(sequence.num_cached > 0 for sequence in mixture.arrived) > 3


@every_family
def test_several_tokens_of_a_row_in_one_step_have_the_logits_of_single_steps(kind: str) -> None:
    model, random = network(kind), Random(2)
    pairs = [
        ([random.randrange(2, VOCABULARY) for _ in range(length)], random.choices(range(2, VOCABULARY), k=32)) for length in (3, 40, 61)
    ]
    singly, along = (slots_logits(paged(model), pairs, max_guesses=most) for most in (0, 3))
    for one, other in zip(singly, along, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


@every_family
async def test_the_engine_writes_the_text_of_generate_alone_and_in_company(kind: str) -> None:
    model, random = network(kind), Random(5)
    asked = [(" ".join(random.choices(tiny.WORDS[2:], k=random.randint(1, 100))), random.randint(1, 20)) for _ in range(12)]
    expected = [alone(model, tiny.tokenizer().encode(prompt), most) for prompt, most in asked]
    texts = [tiny.tokenizer().decode(tokens, skip_special_tokens=True) for tokens in expected]
    engine = SlotsEngine(
        tiny.loaded(model, eos_ids=()), ModelTuning(max_batch_size=4), Metrics(), runner=paged(network(kind)), chunk_tokens=7
    )
    try:
        for group in (range(1), range(12)):
            streams = [Stream(tiny.ask(asked[number][0], str(number), max_tokens=asked[number][1])) for number in group]
            assert engine.admit(streams) == streams
            assert [text_of(items) for items in await asyncio.gather(*map(read, streams))] == [texts[number] for number in group]
    finally:
        await asyncio.to_thread(engine.close, 0)


@every_family
def test_in_bf16_the_logits_are_as_near_to_fp32_as_those_of_the_model_alone(kind: str) -> None:
    model, random = make(kind, torch.bfloat16, **FAMILIES[kind]), Random(1)
    exact = make(kind, **FAMILIES[kind])
    exact.load_state_dict(model.state_dict())  # the same rounded weights
    pairs = [
        ([random.randrange(2, VOCABULARY) for _ in range(length)], random.choices(range(2, VOCABULARY), k=16)) for length in (3, 40, 90)
    ]
    wanted, own = ([own_logits(network, [pair], tiny.EOS)[0] for pair in pairs] for network in (exact, model))
    held = slots_logits(paged(model), pairs, chunk_tokens=16)
    assert error(held, wanted) <= 1.5 * error(own, wanted)


def error(logits: list[Tensor], wanted: list[Tensor]) -> float:
    """Root mean square over everything."""
    return float((torch.cat(logits) - torch.cat(wanted)).square().mean().sqrt())
