"""What the server said reads well in a terminal, and nothing that a feed or a model wrote steers it."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app import costs, render
from serve_app.metrics import Metrics
from serve_app.store.answers import Group
from serve_app.store.ledger import LedgerRow, ReplicaRow

EVIL = "Big\x1b[2J\x1b]0;owned\x07 news\r\n\x9b31m\u202edlrow"
TAMED = "Big [2J ]0;owned  news   31m dlrow"


def article(**changes: Any) -> dict[str, Any]:
    plain = {
        "title": "A title",
        "link": "https://example.org/a",
        "state": "done",
        "reason": None,
        "summary": {"text": "A short summary."},
    }
    return {**plain, **changes}


def feed(**changes: Any) -> dict[str, Any]:
    plain = {
        "id": "feed0",
        "state": "ok",
        "title": "Example",
        "url": "https://example.org/feed.xml",
        "num_articles": {"done": 3, "pending": 1, "failed": 0},
        "last_error": None,
        "paused_by": None,
        "next_check_at": 1_700_003_600.0,
    }
    return {**plain, **changes}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], ""),
        ([article()], "A title\n  https://example.org/a\n  A short summary."),
        ([article(link="")], "A title\n  A short summary."),
        ([article(summary=None, state="pending")], "A title\n  https://example.org/a\n  [pending]"),
        ([article(summary=None, state="failed", reason="too long")], "A title\n  https://example.org/a\n  [failed: too long]"),
        ([article(link=""), article(title="B", link="")], "A title\n  A short summary.\n\nB\n  A short summary."),
    ],
)
def test_a_digest_has_one_block_per_article(found: list[dict[str, Any]], text: str) -> None:
    assert render.digest(found) == text


def test_a_long_summary_is_wrapped_and_indented() -> None:
    lines = render.digest([article(summary={"text": "word " * 60})]).splitlines()[2:]
    assert len(lines) == 4
    assert all(line.startswith("  word") and len(line) <= 100 for line in lines)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            feed(),
            "feed0  ok       Example\n  https://example.org/feed.xml\n  articles: 3 done, 1 pending\n  next check: 2023-11-14 23:13:20 UTC",
        ),
        (
            feed(title="", num_articles={}, state="new", next_check_at=None),
            "feed0  new      https://example.org/feed.xml\n  articles: none yet\n  next check: -",
        ),
        (
            feed(state="failing", last_error="404 Not Found", next_check_at="2026-01-01T00:00:00Z"),
            "feed0  failing  Example\n  https://example.org/feed.xml\n  articles: 3 done, 1 pending\n  last check failed: 404 Not Found\n"
            "  next check: 2026-01-01T00:00:00Z",
        ),
    ],
)
def test_a_feed_says_how_it_is(found: dict[str, Any], text: str) -> None:
    assert render.feeds([found]) == text


def test_control_characters_of_a_feed_never_reach_the_terminal() -> None:
    shown = [
        render.digest([article(title=EVIL, link=EVIL, summary={"text": EVIL})]),
        render.digest([article(title=EVIL, summary=None, state="failed", reason=EVIL)]),
        render.feeds([feed(title=EVIL, url=EVIL, last_error=EVIL)]),
        render.feeds([feed(title="", url=EVIL)]),
    ]
    for text in shown:
        assert TAMED in text or "Big [2J" in text
        assert all(char.isprintable() or char == "\n" for char in text)
    assert shown[0].splitlines()[0] == TAMED


def test_a_models_words_keep_their_lines_and_lose_their_control_characters() -> None:
    assert render.spoken("one\n\ttwo\x1b[2J\r\x07 ni\u200cm 👩\u200d💻\u202e") == "one\n\ttwo [2J   ni\u200cm 👩\u200d💻 "


def test_the_report_of_nothing_shows_dashes() -> None:
    assert render.report(costs.report([], [], [], 0.0)) == (
        "requests  0 (none); hit ratio -\n"
        "tokens    0 prompt, 0 completion\n"
        "latency   nothing answered yet\n"
        "batching  - rows per step, - of the rows wasted\n"
        "compute   0.0 s spent, 0.0 s of it on answers that were given up\n"
        "answers   0.0 s; one at a time they would have taken 0.0 s\n"
        "avoided   0.0 s by caching, 0.0 s by batching\n"
        "cache     - of the tokens reused; 0 evicted\n"
        "replicas  0 s = 0 used + 0 idle + 0 start-up\n"
        "cost      $0.000000 allocation (the bill), $0.000000 usage (the work)\n"
        "          - per 1,000 requests, allocation\n"
        "          - per 1M completion tokens, allocation"
    )


@pytest.mark.parametrize(("last_seen_at", "unaccounted"), [(190.0, ""), (195.0, " + 5 unaccounted")])
def test_the_report_shows_every_figure_with_its_unit(last_seen_at: float, unaccounted: str) -> None:
    metrics = Metrics()
    for outcome, seconds in (("miss", 2.0), ("hit", 0.002)):
        metrics.observe("frugal_cache_answer_seconds", seconds, outcome=outcome)
    metrics.observe("frugal_cache_age_seconds", 30.0, model="tiny", feed="")
    metrics.inc("frugal_cache_evictions_total", 3)
    rows = [
        LedgerRow(7200, "tiny", "", "miss", "stop", 3, 300, 60, 4.0, 10.0, 0.0, 0.002, 6.0),
        LedgerRow(7200, "tiny", "", "hit", "stop", 1, 100, 20, 0.0, 0.0, 2.0, 0.0, 0.002),
    ]
    lived = last_seen_at - 100
    replica = ReplicaRow(
        "one", "tiny", "host", "ready", 100.0, last_seen_at, None, 20.0, 30.0, 40.0, 5.0, 3.6, 0.03, lived / 1000, 10, 30, 10
    )
    data = costs.report(rows, [replica], [metrics.snapshot("AnswerCache", "one")], 200.0, [Group("tiny", "", 7, 1_500_000, 0)])
    assert render.report(data) == (
        "requests  4 (1 hit, 3 miss); hit ratio 25%\n"
        "tokens    400 prompt, 80 completion\n"
        "latency   hit p50 2 ms, p95 2 ms; miss p50 1.8 s, p95 2.4 s\n"
        "batching  3.0 rows per step, 25% of the rows wasted\n"
        "compute   30.0 s spent, 5.0 s of it on answers that were given up\n"
        "answers   4.0 s; one at a time they would have taken 10.0 s\n"
        "avoided   2.0 s by caching, 6.0 s by batching\n"
        "cache     25% of the tokens reused; age when served p50 20.0 s, p95 29.0 s; 7 stored, 1.5 MB; 3 evicted\n"
        f"replicas  {lived:.0f} s = 30 used + 40 idle + 20 start-up{unaccounted}\n"
        f"cost      ${lived / 1000:.4f} allocation (the bill), $0.0300 usage (the work)\n"
        f"          ${lived / 4:.4f} per 1,000 requests, allocation\n"
        f"          ${lived * 1000 / 80:.4f} per 1M completion tokens, allocation"
    )


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"ready": True, "waiting_for": [], "errors": []}, "ready"),
        ({"ready": True, "waiting_for": [], "errors": ["bad setting"]}, "ready\nerror: bad setting"),
        ({"ready": False, "waiting_for": ["the model"], "errors": ["broken"]}, "waiting for the model\nerror: broken"),
    ],
)
def test_readiness_in_lines(state: dict[str, Any], text: str) -> None:
    assert render.ready(state) == text


def test_a_trial_check_is_a_table_with_the_headers_that_matter() -> None:
    steps = [
        {"name": "address", "ok": True, "text": "fine", "details": {"feed_id": None}},
        {"name": "request", "ok": False, "text": f"GET https://example.org/{'x' * 120}", "details": {"headers": {"ETag": EVIL}}},
    ]
    first, *rest = render.probe({"steps": steps, "feeds": ["https://example.org/feed"]}).splitlines()
    assert first == "  address  fine"
    assert (rest[0], rest[1].strip(), rest[-1]) == (
        "! request  GET",
        f"https://example.org/{'x' * 120}",
        "  try      https://example.org/feed",
    )
    assert rest[2].startswith("           ETag: ")
    assert all(char.isprintable() for line in rest for char in line)
