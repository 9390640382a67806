"""Every error of the tree crosses a process boundary whole, and says the same as JSON."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from serve_app.errors import BadRequest, ConfigError, FetchError, FrugalError, NotFound


def tree(root: type[FrugalError] = FrugalError) -> Iterator[type[FrugalError]]:
    """The class and everything below it that the product defines."""
    if root.__module__.startswith("serve_app."):
        yield root
    for cls in root.__subclasses__():
        yield from tree(cls)


@pytest.mark.parametrize("cls", list(tree()), ids=lambda cls: cls.__name__)
def test_an_error_pickles_to_an_equal_one_with_all_its_attributes(cls: type[FrugalError]) -> None:
    error = cls("what happened; what to do", param="top_p", retry_after_s=2.5)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), vars(again), again.args, again) == (cls, vars(error), error.args, error)
    assert hash(again) == hash(error)


def test_a_fetch_error_keeps_what_the_feeds_server_said() -> None:
    error = FetchError("gone", http_status=410)
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == {"message": "gone", "param": None, "retry_after_s": None, "http_status": 410, "held_host": None}
    assert again == error
    assert again != FetchError("gone", http_status=404)


@pytest.mark.parametrize(
    "other",
    [BadRequest("other"), BadRequest("same", param="n"), BadRequest("same", retry_after_s=1.0), NotFound("same"), ValueError("same")],
    ids=["message", "param", "retry", "class", "foreign"],
)
def test_errors_that_differ_anywhere_are_not_equal(other: Exception) -> None:
    assert BadRequest("same") != other


@pytest.mark.parametrize("cls", list(tree()), ids=lambda cls: cls.__name__)
def test_the_body_is_openais_error_object(cls: type[FrugalError]) -> None:
    body = cls("lower it", param="top_p").body()
    assert body == {"error": {"message": "lower it", "type": cls.type, "param": "top_p", "code": cls.code}}
    assert 400 <= cls.status < 600
    assert (cls.type == "server_error") == (cls.status >= 500)


def test_no_two_errors_share_status_and_code() -> None:
    pairs = [(cls.status, cls.code) for cls in tree()]
    assert sorted(set(pairs)) == sorted(pairs)


def test_a_configuration_error_has_one_problem_per_line() -> None:
    assert ConfigError("a: wrong; mend it\nb: missing; add it").problems == ["a: wrong; mend it", "b: missing; add it"]
