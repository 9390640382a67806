"""Which web pages may change something: the table, and the middleware that asks it."""

from __future__ import annotations

import pytest

from serve_app.api.origin import refusal
from serve_app.settings import IngressSettings
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_http import client_of

SETTINGS = IngressSettings(
    allowed_hosts=("127.0.0.1", "localhost", "[::1]", "Box.Example"), allowed_origins=("https://tool.example", "http://dev.example:3000")
)

PASS = [
    # method, Origin, Host, Sec-Fetch-Site
    ("GET", ["https://evil.example"], "127.0.0.1:8000", "cross-site"),
    ("HEAD", ["null"], "127.0.0.1:8000", None),
    ("OPTIONS", ["https://evil.example"], "127.0.0.1:8000", None),
    ("POST", [], "127.0.0.1:8000", None),
    ("POST", [], "anything.example", None),
    ("POST", [], "127.0.0.1:8000", "same-origin"),
    ("POST", [], "127.0.0.1:8000", "none"),
    ("POST", ["http://127.0.0.1:8000"], "127.0.0.1:8000", "same-origin"),
    ("DELETE", ["http://localhost:8000"], "localhost:8000", None),
    ("POST", ["http://LOCALHOST:8000"], "localhost:8000", None),
    ("POST", ["http://localhost"], "localhost:80", None),
    ("POST", ["https://box.example"], "box.example", None),
    ("POST", ["http://[::1]:8000"], "[::1]:8000", None),
    ("POST", ["https://tool.example"], "127.0.0.1:8000", "cross-site"),
    ("POST", ["https://tool.example:443"], "127.0.0.1:8000", None),
    ("POST", ["http://dev.example:3000"], "127.0.0.1:8000", None),
]

REFUSE = [
    ("POST", ["https://evil.example"], "127.0.0.1:8000", "cross-site"),
    ("DELETE", ["https://evil.example"], "127.0.0.1:8000", None),
    ("PUT", ["https://evil.example"], "127.0.0.1:8000", None),
    ("POST", ["null"], "127.0.0.1:8000", None),
    ("POST", [""], "127.0.0.1:8000", None),
    ("POST", [], "127.0.0.1:8000", "cross-site"),
    ("POST", [], "127.0.0.1:8000", "Cross-Site"),
    ("POST", ["http://rebound.example:8000"], "rebound.example:8000", "same-origin"),  # DNS rebinding
    ("POST", ["http://localhost:8001"], "localhost:8000", None),
    ("POST", ["http://localhost:8000"], "127.0.0.1:8000", None),
    ("POST", ["https://localhost"], "localhost:80", None),
    ("POST", ["http://localhost:8000"], None, None),
    ("POST", ["http://localhost:8000/path"], "localhost:8000", None),
    ("POST", ["http://user@localhost:8000"], "localhost:8000", None),
    ("POST", ["http://localhost:8000.evil.example"], "localhost:8000", None),
    ("POST", ["http://localhost:99999"], "localhost:99999", None),
    ("POST", ["file://localhost"], "localhost", None),
    ("POST", ["http://tool.example"], "127.0.0.1:8000", None),
    ("POST", ["http://dev.example"], "127.0.0.1:8000", None),
    ("POST", ["http://localhost:8000", "https://evil.example"], "localhost:8000", None),
]


@pytest.mark.parametrize(("method", "origins", "host", "site"), PASS)
def test_these_pass(method: str, origins: list[str], host: str | None, site: str | None) -> None:
    assert refusal(method, origins, host, site, SETTINGS) is None


@pytest.mark.parametrize(("method", "origins", "host", "site"), REFUSE)
def test_these_are_refused(method: str, origins: list[str], host: str | None, site: str | None) -> None:
    assert refusal(method, origins, host, site, SETTINGS) is not None


async def test_a_foreign_page_gets_a_403_with_the_remedy_and_nothing_happens() -> None:
    services = FakeServices()
    url = {"url": "https://example.org/new"}
    reply = await client_of(services).post("/v1/feeds", json=url, headers={"origin": "https://evil.example"})
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "forbidden"
    assert "allowed_origins" in reply.json()["error"]["message"]
    assert services.all_feeds == {}


async def test_the_list_of_the_moment_counts() -> None:
    services = FakeServices()
    client, headers, url = client_of(services), {"origin": "https://tool.example"}, {"url": "https://example.org/new"}
    before = await client.post("/v1/feeds", json=url, headers=headers)
    services.settings = SETTINGS
    after = await client.post("/v1/feeds", json=url, headers=headers)
    assert (before.status_code, after.status_code) == (403, 201)


async def test_no_reply_allows_other_sites_to_read_it() -> None:
    reply = await client_of(FakeServices()).get("/v1/models", headers={"origin": "https://evil.example"})
    assert not [name for name in reply.headers if name.startswith("access-control-")]
