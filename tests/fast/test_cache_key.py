"""Every field of a request, of its cache policy and of a model's card is named here, and changes the key, or says why it does not."""

from __future__ import annotations

import dataclasses
import pathlib
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serve_app.cache.key import answer_key, shard_key
from serve_app.messages import Ask, CachePolicy, Generate, Message, ModelCard, Sampling
from serve_app.model import fingerprint as made
from serve_app.model.source import Source
from serve_app.settings import ModelSettings

SAMPLED = Sampling(temperature=0.5, seed=1)
BASE = Ask(Generate("id", "model", SAMPLED, (Message("system", "a"), Message("user", "b"))))
OLD_KEY = "05e725ad539905f55d687149a595d50e8b9ced7befcc48b3ce65233a782e6120"  # of BASE, when Sampling ended with ignore_eos


@dataclass(frozen=True)
class Changes:
    """A field that is part of the question."""

    values: st.SearchStrategy[Any]


@dataclass(frozen=True)
class Keeps:
    """A field that is not, and why."""

    values: st.SearchStrategy[Any]
    why: str


WORDS, SECONDS, POLICY = st.text(max_size=8), st.none() | st.floats(1, 1e6), "says what may be reused, not what is asked"
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), WORDS), min_size=1, max_size=4).map(tuple)
PENALTY = st.floats(0.1, 2).map(lambda value: round(value, 3))
FIELDS: dict[type, dict[str, Changes | Keeps]] = {
    Sampling: {
        "temperature": Changes(PENALTY),
        "top_p": Changes(st.floats(0.1, 1)),
        "top_k": Changes(st.integers(0, 50)),
        "min_p": Changes(st.floats(0.1, 1)),
        "seed": Changes(st.integers(0, 2**63 - 1)),
        "frequency_penalty": Changes(PENALTY),
        "presence_penalty": Changes(PENALTY),
        "repetition_penalty": Changes(PENALTY),
        "stop": Changes(st.lists(WORDS, max_size=3).map(tuple)),
        "max_tokens": Changes(st.integers(1, 4096)),
        "min_tokens": Changes(st.integers(0, 99)),
        "ignore_eos": Changes(st.booleans()),
        "logit_bias": Changes(st.lists(st.tuples(st.integers(0, 99), PENALTY), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)),
        "logprobs": Changes(st.none() | st.integers(0, 20)),
    },
    Message: {"role": Changes(st.sampled_from(["system", "user", "assistant"])), "content": Changes(WORDS)},
    Generate: {
        "request_id": Keeps(WORDS, "names the request, not the question"),
        "model": Changes(WORDS),
        "sampling": Keeps(st.just(SAMPLED), "field by field, above"),
        "messages": Changes(MESSAGES),
        "prompt": Changes(st.none() | WORDS),
        "priority": Keeps(st.sampled_from(["interactive", "batch"]), "changes when, not what"),
        "fingerprint": Keeps(WORDS, "is an argument of its own: the key is made before anybody writes it here"),
        "choice": Keeps(st.integers(0, 8), "tells apart only what chance makes differ, see below"),
    },
    Ask: {
        "generate": Keeps(st.just(BASE.generate), "field by field, above"),
        "policy": Keeps(st.just(CachePolicy()), "field by field, below"),
        "scope": Changes(WORDS),
        "feed_id": Keeps(WORDS, "whoever asks the same gets the same"),
    },
    CachePolicy: {
        "no_cache": Keeps(st.booleans(), POLICY),
        "no_store": Keeps(st.booleans(), POLICY),
        "max_age_s": Keeps(SECONDS, POLICY),
        "sampled_always": Keeps(st.booleans(), POLICY),
        "similar": Keeps(st.booleans(), POLICY),
        "max_stale_s": Keeps(SECONDS, POLICY),
        "min_fresh_s": Keeps(SECONDS, POLICY),
        "only_if_cached": Keeps(st.booleans(), POLICY),
        "ttl_s": Keeps(SECONDS, POLICY),
    },
}


def with_field(owner: type, name: str, value: object) -> Ask:
    """BASE with one field of it, or of what it holds, set to `value`."""
    change: dict[str, Any] = {name: value}
    generate = BASE.generate
    if owner is Sampling:
        return replace(BASE, generate=replace(generate, sampling=replace(SAMPLED, **change)))
    if owner is Message:
        return replace(BASE, generate=replace(generate, messages=(*generate.messages[:-1], replace(generate.messages[-1], **change))))
    if owner is Generate:
        return replace(BASE, generate=replace(generate, **change))
    return replace(BASE, policy=replace(BASE.policy, **change)) if owner is CachePolicy else replace(BASE, **change)


