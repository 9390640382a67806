"""Fetching from a real server on loopback: validators, redirects, limits, pacing, and reasons that people can read."""

from __future__ import annotations

import asyncio
import base64
import gzip
import pickle
import socket

import brotli
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.errors import FetchError
from serve_app.feeds.fetch import Fetched, Fetcher, NotModified
from serve_app.feeds.pacing import Pacing
from tests.fast.fakes_feeds import Clock, FakeFeedServer, settings_for
from tests.fast.test_feeds_guard import FakeDns

FEED = b"<rss version='2.0'><channel><title>x</title></channel></rss>"


def fetcher(**values: object) -> Fetcher:
    return Fetcher(settings_for(**values), gap_s=0.0, now=lambda: 1_700_000_000.0)


async def failure(url: str, **values: object) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetcher(**values).fetch(url)
    return caught.value


async def test_validators_go_back_byte_for_byte_and_bring_a_304() -> None:
    async with FakeFeedServer() as server:
        server.entry("a")
        first = await fetcher().fetch(server.url())
        assert isinstance(first, Fetched)
        assert isinstance(await fetcher().fetch(server.url(), first.etag, "Sat, 1 Jan 2000 0:0:0 odd"), NotModified)
        assert server.requests[0].headers.get("If-None-Match") is None
        assert server.requests[1].headers["If-None-Match"] == first.etag
        assert server.requests[1].headers["If-Modified-Since"] == "Sat, 1 Jan 2000 0:0:0 odd"
        server.entry("b")
        assert isinstance(await fetcher().fetch(server.url(), first.etag), Fetched)


async def test_the_request_says_who_asks_and_brings_no_cookie_back() -> None:
    async with FakeFeedServer() as server:
        url = server.serve(
            "/c", FEED, {"Set-Cookie": "a=b", "ETag": '"1"', "Last-Modified": "then", "Cache-Control": "public, max-age=7200"}
        )
        asking = fetcher(contact="mailto:me@feed.test\r\nX: y")
        reply = await asking.fetch(url)
        await asking.fetch(url)
        assert reply == Fetched(url, FEED, "application/octet-stream", '"1"', "then", 7200.0)
        headers = server.requests[1].headers
        assert headers["User-Agent"].startswith("FrugalServe/")
        assert headers["User-Agent"].endswith("(+mailto:me@feed.testX: y)")
        assert "Cookie" not in headers
        assert headers["Accept-Encoding"] == "gzip, deflate, br, zstd"


async def test_redirects_are_followed_up_to_the_limit_and_without_loops() -> None:
    async with FakeFeedServer() as server:
        final = server.serve("/final", FEED)
        server.redirect("/a", "b?x=1#part", 301)
        server.redirect("/b", final, 308)
        reply = await fetcher().fetch(server.url("/a"))
        assert isinstance(reply, Fetched)
        assert (reply.url, reply.body) == (final, FEED)
        server.redirect("/loop", "/loop")
        assert "more than 3 redirects" in (await failure(server.url("/loop"), max_redirects=3)).message


async def test_the_password_of_an_address_is_sent_and_not_given_on() -> None:
    async with FakeFeedServer() as server:
        url = server.serve("/feed", FEED)
        reply = await fetcher().fetch(url.replace("://", "://ann:secret@"))
        assert isinstance(reply, Fetched)
        assert reply.url == url
        assert server.requests[0].headers["Authorization"] == "Basic " + base64.b64encode(b"ann:secret").decode()
        error = await failure("http://ann:secret@[/")
        assert error.message == "'http://***@[/' is not an address; correct it"


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/meta",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://100.64.0.1/",
        "http://[64:ff9b::7f00:1]/",
        "http://0x7f.1/",
        "http://2130706433/",
        "file:///etc/hostname",
        "ftp://127.0.0.1/",
        "http://[/",
    ],
)
async def test_a_redirect_into_a_private_network_is_refused(target: str) -> None:
    async with FakeFeedServer() as server:
        error = await failure(server.redirect("/r", target))
        assert error.http_status is None
        assert len(server.requests) == 1


async def test_a_name_that_resolves_into_a_private_network_is_never_connected_to() -> None:
    async with FakeFeedServer() as server:
        asking = Fetcher(settings_for(allow_private_hosts=()), gap_s=0.0, resolver=FakeDns("127.0.0.1"))
        with pytest.raises(FetchError, match="allow_private_hosts"):
            await asking.fetch(server.url(host="public.test"))
        asking.reconfigure(settings_for(allow_private_hosts=("public.test",)))
        assert isinstance(await asking.fetch(server.url(host="public.test")), Fetched)
        assert len(server.requests) == 1


