"""Every accepted field is honoured; every other one is refused by name, with the limit and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.api.openai import ChatRequest, CompletionRequest
from serve_app.messages import Message, Sampling
from tests.fast.fakes_api import MODEL, FakeServices
from tests.fast.fakes_http import chat_body, client_of

USER = {"role": "user", "content": "Hi"}

# What is added to a good chat request, the field that must be named, and words that the message must hold.
BAD_CHAT: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({"model": None}, "model", ("is required", "GET /v1/models")),
    ({"model": 3}, "model", ("string", "not 3")),
    ({"messages": []}, "messages", ("at least 1", "at least one")),
    ({"messages": "Hi"}, "messages", ("'Hi'", "a list of at least one")),
    ({"messages": ["Hi"]}, "messages[0]", ("'Hi'",)),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", ("system, developer, user or assistant", "'tool'")),
    ({"messages": [{"role": "user"}]}, "messages[0].content", ("is required",)),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", ("is required",)),
    ({"messages": [{**USER, "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content", ("image_url", "send text only")),
    ({"messages": [{**USER, "content": [{"type": "input_audio"}]}]}, "messages[0].content", ("input_audio",)),
    ({"messages": [USER, {**USER, "name": "ada"}]}, "messages[1].name", ("leave it out",)),
    ({"messages": [{**USER, "tool_calls": [{}]}]}, "messages[0].tool_calls", ("tools are not supported",)),
    ({"messages": [{**USER, "contents": "x"}]}, "messages[0].contents", ("did you mean content?",)),
    ({"max_tokens": 0}, "max_tokens", ("greater than or equal to 1", "from 1")),
    ({"max_tokens": "5"}, "max_tokens", ("integer", "'5'")),
    ({"max_tokens": 5.5}, "max_tokens", ("integer", "5.5")),
    ({"max_tokens": True}, "max_tokens", ("integer", "True")),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", ("differs from max_tokens", "send one of them")),
    ({"temperature": 2.1}, "temperature", ("less than or equal to 2", "0 (greedy) to 2")),
    ({"temperature": -0.1}, "temperature", ("greater than or equal to 0",)),
    ({"top_p": 0}, "top_p", ("greater than 0",)),
    ({"top_k": -2}, "top_k", ("-1", "0 or -1 is off")),
    ({"min_p": 1.5}, "min_p", ("less than or equal to 1",)),
    ({"seed": -1}, "seed", ("greater than or equal to 0",)),
    ({"seed": 2**63}, "seed", ("2^63 - 1",)),
    ({"stop": [""]}, "stop[0]", ("at least 1 character", "none of them empty")),
    ({"stop": ["x"] * 17}, "stop", ("at most 16",)),
    ({"stop": [1]}, "stop[0]", ("string",)),
    ({"frequency_penalty": 3}, "frequency_penalty", ("-2 to 2",)),
    ({"presence_penalty": -3}, "presence_penalty", ("-2 to 2",)),
    ({"repetition_penalty": 0}, "repetition_penalty", ("above 0, up to 10",)),
    ({"min_tokens": 300}, "min_tokens", ("over this request's max_tokens, 256", "lower it")),
    ({"stream": "yes"}, "stream", ("boolean", "server-sent events")),
    ({"stream_options": {"include_usage": True}}, "stream_options", ("only with stream", "set stream to true")),
    ({"stream": True, "stream_options": {"include_usag": True}}, "stream_options.include_usag", ("did you mean include_usage?",)),
    ({"n": 0}, "n", ("greater than or equal to 1", "from 1 to 8")),
    ({"n": 9}, "n", ("less than or equal to 8", "from 1 to 8")),
    ({"n": True}, "n", ("integer", "not True")),
    ({"logprobs": 3}, "logprobs", ("boolean", "true for")),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", ("less than or equal to 20", "from 0 to 20")),
    ({"top_logprobs": 3}, "top_logprobs", ("only with logprobs", "set logprobs to true")),
    ({"timeout_s": 0}, "timeout_s", ("greater than 0", "up to 3600")),
    ({"timeout_s": 3601}, "timeout_s", ("less than or equal to 3600",)),
    ({"tools": [{"type": "function"}]}, "tools", ("tools are not supported",)),
    ({"functions": [{}]}, "functions", ("tools are not supported",)),
    ({"tool_choice": "auto"}, "tool_choice", ('only "none"', "tools are not supported")),
    ({"response_format": {"type": "json_object"}}, "response_format", ('{"type": "text"}', "ask for the format in a message")),
    ({"logit_bias": [5]}, "logit_bias", ("an object", '{"1234": -100')),
    ({"logit_bias": {"five": 1}}, "logit_bias", ("'five'", "id of a token")),
    ({"logit_bias": {"-1": 1}}, "logit_bias", ("'-1'", "id of a token")),
    ({"logit_bias": {"05": 1}}, "logit_bias", ("'05'",)),
    ({"logit_bias": {"5": 101}}, "logit_bias", ("token 5", "-100 to 100", "101")),
    ({"logit_bias": {"5": "1"}}, "logit_bias", ("token 5", "'1'")),
    ({"logit_bias": {"5": True}}, "logit_bias", ("token 5", "True")),
    ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias", ("301 entries", "at most 300")),
    ({"store": True}, "store", ("only false", "leave it out")),
    ({"user": "x" * 513}, "user", ("512",)),
    ({"metadata": {"a": 1}}, "metadata.a", ("string",)),
    ({"cache": {"no-stor": True}}, "cache.no-stor", ("did you mean no-store?",)),
    ({"cache": {"max-age": -1}}, "cache.max-age", ("greater than or equal to 0",)),
    ({"cache": {"sampled": "never"}}, "cache.sampled", ("'always'",)),
    ({"temprature": 1}, "temprature", ("unknown field", "did you mean temperature?")),
    ({"zzz": 1}, "zzz", ("unknown field", "remove it")),
]

BAD_TEXT: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({"prompt": None}, "prompt", ("is required",)),
    ({"prompt": ""}, "prompt", ("at least 1 character", "not empty")),
    ({"prompt": ["a", "b"]}, "prompt", ("exactly one string", "one request per prompt")),
    ({"prompt": [1, 2, 3]}, "prompt", ("exactly one string",)),
    ({"messages": []}, "messages", ("unknown field",)),
    ({"echo": True}, "echo", ("only false", "yourself")),
    ({"best_of": 2}, "best_of", ("only 1",)),
    ({"suffix": "x"}, "suffix", ("leave it out",)),
    ({"logprobs": 6}, "logprobs", ("less than or equal to 5", "from 0 to 5")),
    ({"logprobs": True}, "logprobs", ("integer", "True")),
    ({"top_logprobs": 2}, "top_logprobs", ("unknown field",)),
    ({"max_completion_tokens": 4}, "max_completion_tokens", ("unknown field",)),
]


@pytest.mark.parametrize(("change", "param", "words"), BAD_CHAT, ids=lambda value: str(value)[:40])
async def test_a_bad_chat_field_is_named_with_its_limit_and_the_remedy(change: dict[str, Any], param: str, words: tuple[str, ...]) -> None:
    await check_refused("/v1/chat/completions", chat_body(**change), param, words)


@pytest.mark.parametrize(("change", "param", "words"), BAD_TEXT, ids=lambda value: str(value)[:40])
async def test_a_bad_completion_field_is_named_too(change: dict[str, Any], param: str, words: tuple[str, ...]) -> None:
    await check_refused("/v1/completions", {"model": MODEL, "prompt": "Once", **change}, param, words)


async def check_refused(path: str, body: dict[str, Any], param: str, words: tuple[str, ...]) -> None:
    services = FakeServices()
    reply = await client_of(services).post(path, json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["message"].startswith(f"{param}: ")
    assert [word for word in words if word not in error["message"]] == [], error["message"]
    assert services.asked == []


async def test_several_mistakes_are_told_at_once() -> None:
    reply = await client_of(FakeServices()).post("/v1/chat/completions", json=chat_body(temperature=3, top_p=2, n=9))
    assert [line.split(":")[0] for line in reply.json()["error"]["message"].splitlines()] == ["temperature", "top_p", "n"]


async def test_a_list_with_one_bad_item_is_not_called_too_short() -> None:
    reply = await client_of(FakeServices()).post("/v1/chat/completions", json=chat_body(messages=[{"role": "user"}]))
    assert reply.json()["error"]["message"] == (
        'messages[0].content: is required; send a list of at least one {"role": ..., "content": ...}'
    )


def test_every_sampling_field_is_honoured() -> None:
    body = chat_body(
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=7,
        stop=["\n\n", "END"],
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        repetition_penalty=1.2,
        max_completion_tokens=50,
        min_tokens=3,
        ignore_eos=True,
        logit_bias={"70": -100, "8": 2.5, "9": 0},
        logprobs=True,
        top_logprobs=4,
    )
    bias = ((8, 2.5), (70, -100.0))
    assert sampling_of(body) == Sampling(0.7, 0.9, 40, 0.05, 7, 0.5, -0.5, 1.2, ("\n\n", "END"), 50, 3, True, bias, 4)


def test_log_probabilities_without_the_most_probable_ones_are_none_of_them() -> None:
    assert sampling_of(chat_body(logprobs=True)).logprobs == 0
    assert sampling_of(chat_body(logprobs=False)).logprobs is None
    text = CompletionRequest.model_validate({"model": MODEL, "prompt": "x", "logprobs": 5})
    assert text.ask("r", FakeServices().settings.sampling).generate.sampling.logprobs == 5


def test_null_means_absent_everywhere() -> None:
    nulls = dict.fromkeys(name for name in ChatRequest.model_fields if name not in ("model", "messages"))
    message = {"role": "user", "content": "Hi", "name": None, "tool_calls": None, "refusal": None}
    assert sampling_of(chat_body(messages=[message], **nulls)) == Sampling()


def test_what_load_generators_send_is_accepted() -> None:
    vllm_bench = chat_body(
        messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        max_completion_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        ignore_eos=True,
        repetition_penalty=1.0,
        logprobs=None,
    )
    guidellm = chat_body(
        stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}, max_tokens=8, stop=None, ignore_eos=True
    )
    aiperf = chat_body(messages=[{"role": "user", "name": None, "content": "ab"}], stream=True, max_completion_tokens=8)
    asks = [ChatRequest.model_validate(body).ask("r", FakeServices().settings.sampling) for body in (vllm_bench, guidellm, aiperf)]
    assert [ask.generate.sampling.max_tokens for ask in asks] == [8, 8, 8]
    assert asks[0].generate.messages == asks[2].generate.messages == (Message("user", "ab"),)


def test_a_developer_is_a_system() -> None:
    turns = [{"role": role, "content": role} for role in ("developer", "system", "user", "assistant")]
    ask = ChatRequest.model_validate(chat_body(messages=turns)).ask("r", FakeServices().settings.sampling)
    assert [message.role for message in ask.generate.messages] == ["system", "system", "user", "assistant"]


def test_the_two_names_of_the_limit_may_agree() -> None:
    assert sampling_of(chat_body(max_tokens=5, max_completion_tokens=5)).max_tokens == 5


def test_vllms_minus_one_switches_top_k_off() -> None:
    assert sampling_of(chat_body(top_k=-1)).top_k == 0


def test_harmless_values_of_refused_fields_pass() -> None:
    chat = chat_body(n=1, logprobs=False, tools=[], functions=[], tool_choice="none", logit_bias={}, store=False)
    ChatRequest.model_validate({**chat, "response_format": {"type": "text"}})
    CompletionRequest.model_validate({"model": MODEL, "prompt": "x", "echo": False, "best_of": 1, "suffix": None, "n": 1})


def sampling_of(body: dict[str, Any]) -> Sampling:
    return ChatRequest.model_validate(body).ask("r", FakeServices().settings.sampling).generate.sampling


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, "surprise"} - {"model"})


@given(path=st.sampled_from(["/v1/chat/completions", "/v1/completions"]), body=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_no_json_body_breaks_the_server(path: str, body: dict[str, Any]) -> None:
    reply = await client_of(FakeServices()).post(path, json={"model": MODEL, **body})
    assert reply.status_code in (200, 400)
    if reply.status_code == 400:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@given(body=JSON)
@settings(max_examples=50, deadline=None)
async def test_no_json_document_breaks_the_server(body: Any) -> None:
    reply = await client_of(FakeServices()).post("/v1/feeds", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]
