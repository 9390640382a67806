"""Only public addresses are connected to, however a private one is written or wrapped, unless the settings name it."""

from __future__ import annotations

import ipaddress
import socket
import threading

import pytest
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.errors import FetchError
from serve_app.feeds.guard import Guard, GuardedResolver, is_public
from serve_app.feeds.resolve import ThreadResolver

PRIVATE = """
    127.0.0.1 127.8.9.1 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 100.127.255.254
    192.0.0.8 192.0.0.170 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    ::1 :: ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1:: 2002:a00:1::1
    2001:0:4136:e378:8000:63bf:80ff:fffe 2001:db8::1 fc00::1 fd12:3456::1 fe80::1 fec0::1 ff02::1 100::1 5f00::1
"""
PUBLIC = """
    8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 198.17.0.1 223.255.255.255
    2606:4700::1111 2a00:1450:4001::200e ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_a_private_or_reserved_address_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_may_be_connected_to(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "010.8.8.8",
        "8.8.8.08",
        "0x",
        "1.2.3.4.5",
        "256.1.1.1",
        "[fe80::1%25eth0]",
        "a_very%20odd",
        "-x.test",
        "x..test",
        "１２７.０.０.１",
        "127。0。0。1",
        "[::ffff:127.0.0.1]",
    ],
)
def test_odd_notations_are_refused_at_every_hop(host: str) -> None:
    with pytest.raises((FetchError, ValueError)):  # yarl itself refuses some
        Guard().check_url(yarl.URL(f"http://{host}/feed"))


@pytest.mark.parametrize(
    "url", ["http://feed.test/x", "https://sub.feed-2.test:8443/", "http://8.8.8.8/", "http://[2606:4700::1111]/", "http://bücher.test/"]
)
def test_names_and_public_literals_pass(url: str) -> None:
    Guard().check_url(yarl.URL(url))


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://feed.test/", "gopher://feed.test/", "/feed", "http:///feed"])
def test_only_http_addresses_with_a_host_are_fetched(url: str) -> None:
    with pytest.raises(FetchError):
        Guard().check_url(yarl.URL(url))


def test_the_allow_list_takes_names_addresses_and_networks() -> None:
    guard = Guard(("wiki.corp", "127.0.0.1", "10.2.0.0/16", "[::1]"))
    allowed = [
        ("wiki.corp", "10.9.9.9"),
        ("WIKI.corp.", "192.168.0.1"),
        ("x.test", "127.0.0.1"),
        ("x.test", "::ffff:127.0.0.1"),
        ("x", "10.2.3.4"),
    ]
    refused = [("x.wiki.corp", "10.9.9.9"), ("x.test", "127.0.0.2"), ("x.test", "10.3.0.1"), ("x.test", "169.254.169.254")]
    assert all(guard.allows(host, ipaddress.ip_address(address)) for host, address in allowed)
    assert not any(guard.allows(host, ipaddress.ip_address(address)) for host, address in refused)
    guard.check_url(yarl.URL("http://[::1]:8080/"))


class FakeDns(AbstractResolver):
    """Resolves every name to the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0) for address in self._addresses]

    async def close(self) -> None:
        pass


async def test_the_connector_gets_only_the_checked_addresses() -> None:
    resolver = GuardedResolver(Guard(), FakeDns("10.0.0.1", "8.8.8.8", "fe80::1%eth0", "64:ff9b::7f00:1"))
    assert [result["host"] for result in await resolver.resolve("feed.test", 443)] == ["8.8.8.8"]


async def test_a_name_with_private_addresses_only_is_refused_with_the_remedy() -> None:
    with pytest.raises(FetchError, match=r"wiki.corp is in a private .* add 'wiki.corp' to allow_private_hosts"):
        await GuardedResolver(Guard(), FakeDns("10.0.0.1", "::1")).resolve("wiki.corp", 443)


async def test_names_are_looked_up_in_threads_that_nothing_else_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def look_up(host: str, port: int, *_rest: object, **_more: object) -> list[object]:
        threads.append(threading.current_thread().name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = ThreadResolver()
    (found,) = await resolver.resolve("feed.test", 443, socket.AF_UNSPEC)
    assert (found["host"], found["port"], found["hostname"], found["family"]) == ("192.0.2.7", 443, "feed.test", socket.AF_INET)
    assert threads[0].startswith("feeds-dns")
    resolver.stop()
    with pytest.raises(RuntimeError):
        await resolver.resolve("feed.test", 443)


@pytest.mark.parametrize("port", [25, 6379, 0])
def test_a_port_of_another_protocol_is_refused(port: int) -> None:
    with pytest.raises(FetchError, match="another protocol"):
        Guard(("feed.test",)).check_url(yarl.URL(f"http://feed.test:{port}/"))