async def test_a_name_that_changes_its_answer_is_connected_to_where_it_was_checked() -> None:
    async with FakeFeedServer() as server:
        server.serve("/feed", FEED)
        server.redirect("/away", "/feed")
        dns = ChangingDns(["127.0.0.1"], ["10.0.0.1"])
        asking = Fetcher(settings_for(allow_private_hosts=("127.0.0.1",)), gap_s=0.0, resolver=dns)
        assert isinstance(await asking.fetch(server.url(host="feed.test")), Fetched)
        assert dns.asked == ["feed.test"], "one look-up: what was checked is what was connected to"
        dns = ChangingDns(["127.0.0.1"], ["10.0.0.1"])
        asking = Fetcher(settings_for(allow_private_hosts=("127.0.0.1",)), gap_s=0.0, resolver=dns)
        with pytest.raises(FetchError, match="private"):
            await asking.fetch(server.url("/away", host="feed.test"))  # the next hop is looked up and checked anew
        assert (dns.asked, len(server.requests)) == (["feed.test", "feed.test"], 2)


class ChangingDns(AbstractResolver):
    """Gives the first answer to the first question, and so on; the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = answers

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        addresses = self._answers[min(len(self.asked), len(self._answers) - 1)]
        self.asked.append(host)
        return await FakeDns(*addresses).resolve(host, port, family)

    async def close(self) -> None:
        pass


async def test_a_public_server_may_not_redirect_to_a_private_host_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.feeds.guard.is_public", lambda address: str(address) == "127.0.0.1")  # as if loopback were the internet
    async with FakeFeedServer() as server:
        url = server.redirect("/r", "http://10.0.0.9/secret")
        error = await failure(url, allow_private_hosts=("10.0.0.0/8",))
        assert error.message == (
            "10.0.0.9 is in a private or reserved network, and a server outside of it redirected there, which is refused; "
            "if it is yours, put its address here"
        )
        assert "another protocol" in (await failure("http://127.0.0.1:6379/")).message


@pytest.mark.parametrize(
    ("status", "is_public", "held"), [(429, True, "127.0.0.1"), (503, True, "127.0.0.1"), (500, True, None), (429, False, None)]
)
async def test_a_pause_is_for_the_whole_host_where_it_is_a_public_one(
    status: int, is_public: bool, held: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_public:
        monkeypatch.setattr("serve_app.feeds.guard.is_public", lambda address: True)
    async with FakeFeedServer() as server:
        error = await failure(server.serve("/x", b"", {"Retry-After": "60"}, status))
        assert (error.retry_after_s, error.held_host) == (60.0, held)


async def test_permanent_redirects_say_where_they_lead_and_others_do_not() -> None:
    async with FakeFeedServer() as server:
        final = server.serve("/final", FEED, {"Link": '<https://hub.test/>; rel="hub"'})
        server.redirect("/a", "/b", 301)
        server.redirect("/b", final, 308)
        server.redirect("/mixed", "/c", 301)
        server.redirect("/c", final, 302)
        moved = [await fetcher().fetch(server.url(path)) for path in ("/a", "/mixed", "/c", "/final")]
        assert [reply.moved_to for reply in moved] == [final, server.url("/c"), None, None]
        with_password = await fetcher().fetch(server.url("/a").replace("://", "://ann:secret@"))
        assert with_password.moved_to is None
        assert isinstance(moved[0], Fetched)
        assert moved[0].hub == "https://hub.test/"


async def test_a_form_is_posted_and_a_refusal_is_an_error() -> None:
    async with FakeFeedServer() as server:
        assert await fetcher().post(server.serve("/hub", b"", status=202), {"hub.mode": "subscribe"}) == 202
        request = server.requests[0]
        assert (request.method, request.headers["Content-Type"]) == ("POST", "application/x-www-form-urlencoded")
        with pytest.raises(FetchError, match="status 400"):
            await fetcher().post(server.serve("/no", b"", status=400), {"hub.mode": "subscribe"})


async def test_users_of_one_hoster_take_turns() -> None:
    pacing = Pacing(1.0, Clock(0.0), asyncio.sleep)
    async with pacing.turn("ann.tumblr.com"):
        assert [pacing.free_at(host) for host in ("Bo.Tumblr.com.", "tumblr.com", "x.test")] == [float("inf"), float("inf"), float("-inf")]
    assert pacing.free_at("bo.tumblr.com") == 1.0


async def test_a_compressed_feed_is_decoded_and_a_bomb_stops_at_the_limit() -> None:
    async with FakeFeedServer() as server:
        reply = await fetcher().fetch(server.serve("/br", brotli.compress(FEED), {"Content-Encoding": "br"}))
        assert isinstance(reply, Fetched)
        assert reply.body == FEED
        bomb = gzip.compress(b"<" * 50_000_000, compresslevel=1)
        error = await failure(server.serve("/bomb", bomb, {"Content-Encoding": "gzip"}), max_feed_bytes=1_000_000)
        assert "larger than 1 MB; raise max_feed_bytes" in error.message


async def test_a_plain_body_over_the_limit_and_false_or_torn_compression_are_refused() -> None:
    async with FakeFeedServer() as server:
        assert "larger than 0.002 MB" in (await failure(server.serve("/big", b"x" * 3_000), max_feed_bytes=2_000)).message
        assert "not the gzip data" in (await failure(server.serve("/false", FEED, {"Content-Encoding": "gzip"}))).message
        assert "broke off" in (await failure(server.serve("/torn", gzip.compress(FEED * 9)[:-12], {"Content-Encoding": "gzip"}))).message
        assert "'lzma'" in (await failure(server.serve("/lzma", FEED, {"Content-Encoding": "lzma"}))).message


@pytest.mark.parametrize(
    ("status", "headers", "words", "retry_after_s"),
    [
        (404, {}, "there is no feed at this address (404)", None),
        (410, {}, "gone for good (410)", None),
        (429, {"Retry-After": "120"}, "less often (429)", 120.0),
        (503, {"Retry-After": "Wed, 01 Jan 2025 00:10:00 GMT", "Date": "Wed, 01 Jan 2025 00:00:00 GMT"}, "has trouble (503)", 600.0),
        (503, {"Retry-After": "Wed, 01 Jan 2020 00:00:00 GMT"}, "has trouble (503)", 0.0),
        (500, {"Retry-After": "soon"}, "has trouble (500)", None),
        (304, {}, "answered with status 304", None),
        (206, {}, "answered with status 206", None),
    ],
)
async def test_a_bad_status_has_its_words_and_says_when_to_come_back(
    status: int, headers: dict[str, str], words: str, retry_after_s: float | None
) -> None:
    async with FakeFeedServer() as server:
        error = await failure(server.serve("/x", b"", headers, status))
        assert words in error.message
        assert (error.retry_after_s, error.http_status) == (retry_after_s, status)
        again = pickle.loads(pickle.dumps(error))
        assert (again, again.http_status) == (error, error.http_status)


async def test_a_server_that_never_answers_is_given_up() -> None:
    async with FakeFeedServer() as server:
        error = await failure(server.hang("/slow"), total_timeout_s=0.05, connect_timeout_s=0.05)
        assert error.message == "127.0.0.1 did not send the feed within 0.05 s"


async def test_refused_unknown_and_broken_connections_read_well() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert (await failure(f"http://127.0.0.1:{port}/")).message == f"127.0.0.1:{port} refuses connections; is the server running?"

    class NoDns(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
            raise OSError(None, "Name or service not known")

        async def close(self) -> None:
            pass

    with pytest.raises(
        FetchError, match=r"the name feed.test cannot be resolved; check the address and this machine's internet connection"
    ):
        await Fetcher(settings_for(), resolver=NoDns()).fetch("https://feed.test/rss")
    async with FakeFeedServer() as server:
        assert "no secure connection" in (await failure(server.url().replace("http:", "https:"))).message


async def test_a_reply_that_is_not_http_and_one_that_breaks_off_read_well() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(b"SMTP ready\r\n\r\n" if b"/odd" in line else b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<rss")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert "not HTTP" in (await failure(url + "/odd")).message
        assert "closed the connection before the end" in (await failure(url + "/torn")).message


async def test_the_sample_feed_is_unchanged_the_second_time() -> None:
    first = await fetcher().fetch("sample:")
    assert isinstance(first, Fetched)
    assert b"<rss" in first.body or b"<feed" in first.body
    assert await fetcher().fetch("sample:", first.etag) == NotModified(etag=first.etag)


async def test_one_host_is_asked_one_at_a_time_with_a_gap_between() -> None:
    clock, waits = Clock(0.0), list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.pass_s(seconds)

    pacing = Pacing(1.0, clock, sleep)
    live = most = 0

    async def visit(host: str) -> None:
        nonlocal live, most
        async with pacing.turn(host):
            live += 1
            most = max(most, live)
            await asyncio.sleep(0)
            live -= 1

    await asyncio.gather(*(visit("a") for _ in range(3)))
    assert (waits, most) == ([1.0, 1.0], 1)
    await asyncio.gather(visit("b"), visit("c"))
    assert (waits, most) == ([1.0, 1.0], 2)
