"""The tables, as SQLAlchemy Core sees them. A change here needs a migration in store/migrations/versions.

Times are Unix seconds (float). Tests: tests/fast/test_database.py compares this with what the migrations make.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, UniqueConstraint, func

metadata = MetaData()

answers = Table(
    "answers",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("model", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("feed_id", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("finish", Text, nullable=False),  # messages.Finish as JSON
    Column("digest", String(64), nullable=False),  # SHA-256 over key, text and finish: a torn or foreign row is never served
    Column("size_bytes", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("answers_created_at", "created_at"),
)

feeds = Table(
    "feeds",
    metadata,
    Column("id", String(16), primary_key=True),  # first 16 hex digits of SHA-256(url)
    Column("url", String, nullable=False, unique=True),
    Column("origin", String, nullable=False),  # config | api
    Column("state", String, nullable=False),  # new | ok | failing | gone | paused
    Column("title", String, nullable=False),
    Column("etag", String),
    Column("last_modified", String),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("num_errors", Integer, nullable=False),
    Column("last_check_at", Float),
    Column("last_success_at", Float),
    Column("next_check_at", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("feeds_next_check_at", "next_check_at"),
)

articles = Table(
    "articles",
    metadata,
    Column("id", String(16), primary_key=True),  # first 16 hex digits of SHA-256(feed id, guid)
    Column("feed_id", String(16), ForeignKey("feeds.id"), nullable=False),
    Column("guid", String, nullable=False),
    Column("link", String, nullable=False),
    Column("title", String, nullable=False),
    Column("author", String, nullable=False),
    Column("published_at", Float),
    Column("first_seen_at", Float, nullable=False),
    Column("text_hash", String(64), nullable=False),  # SHA-256 of the normalised title and text
    Column("state", String, nullable=False),  # pending | done | failed | skipped
    Column("reason", Text),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Float),
    Column("updated_at", Float, nullable=False),
    Column("text", Text, nullable=False),  # the last one: SQLite reads through a long value to get at what lies behind it
    UniqueConstraint("feed_id", "guid"),
    Index("articles_state", "state", "next_try_at"),
    Index("articles_feed_state", "feed_id", "state"),  # the counts of the feeds' list
    Index("articles_updated_at", "updated_at"),
)
SHOWN_AT = func.coalesce(articles.c.published_at, articles.c.first_seen_at)  # what lists are ordered by
Index("articles_shown_at", SHOWN_AT, articles.c.id)

results = Table(
    "results",
    metadata,
    Column("article_id", String(16), ForeignKey("articles.id"), primary_key=True),  # one stored result per article
    Column("text_hash", String(64), nullable=False),  # of the text that it summarises
    Column("summary", Text, nullable=False),
    Column("model", String, nullable=False),
    Column("prompt_version", String, nullable=False),
    Column("prompt_template", Text, nullable=False),
    Column("cache", String, nullable=False),  # hit | join | miss | bypass
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("compute_s", Float, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("created_at", Float, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("expires_at", Float, nullable=False),
)

ledger = Table(  # what AnswerCache answered, added up per hour, model, feed, outcome and ending
    "ledger",
    metadata,
    Column("hour", Integer, primary_key=True),  # Unix seconds, floored to the hour
    Column("model", String, primary_key=True),
    Column("feed_id", String, primary_key=True),
    Column("outcome", String, primary_key=True),  # hit | join | miss | bypass | refused
    Column("ending", String, primary_key=True),  # stop | length | cancelled | error
    Column("requests", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("compute_s", Float, nullable=False),  # spent for these requests: zero for hits and joins
    Column("alone_s", Float, nullable=False),  # what the spent part costs one at a time
    Column("avoided_s", Float, nullable=False),  # compute-seconds of the answers that were not made again
    Column("cost_usd", Float, nullable=False),
    Column("latency_s", Float, nullable=False),  # summed over the requests
)

replicas = Table(  # one row per Model replica that ever was, written about once a second while it lives
    "replicas",
    metadata,
    Column("id", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("host", String, nullable=False),
    Column("phase", Text, nullable=False),  # what it is doing, in plain words; "ready" once it serves
    Column("started_at", Float, nullable=False),  # the actor's start
    Column("last_seen_at", Float, nullable=False),
    Column("stopped_at", Float),
    Column("startup_s", Float, nullable=False),
    Column("used_s", Float, nullable=False),
    Column("idle_s", Float, nullable=False),
    Column("lost_s", Float, nullable=False),  # the part of used_s that went into rows that were cancelled or failed
    Column("price_per_hour_usd", Float, nullable=False),
    Column("cost_usd", Float, nullable=False),  # of used_s, each second at the price of its time
    Column("allocation_usd", Float, nullable=False),  # of the replica's whole time, likewise
    Column("steps", Integer, nullable=False),
    Column("rows", Integer, nullable=False),  # live rows summed over the steps
    Column("wasted_rows", Integer, nullable=False),  # rows that had ended and were computed all the same
)
