"""Every command against the real routes: what it prints, where, and how it ends."""

from __future__ import annotations

import asyncio
import json
import pathlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from serve_app import __version__, costs
from serve_app.__main__ import main
from serve_app.errors import GenerationFailed, Overloaded
from tests.fast.fakes_api import MODEL, FakeServices, article, summary
from tests.fast.fakes_http import served

SHIPPED = pathlib.Path(__file__).parents[2] / "serve_config.yaml"
REPORT = costs.report([], [], [], 0.0)


def run(*words: str, **environment: str) -> Result:
    """A command, as a shell would call it."""
    return CliRunner().invoke(main, list(words), env={"COLUMNS": "100", **environment})


class Server:
    """The real routes over fake services; `run` calls a command on them."""

    def __init__(self, url: str, services: FakeServices) -> None:
        self.url = url
        self.services = services

    async def run(self, *words: str) -> Result:
        return await asyncio.to_thread(run, *words, FRUGAL_URL=self.url)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    services = FakeServices(the_report=REPORT)
    async with served(services) as url:
        yield Server(url, services)


@pytest.fixture
def nobody() -> str:
    """An address of this machine where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def test_ask_prints_the_answer_on_stdout_and_what_it_took_on_stderr(server: Server) -> None:
    server.services.will_say("Two", " words\n", "and a line")
    result = await server.run("ask", "Hi", "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0.5")
    assert (result.exit_code, result.stdout) == (0, "Two words\nand a line\n")
    assert result.stderr == "[miss; 3 tokens; 0.50 compute-seconds, $0.00000700]\n"
    (ask,) = server.services.asked
    assert [(message.role, message.content) for message in ask.generate.messages] == [("system", "Be brief."), ("user", "Hi")]
    assert (ask.generate.model, ask.generate.sampling.max_tokens, ask.generate.sampling.temperature) == (MODEL, 9, 0.5)


async def test_a_models_control_characters_do_not_reach_the_terminal(server: Server) -> None:
    server.services.will_say("clear\x1b[2J", "ed\n")
    assert (await server.run("ask", "Hi")).stdout == "clear [2Jed\n\n"


async def test_an_answer_that_is_refused_prints_why(server: Server) -> None:
    server.services.will_refuse(Overloaded("256 requests wait; try again in 3 s", retry_after_s=3))
    result = await server.run("ask", "Hi")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "256 requests wait; try again in 3 s\n")


async def test_an_answer_that_breaks_off_is_an_error(server: Server) -> None:
    server.services.will_break(GenerationFailed("the model broke; send the request again"))
    result = await server.run("ask", "Hi")
    assert (result.exit_code, result.stdout) == (2, "Hello")
    assert result.stderr.endswith("the model broke; send the request again\n")


def test_serve_without_its_database_ends_at_once_with_one_line(nobody: str) -> None:
    where = nobody.removeprefix("http://")
    result = run("serve", str(SHIPPED), FRUGAL_DATABASE_URL=f"postgresql://ann:hunter2@{where}/frugal")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert result.stderr.startswith(f"database postgresql://ann@{where}/frugal: ")
    assert "hunter2" not in result.stderr


async def test_an_answer_without_an_end_is_an_error(server: Server) -> None:
    server.services.will_stop_short()
    result = await server.run("ask", "Hi")
    assert (result.exit_code, result.stdout, bool(result.stderr)) == (2, "Hello", True)


async def test_digest_prints_the_articles_that_are_done_and_then_the_costs(server: Server) -> None:
    server.services.all_articles = [article("a0"), article("a1", state="pending", summary=None), article("a2", title="Evil\x1b[2J\x07")]
    result = await server.run("digest")
    articles, costs_and_performance = result.stdout.split("costs and performance")
    assert result.exit_code == 0
    assert articles.rstrip("-\n") == (
        "Title a0\n  https://example.org/a0\n  A short summary.\n\nEvil [2J \n  https://example.org/a2\n  A short summary."
    )
    assert "hit ratio" in costs_and_performance


async def test_digest_shows_as_many_as_asked_for_of_the_feed_asked_for(server: Server) -> None:
    server.services.all_articles = [article(f"a{number}", summary=summary(f"Summary {number}.")) for number in range(5)]
    result = await server.run("digest", "--limit", "2", "--feed", "feed0")
    assert [number for number in range(5) if f"Summary {number}." in result.stdout] == [0, 1]
    (query,) = server.services.queried
    assert (query.feed_id, query.state, query.limit) == ("feed0", "done", 2)


async def test_digest_without_articles_says_where_to_look(server: Server) -> None:
    result = await server.run("digest")
    assert result.stdout.startswith("no article is done yet; see frugal-serve feeds\n")


async def test_report_prints_figures_or_the_servers_json(server: Server) -> None:
    text, data = await server.run("report"), await server.run("report", "--json")
    assert (text.exit_code, data.exit_code) == (0, 0)
    assert text.stdout.startswith("requests  0 (none); hit ratio -\n")
    assert json.loads(data.stdout) == json.loads(json.dumps(REPORT))


@pytest.mark.parametrize(
    ("state", "text", "exit_code"),
    [
        ({"ready": True, "waiting_for": [], "errors": []}, "ready\n", 0),
        (
            {"ready": False, "waiting_for": ["model tiny: starting"], "errors": ["broken"]},
            "waiting for model tiny: starting\nerror: broken\n",
            1,
        ),
    ],
)
async def test_status_ends_with_1_until_it_is_ready(server: Server, state: dict[str, Any], text: str, exit_code: int) -> None:
    server.services.state = state
    result, data = await server.run("status"), await server.run("status", "--json")
    assert (result.stdout, result.exit_code) == (text, exit_code)
    assert "Ray's dashboard is not known here" in result.stderr
    unknown = {"models": [], "deployments": None, "note": json.loads(data.stdout)["note"]}
    assert (json.loads(data.stdout), data.exit_code) == ({**state, **unknown}, exit_code)


COMMANDS = [
    ["ask", "Hi"],
    ["digest"],
    ["report"],
    ["status"],
    ["feeds"],
    ["feeds", "add", "x"],
    ["feeds", "list"],
    ["feeds", "refresh", "x"],
    ["feeds", "pause", "x"],
    ["feeds", "resume", "x"],
    ["feeds", "remove", "x"],
    ["feeds", "import", __file__],
    ["feeds", "export", "-"],
    ["feeds", "check", "x"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_without_a_server_every_command_ends_with_2_and_the_remedy(words: list[str], nobody: str) -> None:
    result = run(*words, FRUGAL_URL=nobody)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"no server answers at {nobody}; start one with `frugal-serve serve`, or name another with --url\n"


def test_the_shipped_configuration_validates() -> None:
    result = run("validate", str(SHIPPED))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{SHIPPED}: valid; smollm2-135m-instruct (nf4) on auto, http://127.0.0.1:8000\n"


@pytest.mark.parametrize("command", ["validate", "serve"])
def test_a_wrong_configuration_is_refused_with_one_line_per_mistake(command: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHIPPED.read_text().replace("max_waiting", "max_waitin").replace("ttl_s: 2592000", "ttl_s: 0"))
    result = run(command, str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{path}: applications[0].deployments[1].user_config.ttl_s: Input should be greater than 0, not 0",
        f"{path}: applications[0].deployments[2].user_config.max_waitin: unknown key; did you mean max_waiting?",
    ]


def test_a_missing_configuration_is_told_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "missing.yaml"
    result = run("validate", str(path))
    assert (result.exit_code, result.stderr) == (2, f"{path}: no such file; name a Serve config file, such as serve_config.yaml\n")


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"frugal-serve, version {__version__}\n"


def all_commands(group: click.Group, *before: str) -> list[list[str]]:
    """Every command below a group, as words."""
    found: list[list[str]] = []
    for name, command in group.commands.items():
        found.append([*before, name])
        if isinstance(command, click.Group):
            found += all_commands(command, *before, name)
    return found


@pytest.mark.parametrize("words", all_commands(main), ids=" ".join)
def test_every_command_explains_itself(words: list[str]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()[2].strip()) > 10
