"""OpenAI's request bodies as strict models, and what they ask for in our words. No I/O; replies are in replies.py.

Every field is honoured or refused by name (https://platform.openai.com/docs/api-reference/chat). Beyond OpenAI's there are vLLM's sampling
fields (`top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `ignore_eos`), which load-test clients send, and our own `cache` and
`timeout_s`.
Tests: tests/fast/test_api_openai.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, StringConstraints

from serve_app.api.cache_control import CacheField
from serve_app.api.fields import Body, Only, shown
from serve_app.errors import BadRequest
from serve_app.messages import Ask, CachePolicy, Generate, Message, Role, Sampling
from serve_app.settings import SamplingDefaults

N = TypeVar("N", int, float)

MAX_STOP = 16
MAX_CHOICES = 8
MAX_BIASES = 300  # OpenAI's
MAX_TOP_LOGPROBS = 20  # OpenAI's, of chat completions
MAX_TEXT_LOGPROBS = 5  # OpenAI's, of completions; vLLM takes more
MAX_TIMEOUT_S = 3600
TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
MAX_INT = 2**31 - 1
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


def _join_parts(value: Any) -> Any:
    """A list of text parts, as vLLM's load generator sends it, becomes their text."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str) or len(part) != 2:
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f'only parts {{"type": "text", "text": "..."}} are served, not {shown(kind)}; send text only')
    return "".join(part["text"] for part in value)


def _known_role(value: Any) -> Any:
    if isinstance(value, str) and value in ROLES:
        return value
    raise ValueError(f"only system, developer, user or assistant is served, not {shown(value)}; tools are not supported")


def _one_prompt(value: Any) -> Any:
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise ValueError("only a string or a list of exactly one string is served; send one request per prompt")
        return value[0]
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _as_tuple(value)


def _sorted_bias(value: Any) -> Any:
    """The map of token ids as pairs in order of the ids; those that change nothing are left out, so that equal wishes are equal."""
    remedy = 'send an object such as {"1234": -100, "99": 5}'
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, not {shown(value)}; {remedy}")
    if len(value) > MAX_BIASES:
        raise ValueError(f"has {len(value)} entries, at most {MAX_BIASES} are served; leave the smallest out")
    for token, bias in value.items():
        if not isinstance(token, str) or not TOKEN_ID.fullmatch(token):
            raise ValueError(f"{shown(token)} is not the id of a token; {remedy}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be a number from -100 to 100, not {shown(bias)}")
    return tuple((token, bias) for token, bias in sorted((int(token), float(bias)) for token, bias in value.items()) if bias)


Bias = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_sorted_bias, json_schema_input_type=dict[str, float])]
Text = Annotated[str, BeforeValidator(_join_parts, json_schema_input_type=str | list[TextPart])]
AnyRole = Annotated[str, BeforeValidator(_known_role, json_schema_input_type=Literal["system", "developer", "user", "assistant"])]
Stop = Annotated[
    tuple[Annotated[str, StringConstraints(min_length=1)], ...],
    BeforeValidator(_one_or_more, json_schema_input_type=str | list[str]),
]
NO_TOOLS = "tools are not supported, leave it out"


class Turn(Body):
    """One message of the conversation."""

    role: AnyRole
    content: Text
    name: Annotated[Any, Only((), "leave it out, or put the name into the content")] = None
    tool_calls: Annotated[Any, Only(([],), NO_TOOLS)] = None
    refusal: Annotated[Any, Only((), "leave it out")] = None


class StreamOptions(Body):
    """What a stream carries beside the text."""

    include_usage: bool = Field(False, description="true for a last chunk with the token counts and no choices")
    continuous_usage_stats: bool = Field(False, description="true for the number of tokens so far on every chunk (as vLLM does)")


