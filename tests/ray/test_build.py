"""What `build` asks Ray for, and what it refuses; nothing is started."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from serve_app import graph
from serve_app.errors import ConfigError
from serve_app.settings import USER_CONFIGS, AppSettings


@pytest.mark.parametrize(
    ("device", "wanted"), [("cpu", {"num_cpus": 1}), ("cuda", {"num_cpus": 1, "num_gpus": 1}), ("auto", {"num_cpus": 1})]
)
def test_a_model_replica_takes_one_core_so_that_a_second_one_fits_and_one_gpu_on_cuda(device: str, wanted: dict[str, Any]) -> None:
    assert graph._model_resources(AppSettings.load({"model": {"device": device}})) == wanted


def test_every_deployment_of_the_settings_has_its_class_and_takes_its_user_config() -> None:
    classes = {name: getattr(graph, f"{name}Deployment") for name in USER_CONFIGS}
    assert all(inspect.iscoroutinefunction(cls.reconfigure) for cls in classes.values())


def test_a_mistake_in_args_stops_the_build_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"args.model.quantisation: unknown key; did you mean quantization\?"):
        graph.build({"model": {"quantisation": "nf4"}})
