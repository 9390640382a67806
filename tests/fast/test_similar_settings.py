"""Switched on, the lookup names what it lacks; a model that could run code is refused."""

from __future__ import annotations

import json
import pathlib
import sys

import pytest

from serve_app.errors import ConfigError
from serve_app.settings_cache import CacheSettings
from serve_app.settings_similar import SimilarSettings


def problem(**similar: object) -> str:
    with pytest.raises(ConfigError) as caught:
        CacheSettings.load({"similar": similar}, "AnswerCache.user_config")
    (told,) = caught.value.problems
    return told


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Looks like a model of sentence-transformers."""
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The library can be found, whether or not this environment has it."""
    place = tmp_path_factory.mktemp("packages")
    (place / "sentence_transformers").mkdir()
    (place / "sentence_transformers" / "__init__.py").write_text("raise AssertionError('settings import nothing')")
    monkeypatch.syspath_prepend(str(place))


def test_it_is_off_and_then_nothing_is_needed() -> None:
    assert SimilarSettings(embedding="package:missing/model") == SimilarSettings.load({"embedding": "package:missing/model"})
    assert not CacheSettings().similar.enabled


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "sentence_transformers", raising=False)
    assert problem(enabled=True) == (
        "AnswerCache.user_config.similar: similar needs the extra of that name: pip install 'frugal-serve[similar]', or set enabled: false"
    )


@pytest.mark.usefixtures("installed")
def test_a_folder_with_safetensors_is_taken(folder: pathlib.Path) -> None:
    assert SimilarSettings.load({"enabled": True, "embedding": str(folder)}).enabled


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("models/mini", "must be an absolute path or package:"),
        ("package:no_such_package/model", "the package 'no_such_package' is not installed"),
        ("package:../etc", "the package '..' is not installed"),
        ("/no/such/folder", "has no readable modules.json"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, told: str) -> None:
    assert told in problem(enabled=True, embedding=source)


@pytest.mark.usefixtures("installed")
def test_a_pickle_and_foreign_code_are_refused(folder: pathlib.Path) -> None:
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    assert "is a pickle, which can run code" in problem(enabled=True, embedding=str(folder))
    (folder / "2_Dense" / "pytorch_model.bin").unlink()
    (folder / "model.safetensors").unlink()
    assert "no .safetensors in" in problem(enabled=True, embedding=str(folder))
    (folder / "modules.json").write_text(json.dumps([{"type": "modeling_evil.Model"}]))
    assert "asks for code of its own (modeling_evil.Model)" in problem(enabled=True, embedding=str(folder))
