"""The pages: everything that a feed or a model wrote is text, a missing part is a notice, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from typing import Any

import httpx
import pytest

from serve_app.errors import Unavailable
from serve_app.messages_feeds import PausedBy
from tests.fast.fakes_api import FakeServices, article, digest, feed, summary
from tests.fast.fakes_http import client_of

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}'


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside <style>."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [found for name, found in self.tags if name == tag and attrs.items() <= found.items()]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


async def page_of(services: FakeServices, path: str = "/", status: int = 200) -> Page:
    reply = await client_of(services).get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "text/html; charset=utf-8")
    page = Page(reply.text)
    check_page(page, reply)
    return page


def check_page(page: Page, reply: httpx.Response) -> None:
    """What holds for every page: well-formed, accessible in the ways a program can see, and closed to the outside."""
    assert page.open == []
    assert page.all("html") == [{"lang": "en"}]
    assert [len(page.all(tag)) for tag in ("h1", "main", "header", "footer", "title", "style")] == [1] * 6
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    labelled = [attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs]
    assert [id for id in labelled if id not in ids] == []
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object", "embed", "base")]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    assert [(attrs["href"] or "").split("?")[0] for attrs in page.all("link")] == ["/feed.rss", "/feed.atom", "/feed.json", "/favicon.svg"]
    style = re.search(r"<style>(.*?)</style>", reply.text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_the_digest_shows_articles_feeds_and_costs() -> None:
    report = {"requests": {"total": 12, "hit_ratio": 0.5}, "cost": {"usage_usd": 0.0018}}
    broken = feed("feed1", title="Broken", state="failing", last_error="connection refused", num_errors=3, next_check_at=1_700_003_600.0)
    services = FakeServices(all_articles=[article("a0"), article("a1")], all_feeds={"feed0": feed(), "feed1": broken}, the_report=report)
    page = await page_of(services)
    for words in (
        "Title a0",
        "Title a1",
        "A short summary.",
        "tiny/model",
        "prompt 1",
        "cache: miss",
        "14 Nov 2023",
        "requests12",
        "50%",
        "$0.0018",
        "Broken failing",
        "connection refused (3 times in a row)",
        "Next: 14 Nov 2023, 23:13 UTC.",
    ):
        assert words in page.words
    assert page.words.index("Title a0") < page.words.index("Title a1")
    assert page.all("a", href="https://example.org/a0") == [{"href": "https://example.org/a0", "rel": "noopener noreferrer nofollow"}]
    assert page.all("time")[0]["datetime"] == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize(
    ("by", "words"), [("person", "paused by a person"), ("both", "paused by a person"), ("config", "paused: left the configuration")]
)
async def test_a_paused_feed_says_who_paused_it(by: PausedBy, words: str) -> None:
    page = await page_of(FakeServices(all_feeds={"feed0": feed(state="paused", paused_by=by)}))
    assert words in " ".join(page.text.split())
    assert "Next:" not in page.text


async def test_the_digest_shows_the_cache_by_model_and_by_feed() -> None:
    age = {"mean_s": 30.0, "p50_s": 20.0, "p95_s": 50.0}
    section = {"total": 4, "hit_ratio": 0.25, "token_hit_ratio": 0.75, "by_outcome": {"join": 1}, "avoided_s": 3.0, "age": age}
    report = {
        "requests": {"total": 4},
        "by_model": {"tiny": section},
        "by_feed": {"feed0": {**section, "stored": {"entries": 9}}, "gone": {}},
    }
    page = await page_of(FakeServices(all_feeds={"feed0": feed()}, the_report=report))
    assert "tiny 4 25% 75% 1 3.00 s 30.0 s (p50 20.0 s, p95 50.0 s)" in page.words
    assert f"{feed().title} 4 25% 75% 1 3.00 s 30.0 s (p50 20.0 s, p95 50.0 s) 9 gone 0" in page.words
    assert [attrs["scope"] for attrs in page.all("th")].count("row") == 3


async def test_the_newest_daily_digests_are_shown_and_those_that_failed_say_why() -> None:
    failed = digest("law", state="failed", text="", reason="out of memory")
    older = digest(date="2026-11-24", text="The day before.")
    services = FakeServices(all_digests=[digest(), digest("ai", text=EVIL), failed, older])
    page = await page_of(services)
    assert "Daily digest, 2026-11-25 All articles What a day. 1 article tiny/model ai" in page.words
    assert "law It could not be written: out of memory. To try again: POST /v1/digests/2026-11-25/retry?tag=law." in page.words
    assert EVIL in page.text
    assert "The day before." not in page.words
    assert "Daily digest" not in (await page_of(services, "/?cursor=1")).words
    assert "Daily digest" not in (await page_of(FakeServices())).words


async def test_until_a_new_digest_is_written_the_last_one_is_shown() -> None:
    services = FakeServices(all_digests=[digest(date="2026-11-26", state="pending", text=""), digest()])
    assert "Daily digest, 2026-11-25" in (await page_of(services)).words
    services.break_part("digests", Unavailable("no database"))
    page = await page_of(services)
    assert "no database" in page.words


async def test_the_password_of_a_feeds_address_is_not_on_the_page() -> None:
    secret = feed(title="", url="https://ann:secret@example.org/feed.xml")
    page = await page_of(FakeServices(all_feeds={"feed0": secret}), "/")
    assert "https://***@example.org/feed.xml" in page.words
    assert page.all("a", href="https://example.org/feed.xml")
    assert "secret" not in page.text


@pytest.mark.parametrize("path", ["/", "/articles/a0"])
async def test_what_others_wrote_stays_text(path: str) -> None:
    evil = article(title=EVIL, link="javascript:alert(3)", author=EVIL, text=EVIL, summary=summary(EVIL))
    evil_feed = feed(title=EVIL, url="javascript:alert(4)", last_error=EVIL)
    services = FakeServices(
        all_articles=[evil], all_feeds={"feed0": evil_feed}, state={"ready": False, "errors": [EVIL], "waiting_for": [EVIL]}
    )
    page = await page_of(services, path)
    assert page.text.count(EVIL) >= 3
    assert not [attrs for attrs in page.all("a") if "script" in (attrs["href"] or "")]


async def test_an_evil_filter_stays_text() -> None:
    page = await page_of(FakeServices(), "/?text=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert page.all("input", name="text")[0]["value"] == '"><script>alert(1)</script>'


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "pending"}, "pending Waiting for its summary."),
        (
            {"state": "pending", "reason": "the model is busy", "attempts": 2, "next_try_at": 1_700_000_000.0},
            "pending the model is busy. 2 tries so far. Next try: 14 Nov 2023, 22:13 UTC.",
        ),
        (
            {"state": "failed", "reason": "the article is too long", "attempts": 1},
            "failed the article is too long. 1 try so far. To try again: POST /v1/articles/a0/retry.",
        ),
        (
            {"state": "skipped", "reason": "12 words, fewer than min_words"},
            "skipped Skipped: 12 words, fewer than min_words. To try again: POST /v1/articles/a0/retry.",
        ),
    ],
)
async def test_an_article_without_summary_says_why(changes: dict[str, Any], words: str) -> None:
    services = FakeServices(all_articles=[article(summary=None, **changes)])
    assert words in (await page_of(services)).words
    assert words in (await page_of(services, "/articles/a0")).words


async def test_the_filter_is_kept_and_reaches_the_graph() -> None:
    services = FakeServices(all_articles=[article(f"a{i}") for i in range(30)], all_feeds={"feed0": feed(), "feed1": feed("feed1")})
    page = await page_of(services, "/?feed=feed1&state=done&text=title&utm_source=mail")
    query = services.queried[0]
    assert (query.feed_id, query.state, query.text, query.limit) == ("feed1", "done", "title", 20)
    assert [attrs.get("value") for attrs in page.all("option") if "selected" in attrs] == ["feed1", None]
    assert page.all("input", name="text")[0]["value"] == "title"
    assert page.all("a", rel="next") == [{"href": "/?feed=feed1&state=done&text=title&cursor=20", "rel": "next"}]
    last = await page_of(services, "/?cursor=20")
    assert last.all("a", rel="next") == []
    assert "Newest" in last.words


async def test_a_wrong_filter_is_a_400_that_says_so_on_the_page() -> None:
    page = await page_of(FakeServices(), "/?state=open", status=400)
    assert "state: " in page.words


@pytest.mark.parametrize(
    ("services", "path", "words"),
    [
        (FakeServices(), "/", "because there are no feeds"),
        (FakeServices(all_feeds={"feed0": feed()}), "/", "They appear here once a feed has been read"),
        (FakeServices(), "/?text=zzz", "No article fits this filter."),
        (FakeServices(state={"ready": False, "waiting_for": ["the model is loading"]}), "/", "Waiting for: the model is loading"),
        (FakeServices(state={"ready": False, "waiting_for": ["the model is loading"]}), "/", "No articles yet: the parts named above"),
    ],
)
async def test_an_empty_page_says_what_is_going_on(services: FakeServices, path: str, words: str) -> None:
    assert words in (await page_of(services, path)).words


async def test_parts_that_are_away_become_notices() -> None:
    services = FakeServices(all_feeds={"feed0": feed()})
    services.break_part("articles", Unavailable("the feeds are starting"))
    services.break_part("report", RuntimeError("the password is xyzzy"))
    page = await page_of(services)
    assert "the feeds are starting" in page.words
    assert "internal error" in page.words
    assert "xyzzy" not in page.words
    assert "Example ok" in page.words


async def test_a_year_that_no_calendar_has_does_not_break_the_page() -> None:
    assert "unknown" in (await page_of(FakeServices(all_articles=[article(published_at=1e18)]))).words


async def test_one_article_shows_its_text_and_what_it_took() -> None:
    page = await page_of(FakeServices(all_articles=[article("a0")], all_feeds={"feed0": feed()}), "/articles/a0")
    for words in ("Title a0", "Example Ada", "Prompt120 tokens, version 1", "Compute0.70 s", "Cost$0.000010 by usage", "First paragraph."):
        assert words in page.words
    assert "has changed since" not in page.words


async def test_an_article_that_changed_since_says_so() -> None:
    page = await page_of(FakeServices(all_articles=[article(text_hash="other")]), "/articles/a0")
    assert "The article has changed since this was written." in page.words


async def test_an_article_that_is_not_there_is_a_page_too() -> None:
    page = await page_of(FakeServices(), "/articles/nope", status=404)
    assert "there is no article nope" in page.words


async def test_the_icon_comes_from_here() -> None:
    reply = await client_of(FakeServices()).get("/favicon.svg")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/svg+xml")


async def test_the_reference_lists_every_operation_and_field() -> None:
    client = client_of(FakeServices())
    schema = (await client.get("/openapi.json")).json()
    page = await page_of(FakeServices(), "/docs")
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in page.words
            assert operation["summary"] in page.words
            assert operation["description"]
            assert "422" not in operation["responses"]
    for name in ("temperature", "max_completion_tokens", "no-cache", "include_usage", "next_cursor"):
        assert name in page.words
    links = [attrs["href"] or "" for attrs in page.all("a") if (attrs["href"] or "").startswith("#")]
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert [link for link in links if link[1:] not in ids] == []
