"""The commands of feeds against the real routes: what each prints, how it ends, and how a feed may be named."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pathlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.commands.feeds import matching
from tests.fast.fakes_api import FakeServices, feed
from tests.fast.fakes_http import served
from tests.fast.test_command_line import SHIPPED, Server, nobody, run
from tests.fast.test_feeds_opml import opml

__all__ = ["nobody"]  # a fixture


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    services = FakeServices()
    async with served(services) as url:
        yield Server(url, services)


async def test_feeds_lists_them_or_prints_the_servers_json(server: Server) -> None:
    bad = replace(feed("feed1"), title="Evil\x1b]0;owned\x07", state="failing", last_error="404\x1b[2J")
    server.services.all_feeds = {"feed0": feed(), "feed1": bad}
    text, data = await server.run("feeds"), await server.run("feeds", "--json")
    assert (text.exit_code, data.exit_code) == (0, 0)
    listed, listed_data = await server.run("feeds", "list"), await server.run("feeds", "list", "--json")
    assert (listed.stdout, listed_data.stdout) == (text.stdout, data.stdout)
    assert [line.split()[0] for line in text.stdout.splitlines() if line.startswith("feed")] == ["feed0", "feed1"]
    assert "Evil ]0;owned " in text.stdout
    assert all(char.isprintable() or char == "\n" for char in text.stdout)
    assert [entry["id"] for entry in json.loads(data.stdout)["data"]] == ["feed0", "feed1"]


async def test_a_feed_is_added_refreshed_and_removed(server: Server) -> None:
    added = await server.run("feeds", "add", "https://example.org/new")
    assert (added.exit_code, added.stdout.splitlines()[0]) == (0, "feed0  new      https://example.org/new")
    refreshed = await server.run("feeds", "refresh", "feed0")
    assert (refreshed.exit_code, refreshed.stdout.splitlines()[0]) == (0, "feed0  new      https://example.org/new")
    removed = await server.run("feeds", "remove", "feed0")
    assert (removed.exit_code, removed.stdout, server.services.all_feeds) == (0, "removed feed0\n", {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("remove", "feed0"), "the configuration names this feed; remove it there\n"),
        (("refresh", "none"), "there is no feed 'none'; `frugal-serve feeds` lists them\n"),
        (("pause", ""), "there is no feed ''; `frugal-serve feeds` lists them\n"),
        (("remove", "https://ann:secret@example.org/"), "there is no feed 'https://***@example.org/'; `frugal-serve feeds` lists them\n"),
        (("add", "https://example.org/new", "--option", "full_text=yes"), None),
        (("add", "https://example.org/feed.xml"), "url: https://example.org/feed.xml is there already\n"),
    ],
)
async def test_what_cannot_be_done_to_a_feed_says_why(server: Server, words: tuple[str, ...], message: str | None) -> None:
    server.services.all_feeds = {"feed0": feed()}
    result = await server.run("feeds", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == message if message else "options.full_text" in result.stderr


@pytest.mark.parametrize("words", [["add", "https://example.org/new"], ["refresh", "feed0"], ["remove", "feed0"]])
async def test_the_address_may_stand_before_or_behind_a_change_of_feeds(server: Server, nobody: str, words: list[str]) -> None:
    for order in (["--url", server.url, *words], [*words, "--url", server.url], ["--url", nobody, *words, "--url", server.url]):
        server.services.all_feeds = {"feed0": replace(feed(), origin="api")}
        result = await asyncio.to_thread(run, "feeds", *order, FRUGAL_URL=nobody)
        assert (result.exit_code, result.stderr) == (0, "")


def test_json_beside_a_change_of_feeds_is_refused_and_not_ignored() -> None:
    result = run("feeds", "--json", "remove", "feed0")
    assert result.exit_code == 2
    assert "write --json behind the command that it is for" in result.stderr


async def test_a_feed_is_paused_and_resumed_and_says_who_paused_it(server: Server) -> None:
    server.services.all_feeds = {"feed0": feed()}
    paused = await server.run("feeds", "pause", "https://example.org/feed.xml")
    assert (paused.exit_code, paused.stdout.splitlines()[0].split()[1]) == (0, "paused")
    assert "  paused: by a person; `frugal-serve feeds resume` lets it go on" in paused.stdout.splitlines()
    assert "next check" not in paused.stdout
    resumed = await server.run("feeds", "resume", "feed0", "--json")
    assert (json.loads(resumed.stdout)["state"], json.loads(resumed.stdout)["paused_by"]) == ("ok", None)


def test_a_feed_is_named_by_its_id_its_beginning_or_its_address() -> None:
    secret = "https://ann:secret@example.org/feed"
    id_of_secret = hashlib.sha256(secret.encode()).hexdigest()[:16]
    listed = [
        {"id": "abcd", "url": "https://a.test/"},
        {"id": "abcdef", "url": "https://b.test/"},
        {"id": id_of_secret, "url": "https://***@example.org/feed"},
    ]
    assert matching(listed, "abcd") == ["abcd"], "an id that is also the beginning of another one"
    assert matching(listed, "abcde") == ["abcdef"]
    assert matching(listed, "abc") == ["abcd", "abcdef"]
    assert matching(listed, "https://b.test/") == ["abcdef"]
    assert matching(listed, secret) == [id_of_secret]
    assert matching(listed, "") == matching(listed, "xyz") == []


async def test_the_beginning_of_two_ids_is_refused_with_both(server: Server) -> None:
    server.services.all_feeds = {name: feed(name, url=f"https://{name}.test/") for name in ("feed0", "feed1")}
    result = await server.run("feeds", "refresh", "feed")
    assert (result.exit_code, result.stderr) == (2, "'feed' is the beginning of 2 ids: feed0 feed1; write more of it\n")


async def test_options_are_given_as_words_or_json(server: Server) -> None:
    added = await server.run("feeds", "add", "https://example.org/new", "--option", "title=My news", "--option", "full_text=true", "--json")
    assert json.loads(added.stdout)["options"] == {"title": "My news", "full_text": True}
    wrong = await server.run("feeds", "add", "https://example.org/new", "--option", "title")
    assert (wrong.exit_code, "write NAME=VALUE" in wrong.stderr) == (2, True)


async def test_a_list_goes_out_as_opml_and_comes_back(server: Server, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "feeds.opml"
    server.services.all_feeds = {"feed0": feed(options={"full_text": True}), "s": feed("s", url="sample:")}
    exported = await server.run("feeds", "export", str(file))
    assert (exported.exit_code, exported.stdout) == (0, "")
    assert exported.stderr.startswith("1 cannot be restored from it: the sample feed, or")
    server.services.all_feeds = {}
    imported = await server.run("feeds", "import", str(file))
    assert (imported.exit_code, imported.stdout) == (0, "1 added, 0 already there, 0 refused\n")
    assert [known.options for known in server.services.all_feeds.values()] == [{"full_text": True}]


async def test_an_import_with_refused_entries_says_why_and_ends_with_1(server: Server, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "feeds.opml"
    file.write_bytes(opml('<outline text="Bad\x1b" xmlUrl="ftp://b.test/"/><outline text="A" xmlUrl="https://a.test/"/>'))
    result = await server.run("feeds", "import", str(file))
    assert (result.exit_code, result.stdout.splitlines()[0]) == (1, "1 added, 0 already there, 1 refused")
    assert "Bad ftp://b.test/: feed address 'ftp://b.test/': unknown scheme" in " ".join(result.stdout.split())
    told = await server.run("feeds", "import", str(file), "--json")
    assert (told.exit_code, [entry["result"] for entry in json.loads(told.stdout)["entries"]]) == (1, ["refused", "already there"])


async def test_an_export_that_fails_leaves_an_older_file_alone(server: Server, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "feeds.opml"
    file.write_text("older")
    for words in (["--passwords"], ["--passwords", "--key", "wrong"]):
        result = await server.run("feeds", "export", str(file), *words)
        assert (result.exit_code, "key" in result.stderr, file.read_text()) == (2, True, "older")


async def test_an_export_keeps_passwords_for_who_has_the_admin_key(server: Server) -> None:
    server.services.key_sha256 = hashlib.sha256(b"the key").hexdigest()
    server.services.all_feeds = {"feed0": feed(url="https://ann:hunter2@example.org/")}
    plain = await server.run("feeds", "export", "-")
    whole = await asyncio.to_thread(run, "feeds", "export", "-", "--passwords", FRUGAL_URL=server.url, FRUGAL_ADMIN_KEY="the key")
    assert ("hunter2" in plain.stdout, "hunter2" in whole.stdout) == (False, True)


async def test_a_trial_check_prints_its_steps_and_ends_with_1_where_nothing_comes_of_it(server: Server) -> None:
    good = await server.run("feeds", "check", "https://example.org/feed")
    assert (good.exit_code, good.stdout.splitlines()[0]) == (0, "  address  https://example.org/feed: not on the list")
    server.services.probe_ok = False
    bad = await server.run("feeds", "check", "https://example.org/feed")
    assert (bad.exit_code, bad.stdout.splitlines()[1:]) == (1, ["! fetch    no [2J reply", "  try      https://example.org/feed"])
    data = await server.run("feeds", "check", "https://example.org/feed", "--json")
    assert (data.exit_code, json.loads(data.stdout)["ok"]) == (1, False)


def test_a_local_trial_check_needs_no_server(nobody: str) -> None:
    good = run("feeds", "check", "sample:", "--local", "--config", str(SHIPPED), FRUGAL_URL=nobody)
    assert (good.exit_code, "would be summarised" in " ".join(good.stdout.split())) == (0, True)
    bad = run("feeds", "check", "http://ann:secret@127.0.0.1:8123/", "--local", "--config", str(SHIPPED), "--json", FRUGAL_URL=nobody)
    found = json.loads(bad.stdout)
    assert (bad.exit_code, found["url"], found["steps"][-2]["name"]) == (1, "http://***@127.0.0.1:8123/", "fetch")
    assert "allow_private_hosts" in found["steps"][-2]["text"]
