"""Requests to token ids, and everything that can be wrong with a request before a model sees it.

Shared by the engines. Knows a tokenizer and the model's limits; must not know tensors or queues. Tests: tests/engine/test_engine.py.
"""

from __future__ import annotations

import logging
from typing import Any

from serve_app.errors import BadRequest, ContextLengthExceeded, FrugalError
from serve_app.messages import Generate

logger = logging.getLogger(__name__)

# More characters than this for each token of the context are refused untokenised: a megabyte takes a second or two, and prose has 4 to 5
# characters a token. Only long runs of one character (spaces, dashes) have more than 16, and no model is asked to read those.
MAX_CHARS_PER_TOKEN = 16


def encode(tokenizer: Any, request: Generate, max_context: int) -> list[int]:
    """The prompt's token ids, with room for the answer below `max_context`.

    Raises:
        ContextLengthExceeded: naming `messages` (or `prompt`) or `max_tokens`, the numbers and the remedy; without tokenising where the
            text has more than MAX_CHARS_PER_TOKEN characters for each token of the context.
        BadRequest: an empty prompt, a conversation that the chat template does not take, or a bias on a token that there is not.
    """
    _check_bias(request, tokenizer)
    field = "messages" if request.prompt is None else "prompt"
    _check_size(request, max_context, field)
    ids = _chat_ids(tokenizer, request) if request.prompt is None else list(tokenizer.encode(request.prompt))
    if not ids:
        raise BadRequest(f"{field} is empty; send at least one token of text", param=field)
    _check_room(len(ids), request.sampling.max_tokens, max_context, field)
    return ids


def _chat_ids(tokenizer: Any, request: Generate) -> list[int]:
    if not request.messages:
        raise BadRequest("messages is empty; send at least one message", param="messages")
    if not tokenizer.chat_template:
        raise BadRequest("this model has no chat template; send a prompt to /v1/completions instead", param="messages")
    specials = [token for token in tokenizer.all_special_tokens if len(token) > 2]
    turns = [{"role": message.role, "content": _as_data(message.content, specials)} for message in request.messages]
    try:
        return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False))
    except FrugalError:
        raise
    except Exception as error:  # a template is a program of the model's author; what it raises about roles is meant for the caller
        logger.info("request %s: the chat template failed: %s", request.request_id, error)
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadRequest(f"the model's chat template does not take these messages: {reason}", param="messages") from None


def _as_data(content: str, specials: list[str]) -> str:
    """Control tokens inside a text lose their power: `<|im_end|>` becomes `< |im_end|>`, so that an article cannot end its own turn."""
    for token in specials:
        if token in content:
            content = content.replace(token, f"{token[0]} {token[1:]}")
    return content


def _check_bias(request: Generate, tokenizer: Any) -> None:
    if not request.sampling.logit_bias:
        return
    num_tokens = len(tokenizer)
    for token, _bias in request.sampling.logit_bias:
        if not 0 <= token < num_tokens:
            said = f"logit_bias: this model has no token {token}; send ids from 0 to {num_tokens - 1}, of this model's tokenizer"
            raise BadRequest(said, param="logit_bias")


def _check_size(request: Generate, max_context: int, field: str) -> None:
    num_chars = len(request.prompt or "") + sum(len(message.content) for message in request.messages)
    if num_chars > max_context * MAX_CHARS_PER_TOKEN:
        raise ContextLengthExceeded(
            f"{field} takes {num_chars} characters, more than {MAX_CHARS_PER_TOKEN} a token; the context holds {max_context} tokens, "
            f"at least one of them for the answer; shorten {field}",
            param=field,
        )


def _check_room(num_prompt: int, max_tokens: int, max_context: int, field: str) -> None:
    if num_prompt >= max_context:
        raise ContextLengthExceeded(
            f"{field} takes {num_prompt} tokens; the context holds {max_context}, at least one of them for the answer; shorten {field}",
            param=field,
        )
    if num_prompt + max_tokens > max_context:
        raise ContextLengthExceeded(
            f"max_tokens {max_tokens} and {num_prompt} prompt tokens exceed the context of {max_context}; "
            f"set max_tokens to {max_context - num_prompt} or less",
            param="max_tokens",
        )