@pytest.mark.parametrize("owner", FIELDS, ids=lambda owner: owner.__name__)
def test_every_field_is_spoken_for(owner: type) -> None:
    assert list(FIELDS[owner]) == [field.name for field in dataclasses.fields(owner)]


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in FIELDS.items() for name in names])
@settings(max_examples=20)
@given(st.data())
def test_each_field_in_turn_changes_the_key_or_says_why_not(owner: type, name: str, data: st.DataObject) -> None:
    field = FIELDS[owner][name]
    one, other = data.draw(field.values), data.draw(field.values)
    assume(one != other or isinstance(field, Keeps))
    asks = [with_field(owner, name, value) for value in (one, other)]
    differ = isinstance(field, Changes)
    assert (answer_key(asks[0], "f") != answer_key(asks[1], "f")) == differ
    assert (shard_key(asks[0]) != shard_key(asks[1])) == differ


@dataclasses.dataclass
class Tokenizer:
    """As much of one as the fingerprint sees."""

    chat_template: str = "{{ messages }}"
    words: tuple[str, ...] = ("a", "b")

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def fingerprint(*, identity: str = "sha256:1", dtype: str = "bfloat16", tokenizer: Tokenizer | None = None, **of_model: object) -> str:
    source = Source(pathlib.Path("weights"), None, identity, "main")
    return made.fingerprint(ModelSettings.load(of_model), source, dtype, tokenizer or Tokenizer())


# What of a card is in its fingerprint, by a change of what it is made from; and what is not, and why.
IN_FINGERPRINT: dict[str, dict[str, Any]] = {
    "source": {"identity": "sha256:2"},  # the bytes, whatever their name
    "revision": {"identity": "some/model@other"},
    "quantization": {"quantization": "fp4"},
    "dtype": {"dtype": "float32"},
    "fingerprint": {"tokenizer": Tokenizer(chat_template="{{ other }}")},
}
NOT_IN_FINGERPRINT = {
    "id": "is in the key itself, as Generate.model",
    "architecture": "is read from the bytes that `source` names",
    "device": "rounds in another order, as another batch does",
    "max_context": "refuses what does not fit, and cuts nothing",
    "num_parameters": "is counted in the same bytes",
    "weights_bytes": "is counted in the same bytes",
    "alone_prefill_tokens_per_s": "is measured",
    "alone_decode_step_s": "is measured",
    "loaded_at": "is a time",
    "notes": "are words for people",
    "sampling_fields": "refuses what is not served, and changes nothing",
}


def test_every_field_of_a_models_card_is_spoken_for() -> None:
    assert {field.name for field in dataclasses.fields(ModelCard)} == set(IN_FINGERPRINT) | set(NOT_IN_FINGERPRINT)


@pytest.mark.parametrize(
    "change",
    [*IN_FINGERPRINT.values(), {"block_size": 128}, {"double_quantization": True}, {"tokenizer": Tokenizer(words=("b", "a"))}],
    ids=str,
)
def test_whatever_of_a_model_can_change_an_answer_changes_its_fingerprint_and_so_the_key(change: dict[str, Any]) -> None:
    assert fingerprint(**change) != fingerprint()
    assert answer_key(BASE, fingerprint(**change)) != answer_key(BASE, fingerprint())
    assert shard_key(BASE) != answer_key(BASE, fingerprint())


@pytest.mark.parametrize("change", [{"id": "other"}, {"max_context": 512}, {"threads": 3}, {"kv_cache_mb": 5}], ids=str)
def test_what_cannot_does_not(change: dict[str, Any]) -> None:
    assert fingerprint(**change) == fingerprint()


def test_greedy_decoding_ignores_what_only_sampling_uses() -> None:
    def greedy(**changes: object) -> str:
        sampling = replace(Sampling(), **changes)  # type: ignore[arg-type]
        return answer_key(replace(BASE, generate=replace(BASE.generate, sampling=sampling)), "f")

    assert greedy() == greedy(seed=3) == greedy(top_p=0.5) == greedy(top_k=4) == greedy(min_p=0.2)
    assert greedy() != greedy(max_tokens=5)


def test_answers_stored_before_log_probabilities_and_bias_came_are_still_found() -> None:
    assert answer_key(BASE, "f") == OLD_KEY


@pytest.mark.parametrize(("sampling", "differ"), [(Sampling(), False), (SAMPLED, False), (Sampling(temperature=0.5), True)])
def test_another_choice_is_another_question_only_where_chance_makes_them_differ(sampling: Sampling, differ: bool) -> None:
    first, second = (replace(BASE, generate=replace(BASE.generate, sampling=sampling, choice=choice)) for choice in (0, 1))
    assert (answer_key(first, "f") != answer_key(second, "f")) == differ
    assert (shard_key(first) != shard_key(second)) == differ


def test_more_or_fewer_log_probabilities_are_another_question() -> None:
    keys = {answer_key(replace(BASE, generate=replace(BASE.generate, sampling=Sampling(logprobs=num))), "f") for num in (None, 0, 1, 5)}
    assert len(keys) == 4


TURNS = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=8)), min_size=1, max_size=4)


@given(TURNS, TURNS)
def test_two_conversations_have_one_key_only_if_they_are_one(one: list[Message], two: list[Message]) -> None:
    keys = {answer_key(replace(BASE, generate=replace(BASE.generate, messages=tuple(turns))), "f") for turns in (one, two)}
    assert (len(keys) == 1) == (one == two)
