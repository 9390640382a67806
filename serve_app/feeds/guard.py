"""Which addresses the fetcher may connect to: public ones, and those that the settings allow by name.

`Guard` is pure. `GuardedResolver` is its aiohttp side: what it hands to the connector are the very addresses that were checked, so a name
that resolves to something else a moment later (DNS rebinding) gains nothing. aiohttp asks no resolver about an address written as such,
hence `check_url` at every hop. Tests: tests/fast/test_feeds_guard.py.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.errors import FetchError

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # https://www.iana.org/assignments/ipv6-address-space
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# `is_global` calls these global (Python 3.11): protocol assignments, the 6to4 relay; and carrier-grade NAT on older ones.
DENIED_V4 = tuple(ipaddress.IPv4Network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "100.64.0.0/10"))

# No browser connects to these: https://fetch.spec.whatwg.org/#port-blocking. What listens there may take a request for its own protocol.
# fmt: off
BAD_PORTS = frozenset((
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111, 113, 115,
    117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601,
    636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679,
    6697, 10080,
))
# fmt: on
HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.ASCII)
LOOKS_LIKE_A_NUMBER = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)\.?$", re.ASCII)  # https://url.spec.whatwg.org/#ends-in-a-number-checker


def embedded(address: IP) -> tuple[IP, ...]:
    """The addresses that a packet to `address` may end up at: the IPv4 ones inside it, or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    return (address,)


def is_public(address: IP) -> bool:
    """True for an address on the open internet, whatever it is wrapped in."""
    return all(_is_public(inner) for inner in embedded(address))


def _is_public(address: IP) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address not in GLOBAL_UNICAST:
            return False
    elif any(address in network for network in DENIED_V4):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class Guard:
    """The rules, with `allowed` host names, addresses or networks excepted from them. `redirected`: a public server sent us to where we
    ask now, so that nothing is excepted and the remedy is another one."""

    def __init__(self, allowed: Iterable[str] = (), *, redirected: bool = False) -> None:
        self._redirected = redirected
        self._names: set[str] = set()
        self._networks: list[Network] = []
        for item in allowed:
            text = item.strip().lower().strip("[]")
            try:
                self._networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                self._names.add(text.rstrip("."))

    def allows(self, host: str, address: IP) -> bool:
        """May `address`, to which `host` resolved, be connected to?"""
        if host.lower().rstrip(".") in self._names or is_public(address):
            return True
        # Only a mapped address is the same place as the IPv4 one; a translated one lies behind somebody's gateway.
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)

    def check_url(self, url: yarl.URL) -> bool:
        """Check all that can be known of an address without asking DNS. True where it is written as a private one, which is allowed.

        Raises:
            FetchError: scheme, port, host or address is refused.
        """
        host = (url.raw_host or "").lower()
        if url.scheme not in ("http", "https"):
            raise FetchError(f"{url.scheme or 'no scheme'}: is not fetched; use an http or https address")
        if not host:
            raise FetchError("the address names no host; write https://host/path")
        if url.port in BAD_PORTS:
            raise FetchError(f"port {url.port} belongs to another protocol than HTTP; correct the address")
        address = _literal(host)
        if address is not None and not self.allows(host, address):
            raise self.refusal(host)
        return address is not None and not is_public(address)

    def refusal(self, host: str) -> FetchError:
        """The error for an address that may not be connected to."""
        where = f"{host} is in a private or reserved network, "
        if self._redirected:
            return FetchError(f"{where}and a server outside of it redirected there, which is refused; if it is yours, put its address here")
        return FetchError(f"{where}which the fetcher refuses; if it is yours, add {host!r} to allow_private_hosts")


def _literal(host: str) -> IP | None:
    """The address that `host` is written as, or None for a name. Odd notations, which C libraries read and we do not, are refused."""
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise FetchError(f"{host[:80]} is not an IPv6 address; correct it") from None
        if address.scope_id is not None:
            raise FetchError(f"{host[:80]} names a network interface; leave out the part from % on")
        return address
    if LOOKS_LIKE_A_NUMBER.search(host):
        try:
            return ipaddress.IPv4Address(host)
        except ValueError:
            raise FetchError(f"{host[:80]} is an odd way to write an address; write four decimal numbers") from None
    if len(host) > 253 or not HOST.fullmatch(host):
        raise FetchError(f"{host[:80]!r} is not a host name; correct the address")
    return None


class GuardedResolver(AbstractResolver):
    """Resolves with `inner` and passes on only what `guard` allows. `met_private`: one of the last name's addresses was a private one."""

    def __init__(self, guard: Guard, inner: AbstractResolver) -> None:
        self.guard = guard
        self.met_private = False
        self.seen: list[tuple[str, bool]] = []  # each address of the last name, and whether it may be connected to
        self._inner = inner

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The checked addresses of `host`.

        Raises:
            FetchError: none of them is allowed.
        """
        results = await self._inner.resolve(host, port, family)
        checked = [result for result in results if self.guard.allows(host, _address(result))]
        self.seen[:] = [(str(_address(result)), result in checked) for result in results]
        if results and not checked:
            raise self.guard.refusal(host)
        self.met_private = any(not is_public(_address(result)) for result in checked)
        return checked

    async def close(self) -> None:
        """Let go of `inner`."""
        await self._inner.close()


def _address(result: ResolveResult) -> IP:
    return ipaddress.ip_address(result["host"].split("%")[0])
