"""The embedded model's weights, read once for the whole ring (the first reading quantises them)."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

import pytest

from serve_app.model.loader import LoadedModel, load
from serve_app.settings import ModelSettings


@dataclass(frozen=True)
class Embedded:
    """The loaded model, where its copy is kept and the phases that its first start went through."""

    loaded: LoadedModel
    data_path: pathlib.Path
    phases: list[str]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    phases: list[str] = []
    data_path = tmp_path_factory.mktemp("data")
    return Embedded(load(ModelSettings(), data_path, 2, phases.append), data_path, phases)
