"""The ring that needs an NVIDIA GPU: without one every test is skipped. The embedded weights are read once, in 4 bits, onto it."""

from __future__ import annotations

import pytest
import torch

from serve_app.model.loader import load
from serve_app.settings import ModelSettings
from tests.model.conftest import Embedded


@pytest.fixture(scope="session", autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


@pytest.fixture(scope="session")
def embedded(_cuda: None, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    phases: list[str] = []
    data_path = tmp_path_factory.mktemp("data")
    return Embedded(load(ModelSettings(device="cuda"), data_path, 2, phases.append), data_path, phases)
