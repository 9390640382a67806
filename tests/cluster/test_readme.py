"""cluster/README.md names every file of its folder and no other, and every port with the name and number that the manifests give it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.cluster.manifests import CLUSTER, MANIFESTS, documents, of_kind, ports

README = (CLUSTER / "README.md").read_text(encoding="utf-8")
TABLE = re.compile(r"^\| (\d+)(?: `([\w-]+)`)? \|", re.MULTILINE)


def rules(direction: str) -> set[int]:
    """Every port number in the policies' rules of one direction."""
    found: list[dict[str, Any]] = [
        rule for name in MANIFESTS for item in of_kind("NetworkPolicy", documents(name)) for rule in item["spec"].get(direction, [])
    ]
    return {port["port"] for rule in found for port in rule.get("ports", [])}


def test_it_names_every_file_of_the_folder() -> None:
    files = {file.name for file in CLUSTER.iterdir()} - {"README.md", "ray-token"}  # the last is the reader's
    assert set(re.findall(r"^\| \[`([\w.-]+)`\]\(\1\) \|", README, re.MULTILINE)) == files


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_a_file_that_it_links_exists(target: str) -> None:
    assert (CLUSTER / target).exists()


def test_a_file_that_its_commands_name_exists() -> None:
    named = set(re.findall(r"cluster/([\w.-]+)", README)) - {"ray-token"}  # which the reader makes
    assert named
    assert [name for name in named if not (CLUSTER / name).exists()] == []


def test_its_ports_are_those_of_the_manifests() -> None:
    told = {(name, int(number)) for number, name in TABLE.findall(README) if name}
    assert told == {port for name in MANIFESTS for port in ports(documents(name))}


def test_every_port_that_a_policy_opens_is_told() -> None:
    assert rules("ingress") <= {int(number) for number, _ in TABLE.findall(README)}


def test_it_says_what_has_not_been_run() -> None:
    section = README.partition("## What has not been run")[2]
    assert all(word in section for word in ("GPU", "Kubernetes", "Docker"))
