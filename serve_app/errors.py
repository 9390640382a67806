"""The error tree: each class is its own mapping to an HTTP status, an OpenAI error type and code, and says what to do next.

Errors travel across Ray handles as values (`messages.Failed`), so all of them pickle. A message is written for the caller and is safe to
show; what is not safe goes to the log under the request's id. Tests: tests/fast/test_errors.py.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FrugalError(Exception):
    """Base of every error that a caller may see. `param` names the field, `retry_after_s` the seconds until it is worth trying again."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.param, self.retry_after_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrugalError) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((type(self), self.message, self.param))

    def body(self) -> dict[str, Any]:
        """The OpenAI error object: https://platform.openai.com/docs/guides/error-codes."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _rebuild(cls: type[FrugalError], message: str, param: str | None, retry_after_s: float | None) -> FrugalError:
    return cls(message, param=param, retry_after_s=retry_after_s)


class BadRequest(FrugalError):
    """The request is wrong in a way that the caller can mend."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(BadRequest):
    """Prompt and answer do not fit into the model's context."""

    code = "context_length_exceeded"


class Unauthorized(FrugalError):
    """The caller did not say who it is, or nobody knows it."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(FrugalError):
    """The caller may not do this, whoever it says it is."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(FrugalError):
    """There is nothing under this name."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model of this name is served."""

    code = "model_not_found"


class Conflict(FrugalError):
    """The thing exists already, or its state does not allow this."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class TooLarge(FrugalError):
    """The body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Overloaded(FrugalError):
    """A bounded queue is full; `retry_after_s` comes from its measured drain rate."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class GenerationFailed(FrugalError):
    """The engine broke while it made this answer."""

    code = "generation_failed"


class Cancelled(FrugalError):
    """The generation was given up before its end: its callers had all left, or the replica was stopping."""

    status = 503
    code = "cancelled"


class Unavailable(FrugalError):
    """A part of the graph is still loading or has just gone; trying again will help."""

    status = 503
    code = "unavailable"


class Stopping(Unavailable):
    """The program ends; nothing new is begun."""

    code = "stopping"

    def __init__(
        self,
        message: str = "the server is stopping; send the request again when it has started",
        *,
        param: str | None = None,
        retry_after_s: float | None = 30.0,  # what a stop and a start take on a small machine
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or not as it should. Where it happens at the opening, the message says who, where and what to do."""

    code = "database_unavailable"


class ModelChanged(Unavailable):
    """The replica that got this request serves other weights than those the answer was to come from."""

    code = "model_changed"


class NotCached(FrugalError):
    """The request wants a stored answer or none (`only-if-cached`), and there is none that it would take: RFC 9111, section 5.2.1.7."""

    status = 504
    code = "not_cached"


class TimedOut(FrugalError):
    """The answer took longer than `request_timeout_s`."""

    status = 504
    code = "timeout"


class DeadlineExceeded(TimedOut):
    """The answer took longer than the request's own `timeout_s`."""

    code = "deadline_exceeded"


class ModelLoadError(FrugalError):
    """The configured model cannot be loaded; the message says what to change."""

    status = 503
    code = "model_load_failed"


class ConfigError(FrugalError):
    """The configuration is wrong. `problems` has one line per mistake: `where: what; remedy`."""

    code = "invalid_configuration"

    @property
    def problems(self) -> list[str]:
        """The message's lines, one per mistake."""
        return self.message.splitlines()


class FetchError(FrugalError):
    """A feed could not be fetched or is not a feed. `http_status` is what the feed's server answered, `None` where it did not;
    `held_host` the host whose other feeds must wait for `retry_after_s`, too."""

    status = 502
    code = "fetch_failed"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        http_status: int | None = None,
        held_host: str | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.http_status = http_status
        self.held_host = held_host

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"http_status": self.http_status, "held_host": self.held_host})