class Request(Body):
    """What both kinds of completion share."""

    model: str = Field(min_length=1, description="the id of a served model, see GET /v1/models")
    max_tokens: int | None = Field(None, ge=1, le=MAX_INT, description="a whole number from 1: the longest answer in tokens")
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 (greedy) to 2")
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0, up to 1 (off)")
    top_k: int | None = Field(None, ge=-1, le=MAX_INT, description="a whole number from 0; 0 or -1 is off")
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 (off) to 1")
    seed: int | None = Field(None, ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1; makes a sampled answer repeatable")
    stop: Stop | None = Field(None, max_length=MAX_STOP, description=f"a string, or a list of at most {MAX_STOP}; none of them empty")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="a number above 0, up to 10; 1 is off")
    min_tokens: int = Field(0, ge=0, le=MAX_INT, description="a whole number from 0: no ending before that many tokens")
    ignore_eos: bool = Field(False, description="true to go on until max_tokens (for load tests)")
    stream: bool = Field(False, description="true for server-sent events")
    stream_options: StreamOptions | None = Field(None, description='an object such as {"include_usage": true}, together with stream')
    cache: CacheField = Field(CacheField(), description='an object such as {"no-cache": true, "no-store": true, "max-age": 60}')
    user: str | None = Field(None, max_length=512, description="a string of at most 512 characters; it is logged and has no other effect")
    n: int = Field(
        1, ge=1, le=MAX_CHOICES, description=f"a whole number from 1 to {MAX_CHOICES}: so many answers; with a seed, of seed + 0, 1, 2 ..."
    )
    logit_bias: Bias | None = Field(None, description="an object of token ids and numbers from -100 (never) to 100, added to their logits")
    timeout_s: float | None = Field(
        None, gt=0, le=MAX_TIMEOUT_S, description=f"a number of seconds above 0, up to {MAX_TIMEOUT_S}: a 504 where the answer takes longer"
    )

    @property
    def num_logprobs(self) -> int | None:
        """How many of the most probable tokens to tell beside the log-probability of each; `None`: no log-probabilities."""
        raise NotImplementedError

    def ask(self, request_id: str, defaults: SamplingDefaults) -> Ask:
        """This request in our words, its first answer. Raises BadRequest where two fields contradict each other."""
        raise NotImplementedError

    def asks(self, request_id: str, defaults: SamplingDefaults) -> tuple[Ask, ...]:
        """One for each of the `n` answers."""
        first = self.ask(request_id, defaults)
        return (first, *(_another(first, number) for number in range(1, self.n)))

    def policy(self) -> CachePolicy:
        """What the field `cache` says."""
        return self.cache.policy()

    def sampling(self, defaults: SamplingDefaults, max_tokens: int | None) -> Sampling:
        """The request's own words first, then the configured defaults."""
        limit = defaults.max_tokens if max_tokens is None else max_tokens
        if self.min_tokens > limit:
            said = f"min_tokens: {self.min_tokens} is over this request's max_tokens, {limit}; lower it or raise max_tokens"
            raise BadRequest(said, param="min_tokens")
        return Sampling(
            temperature=_or(self.temperature, defaults.temperature),
            top_p=_or(self.top_p, defaults.top_p),
            top_k=max(0, _or(self.top_k, defaults.top_k)),
            min_p=_or(self.min_p, defaults.min_p),
            seed=self.seed,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repetition_penalty=_or(self.repetition_penalty, defaults.repetition_penalty),
            stop=self.stop or (),
            max_tokens=limit,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            logit_bias=self.logit_bias or (),
            logprobs=self.num_logprobs,
        )

    def check_stream_options(self) -> None:
        """OpenAI refuses options of a stream that is none; so do we, rather than drop them."""
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options: goes only with stream; set stream to true or leave it out", param="stream_options")


class ChatRequest(Request):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[tuple[Turn, ...], BeforeValidator(_as_tuple, json_schema_input_type=list[Turn])] = Field(
        min_length=1, description='a list of at least one {"role": ..., "content": ...}'
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_INT, description="a whole number from 1: the newer name of max_tokens")
    metadata: dict[str, str] | None = Field(
        None, max_length=16, description="an object of at most 16 strings; it is logged and has no other effect"
    )
    logprobs: bool = Field(False, description="true for the log-probability of each token of the answer")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description=f"a whole number from 0 to {MAX_TOP_LOGPROBS}, together with logprobs: true"
    )
    tools: Annotated[Any, Only(([],), NO_TOOLS)] = None
    functions: Annotated[Any, Only(([],), NO_TOOLS)] = None
    tool_choice: Annotated[Any, Only(("none",), NO_TOOLS)] = None
    function_call: Annotated[Any, Only(("none",), NO_TOOLS)] = None
    response_format: Annotated[Any, Only(({"type": "text"},), "ask for the format in a message")] = None
    store: Annotated[Any, Only((False,), "conversations are not kept, leave it out")] = None

    @property
    def num_logprobs(self) -> int | None:
        """See Request."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def ask(self, request_id: str, defaults: SamplingDefaults) -> Ask:
        """See Request."""
        self.check_stream_options()
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs: goes only with logprobs; set logprobs to true or leave it out", param="top_logprobs")
        limits = {limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None}
        if len(limits) > 1:
            said = "max_completion_tokens: differs from max_tokens, which means the same; send one of them"
            raise BadRequest(said, param="max_completion_tokens")
        sampling = self.sampling(defaults, max(limits, default=None))
        messages = tuple(Message(ROLES[turn.role], turn.content) for turn in self.messages)
        return Ask(Generate(request_id, self.model, sampling, messages=messages), self.policy())


class CompletionRequest(Request):
    """Body of POST /v1/completions: a raw prompt, put through no chat template."""

    prompt: Annotated[str, BeforeValidator(_one_prompt, json_schema_input_type=str | list[str])] = Field(
        min_length=1, description="a string that is not empty, or a list of exactly one"
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TEXT_LOGPROBS,
        description=f"a whole number from 0 to {MAX_TEXT_LOGPROBS}: so many of the most probable tokens beside each one that was chosen",
    )
    echo: Annotated[Any, Only((False,), "put the prompt before the answer yourself")] = None
    best_of: Annotated[Any, Only((1,), "ask for n answers and choose yourself")] = None
    suffix: Annotated[Any, Only((), "insertion is not supported, leave it out")] = None

    @property
    def num_logprobs(self) -> int | None:
        """See Request."""
        return self.logprobs

    def ask(self, request_id: str, defaults: SamplingDefaults) -> Ask:
        """See Request."""
        self.check_stream_options()
        return Ask(Generate(request_id, self.model, self.sampling(defaults, self.max_tokens), prompt=self.prompt), self.policy())


def _another(first: Ask, number: int) -> Ask:
    """Answer number 1, 2, ... to the same question: another seed where there is one, another choice where only chance tells them apart;
    greedy ones are the same question, and made once."""
    generate = replace(first.generate, request_id=f"{first.generate.request_id}.{number}")
    sampling = generate.sampling
    if sampling.seed is not None:
        generate = replace(generate, sampling=replace(sampling, seed=(sampling.seed + number) % 2**63))
    elif not sampling.greedy:
        generate = replace(generate, choice=number)
    return replace(first, generate=generate)


def _or(value: N | None, default: N) -> N:
    return default if value is None else value
