"""The daily digests as feeds that other readers follow: /digest.rss, /digest.atom, /digest.json.

To syndicate.py a digest is an article without a feed, whose link is our own page. Tests: tests/fast/test_api_published_digests.py.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Query as InQuery
from pydantic import Field

from serve_app.api import examples, syndicate
from serve_app.api.dependencies import Graph
from serve_app.api.fields import Query
from serve_app.api.published import FORMATS, Write, add_route, address, base_of, given, reply
from serve_app.messages_feeds import Article, DailyDigest, DailyQuery, Summary
from serve_app.settings_daily import ALL

router = APIRouter()


class DigestFeedParams(Query):
    """Query string of the published daily digests."""

    tag: str | None = Field(None, max_length=100, description="a tag of digest.tags in the configuration, or * for those of all articles")
    limit: int = Field(50, ge=1, le=200, description="a whole number from 1 to 200")


def as_article(digest: DailyDigest, link: str) -> Article:
    """A digest that is done, as what syndicate.py writes. Its id never changes: there is one per date and tag."""
    at = digest.updated_at
    took = (digest.prompt_tokens, digest.completion_tokens, digest.compute_s, digest.cost_usd, at)
    tags = () if digest.tag == ALL else (digest.tag,)
    summary = Summary(digest.text, digest.model, "", "", "", "miss", *took, tags=tags)
    name, title = f"digest {digest.date} {digest.tag}", f"{'All articles' if digest.tag == ALL else digest.tag}, {digest.date}"
    return Article(name, "", name, link, title, "", at, at, at, "", "", "done", summary=summary)


def _add(path: str, kind: str, media_type: str, write: Write) -> None:
    async def published(query: Annotated[DigestFeedParams, InQuery()], request: Request, services: Graph) -> Response:
        """The newest daily digests, of all tags or of one, each an entry of its own."""
        page = await services.digests(DailyQuery(query.tag, query.limit, state="done"))
        base = base_of(request, services)
        home = address(base, "/", ())
        names = ["Frugal Serve", "daily digest", *([query.tag] if query.tag else [])]
        channel = syndicate.Channel(
            " · ".join(names), home, address(base, path, given(query)), (("kind", "digest"), ("tag", query.tag or ""))
        )
        articles = [as_article(digest, home) for digest in page.digests]
        return reply(request, write(channel, articles, {}), media_type, syndicate.updated_at(articles))

    add_route(router, path, published, media_type, f"daily {kind}", f"The daily digests as {kind}", {400: examples.BAD})


for _ending, _kind, _media_type, _write in FORMATS:
    _add(f"/digest.{_ending}", _kind, _media_type, _write)
