"""How exact the slots engine's arithmetic is: as near to fp32 on the same 4-bit values as `generate` alone is.

The divergence from `generate` alone shall also be no more than that of `generate` in a batch of 16. With `generate`'s own kernels (the
fused 4-bit product, torch's fused attention) it is less. With the quicker ones of the slots it is more, because a batch shares kernels,
and so most of its rounding, with `generate` alone, while the slots round elsewhere by as much; a test says so, and fails once that aim is
met as well.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from serve_app.bench import prompts
from serve_app.messages import Generate, Message, Sampling
from serve_app.model import attention, linears
from serve_app.model.prompts import encode
from serve_app.model.quantize import is_fast_cpu, unpack
from serve_app.model.runner import Runner
from tests.model.conftest import Embedded
from tests.model.forced import Pair, own_logits, slots_logits

pytestmark = pytest.mark.skipif(
    not is_fast_cpu(), reason="without AVX512-BF16 the 4-bit values run in fp32, and there is nothing to compare"
)

NUM_ROWS = 16
NUM_TOKENS = 16
MARGIN = 1.25  # 256 tokens tell the mean to a tenth; over 1,152 the two were equal within 1 %
MAX_GAP = 0.5  # of the top two logits where another token wins


class Alone:
    """What `generate` writes at batch 1 for prompts of 13 to 400 tokens, and its logits."""

    def __init__(self, embedded: Embedded) -> None:
        self.pairs: list[Pair] = []
        self.logits: list[Tensor] = []  # per pair fp32 [tokens, vocabulary]
        loaded = embedded.loaded
        config = GenerationConfig(
            max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=loaded.pad_id, output_logits=True, return_dict_in_generate=True
        )
        for number in range(NUM_ROWS):
            text = prompts.article(number) if number % 8 == 0 else prompts.short(number)
            request = Generate("pair", loaded.card.id, Sampling(max_tokens=NUM_TOKENS), (Message("user", text),))
            prompt_ids = encode(loaded.tokenizer, request, loaded.card.max_context)
            ids = torch.tensor([prompt_ids])
            with torch.inference_mode():
                out = loaded.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, eos_token_id=None)
            self.pairs.append((prompt_ids, out.sequences[0, len(prompt_ids) :].tolist()))
            self.logits.append(torch.stack([logits[0].float() for logits in out.logits]))


@pytest.fixture(scope="module")
def alone(embedded: Embedded) -> Alone:
    return Alone(embedded)


@pytest.fixture(scope="module")
def batch_divergence(embedded: Embedded, alone: Alone) -> float:
    return divergence(alone.logits, own_logits(embedded.loaded.model, alone.pairs, embedded.loaded.pad_id))


@pytest.fixture(scope="module", params=[False, True], ids=["packed", "kept"])
def held(request: pytest.FixtureRequest, embedded: Embedded, alone: Alone) -> list[Tensor]:
    """The logits over slots, 16 rows together."""
    return slots_logits(Runner(embedded.loaded.model, NUM_ROWS, 512, request.param), alone.pairs)


@pytest.fixture(scope="module")
def exact(embedded: Embedded, alone: Alone) -> list[Tensor]:
    """The logits of fp32 arithmetic on the same 4-bit values."""
    configs = (embedded.data_path / "models").glob("*/config.json")
    folder = min(configs, key=lambda each: each.stat().st_mtime).parent  # the ring's first; other tests add more
    model = unpack(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True).eval())
    return own_logits(model, alone.pairs, embedded.loaded.pad_id)


def test_slots_are_as_near_to_fp32_as_generate_alone(exact: list[Tensor], alone: Alone, held: list[Tensor]) -> None:
    assert 0 < divergence(exact, held) <= MARGIN * divergence(exact, alone.logits)


@pytest.mark.xfail(strict=True, reason="mean KL over 1,152 tokens: slots 0.0022 to 0.0024, a batch of 16 0.0016")
def test_slots_diverge_no_more_than_a_batch_of_generate(alone: Alone, batch_divergence: float, held: list[Tensor]) -> None:
    assert divergence(alone.logits, held) <= batch_divergence


def test_with_the_kernels_of_generate_slots_diverge_no_more_than_a_batch_of_it(
    embedded: Embedded, alone: Alone, batch_divergence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "MIN_TOKENS", 10**9)  # the fused product for any number of tokens
    monkeypatch.setattr(attention, "_prefill", lambda *given: attention._prefill_fused(*given[:-1]))  # all but softcap, which is 0 here
    monkeypatch.setattr(attention, "_decode", lambda *given: attention._decode_fused(*given[:-1]))
    held = slots_logits(Runner(embedded.loaded.model, NUM_ROWS, 512, keep=False), alone.pairs)
    assert 0 < divergence(alone.logits, held) <= batch_divergence


def test_another_token_wins_only_where_two_are_as_good_as_equal(alone: Alone, held: list[Tensor]) -> None:
    for own, other in zip(torch.cat(alone.logits), torch.cat(held), strict=True):
        if own.argmax() != other.argmax():
            first, second = own.topk(2).values
            assert first - second <= MAX_GAP


def divergence(wanted: list[Tensor], logits: list[Tensor]) -> float:
    """Mean KL divergence in nats over all tokens."""
    own, other = torch.cat(wanted).log_softmax(-1), torch.cat(logits).log_softmax(-1)
    return float((own.exp() * (own - other)).sum(-1).mean())
