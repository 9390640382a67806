"""The commands of the administrator against the real routes over a real store."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import stat
from collections.abc import AsyncIterator

import pytest
import yaml
from click.testing import CliRunner, Result

from serve_app.__main__ import main
from serve_app.admin_key import sha256_of
from serve_app.commands.cache import MAX_BYTES
from serve_app.store.answer_lines import to_line
from serve_app.store.database import Database
from tests.contract_store.answers import noise
from tests.fast.fakes_api import KEY
from tests.fast.fakes_http import chat_body, served
from tests.fast.test_api_admin import ADMIN, World, mine

SHIPPED = pathlib.Path(__file__).parents[2] / "serve_config.yaml"


class Server:
    """`run` calls `frugal-serve cache` with the key."""

    def __init__(self, url: str, world: World) -> None:
        self.url, self.world = url, world

    async def run(self, *words: str, key: str = ADMIN) -> Result:
        environment = {"COLUMNS": "100", "FRUGAL_URL": self.url, "FRUGAL_ADMIN_KEY": key}
        return await asyncio.to_thread(lambda: CliRunner().invoke(main, ["cache", *words], env=environment))


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    world = World(database)
    for number in range(3):
        world.store.put(mine(number, feed_id="x" if number else ""))
    async with served(world.services) as url:
        yield Server(url, world)


async def test_without_a_key_or_with_a_wrong_one_a_command_ends_with_one_line(server: Server) -> None:
    missing, wrong = await server.run("list", key=""), await server.run("list", key="wrong")
    assert (missing.exit_code, missing.stderr) == (
        2,
        "this needs the admin key in FRUGAL_ADMIN_KEY; `frugal-serve admin-key new` makes one\n",
    )
    assert (wrong.exit_code, wrong.stderr.startswith("this is not the admin key")) == (2, True)


async def test_list_and_show_print_what_is_stored(server: Server) -> None:
    listed = await server.run("list", "--feed", "x", "--limit", "1")
    assert (listed.exit_code, listed.stdout.splitlines()[0]) == (0, f"3 answers, {server.world.store.totals().size_bytes:,} bytes")
    assert re.findall(r"^[0-9a-f]{64}$", listed.stdout, re.MULTILINE) == [mine(2).key]
    shown = await server.run("show", mine(1).key)
    assert (shown.exit_code, shown.stdout.endswith("\n\ntwo words\n"), "feed x; made 1970-01-01 00:16:41" in shown.stdout) == (
        0,
        True,
        True,
    )
    assert json.loads((await server.run("show", mine(1).key, "--json")).stdout)["text"] == "two words"
    assert (await server.run("show", "f" * 64)).exit_code == 2


async def test_delete_says_how_many_went(server: Server) -> None:
    assert (await server.run("delete")).exit_code == 2
    assert (await server.run("delete", mine(0).key, "f" * 64)).stdout == "1 deleted\n"
    assert (await server.run("delete", "--feed", "x", "--older-than", "60")).stdout == "2 deleted\n"
    server.world.store.put(mine(5))
    assert (await server.run("delete", "--all")).stdout == "1 deleted\n"
    assert server.world.store.totals().entries == 0


async def test_an_export_is_a_file_that_can_be_imported_however_long_it_is(server: Server, tmp_path: pathlib.Path) -> None:
    answers = [mine(number, text=noise(20_000)) for number in range(60)]
    for answer in answers:
        server.world.store.put(answer)
    file = tmp_path / "answers.jsonl"
    assert (await server.run("export", str(file))).stderr == "60 exported\n"
    assert file.stat().st_size > 2 * MAX_BYTES
    assert (await server.run("delete", "--all")).stdout == "60 deleted\n"
    assert (await server.run("import", str(file))).stdout == "60 stored, 0 not newer than what is there, 0 refused\n"
    assert [server.world.store.get(answer.key) for answer in answers] == answers
    with file.open("a") as more:
        more.write(to_line(mine(99)).replace("two", "ten") + "\n")
    again = await server.run("import", str(file))
    assert (again.exit_code, again.stdout) == (1, "0 stored, 60 not newer than what is there, 1 refused\n")
    assert again.stderr == "line 61: its digest does not match: it was damaged or changed\n"


async def test_warm_tells_of_every_line_and_fails_where_one_did(server: Server, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join([json.dumps(chat_body()), json.dumps(chat_body(model="gone"))]))
    result = await server.run("warm", str(file), "--concurrency", "1")
    assert (result.exit_code, result.stderr) == (2, "1 failed\n")
    first, second = result.stdout.splitlines()
    assert (first, second.startswith("line 2: model: there is no 'gone' here")) == (f"line 1: miss {KEY}", True)


def test_admin_key_new_prints_the_key_once_and_keeps_its_hash(tmp_path: pathlib.Path) -> None:
    config = yaml.safe_load(SHIPPED.read_text())
    config["applications"][0]["args"]["data_dir"] = str(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    environment = {"FRUGAL_DATA_DIR": ""}
    result = CliRunner().invoke(main, ["admin-key", "new", str(tmp_path / "mine.yaml")], env=environment)
    key = result.stdout.strip()
    path = tmp_path / "data" / "admin-key.sha256"
    assert (result.exit_code, path.read_text().strip()) == (0, sha256_of(key))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (key in result.stderr, sha256_of(key) in result.stderr) == (False, True)
    alone = CliRunner().invoke(main, ["admin-key", "new", str(tmp_path / "mine.yaml"), "--print-only"], env=environment)
    assert (alone.exit_code, path.read_text().strip()) == (0, sha256_of(key))


async def test_an_export_that_is_refused_leaves_an_earlier_one_as_it_was(server: Server, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("earlier\n")
    assert (await server.run("export", str(file), key="wrong")).exit_code == 2
    assert file.read_text() == "earlier\n"
    await server.run("delete", "--all")
    assert (await server.run("export", str(file))).stderr == "0 exported\n"
    assert file.read_text() == ""
