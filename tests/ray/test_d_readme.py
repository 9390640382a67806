"""The README's commands run as they stand there, against the running program."""

from __future__ import annotations

import re
import shlex
import sys

import pytest

from tests.ray.program import REPOSITORY, Program

BLOCKS = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line and not line.startswith("make ")]


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_does_what_it_says(program: Program, command: str) -> None:
    words = [word.replace("http://127.0.0.1:8000", program.url) for word in shlex.split(command)]
    if words[0] == "frugal-serve":
        words[:1] = [sys.executable, "-m", "serve_app"]
    else:
        words.insert(1, "--fail-with-body")
    done = program.run(*words)
    assert (done.returncode, bool(done.stdout.strip())) == (0, True), done.stdout + done.stderr


def test_every_command_of_make_that_the_readme_names_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make (\w+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert {"serve", "test", "lint", "bench"} <= named
    assert [name for name in sorted(named) if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
