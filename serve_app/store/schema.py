"""The tables, as SQLAlchemy Core sees them. A change here needs a migration in store/migrations/versions.

Times are Unix seconds (float). Tests: tests/contract_store/database.py compares this with what the migrations make.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, UniqueConstraint, func

from serve_app.store.columns import CleanString, CleanText, ExactText, Int64, Texts

metadata = MetaData()

answers = Table(
    "answers",
    metadata,
    Column("key", CleanString(64), primary_key=True),
    Column("model", CleanString, nullable=False),
    Column("scope", CleanString, nullable=False),
    Column("feed_id", CleanString, nullable=False),
    Column("digest", CleanString(64), nullable=False),  # SHA-256, see store/answers.py: a torn or foreign row is never served
    Column("size_bytes", Int64, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ttl_s", Float),  # where the request asked for one of its own
    Column("compute_s", Float, nullable=False),  # what a hit saves
    Column("hits", Int64, nullable=False),
    Column("value", Float, nullable=False),  # the lowest goes first, see AnswerStore.evict
    Column("finish", CleanText, nullable=False),  # messages.Finish as JSON, and `logprobs` where they were asked for
    Column("text", ExactText, nullable=False),  # the last one: SQLite reads through a long value to get at what lies behind it
    Index("answers_created_at", "created_at"),
    Index("answers_value", "value", "size_bytes"),  # with the size, so that their sum is read from here and not from the table
)
EXPIRES_AT = answers.c.created_at + answers.c.ttl_s
Index("answers_expires_at", EXPIRES_AT)

answer_clock = Table(  # one row: the value of the last answer that made room
    "answer_clock",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("value", Float, nullable=False),
)

feeds = Table(
    "feeds",
    metadata,
    Column("id", CleanString(16), primary_key=True),  # first 16 hex digits of SHA-256(url)
    Column("url", CleanString, nullable=False, unique=True),
    Column("origin", CleanString, nullable=False),  # config | api
    Column("state", CleanString, nullable=False),  # new | ok | failing | gone | paused
    Column("title", CleanString, nullable=False),
    Column("etag", CleanString),
    Column("last_modified", CleanString),
    Column("last_status", Integer),
    Column("last_error", CleanText),
    Column("num_errors", Integer, nullable=False),
    Column("last_check_at", Float),
    Column("last_success_at", Float),
    Column("next_check_at", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("moved_to", CleanString),  # where requests go instead of `url`, because permanent redirects were proven
    Column("redirect_to", CleanString),  # the permanent redirect that is being proven: so often seen, since then
    Column("redirect_count", Integer),
    Column("redirect_since", Float),
    Column("duplicate_of", CleanString(16)),  # another feed on the list, at which this one's redirects end
    Column("asked_wait_s", Float),  # the document's ttl or syndication period
    Column("skips", CleanString),  # hours and days, as feeds/hints.py writes them
    Column("entry_gap_s", Float),  # usual time between two entries
    Column("newest_at", Float),
    Column("options", CleanText),  # JSON of settings_feeds.FeedOptions; NULL: none
    Column("paused_by", CleanString),  # person | config | both, see store/pausing.py; NULL: not paused
    Index("feeds_next_check_at", "next_check_at"),
)

articles = Table(
    "articles",
    metadata,
    Column("id", CleanString(16), primary_key=True),  # first 16 hex digits of SHA-256(feed id, guid)
    Column("feed_id", CleanString(16), ForeignKey("feeds.id"), nullable=False),
    Column("guid", CleanString, nullable=False),
    Column("link", CleanString, nullable=False),
    Column("title", CleanString, nullable=False),
    Column("author", CleanString, nullable=False),
    Column("published_at", Float),
    Column("first_seen_at", Float, nullable=False),
    Column("text_hash", CleanString(64), nullable=False),  # SHA-256 of the normalised title and text
    Column("state", CleanString, nullable=False),  # pending | done | failed | skipped
    Column("reason", CleanText),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Float),
    Column("updated_at", Float, nullable=False),
    Column("categories", Texts),  # the entry's own
    Column("text", CleanText, nullable=False),  # the last one: SQLite reads through a long value to get at what lies behind it
    UniqueConstraint("feed_id", "guid"),
    Index("articles_state", "state", "next_try_at"),
    Index("articles_feed_state", "feed_id", "state"),  # the counts of the feeds' list
    Index("articles_updated_at", "updated_at"),
    Index("articles_text_hash", "text_hash", "first_seen_at", "id"),  # the first article that had a text
)
SHOWN_AT = func.coalesce(articles.c.published_at, articles.c.first_seen_at)  # what lists are ordered by
Index("articles_shown_at", SHOWN_AT, articles.c.id)

results = Table(
    "results",
    metadata,
    Column("article_id", CleanString(16), ForeignKey("articles.id"), primary_key=True),  # one stored result per article
    Column("text_hash", CleanString(64), nullable=False),  # of the text that it summarises
    Column("summary", CleanText, nullable=False),
    Column("model", CleanString, nullable=False),
    Column("prompt_version", CleanString, nullable=False),
    Column("prompt_template", CleanText, nullable=False),
    Column("cache", CleanString, nullable=False),  # hit | join | miss | bypass
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("compute_s", Float, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("headline", CleanText),
    Column("tags", Texts),
    Column("tags_from", CleanString),  # model | entry | text
    Column("grounding", Float),  # share of the summary's names and numbers that stand in the article
    Column("missing", Texts),  # some of the others
)

pages = Table(  # an article's own page, for feeds with full_text; a row stands for one text of the feed
    "pages",
    metadata,
    Column("article_id", CleanString(16), ForeignKey("articles.id"), primary_key=True),
    Column("state", CleanString, nullable=False),  # wanted: to be read, and until then not summarised | page | feed: which text is used
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Float, nullable=False),
    Column("note", CleanText),  # why it is the feed's
    Column("text", CleanText, nullable=False),
    Index("pages_state", "state", "next_try_at"),
)

websub = Table(  # one subscription per feed whose document names a hub
    "websub",
    metadata,
    Column("feed_id", CleanString(16), ForeignKey("feeds.id"), primary_key=True),
    Column("hub", CleanString, nullable=False),
    Column("topic", CleanString, nullable=False),
    Column("token", CleanString(32), nullable=False),  # of the callback's path
    Column("secret", CleanString(64), nullable=False),  # shared with the hub, which signs with it
    Column("state", CleanString, nullable=False),  # wanted | asked | active | refused
    Column("next_ask_at", Float, nullable=False),
    Column("lease_until", Float),
    Column("last_push_at", Float),
    Column("num_errors", Integer, nullable=False),
    Column("last_error", CleanText),
)

leases = Table(
    "leases",
    metadata,
    Column("name", CleanString, primary_key=True),
    Column("holder", CleanString, nullable=False),
    Column("expires_at", Float, nullable=False),
)

ledger = Table(  # what AnswerCache answered, added up per hour, model, feed, outcome and ending
    "ledger",
    metadata,
    Column("hour", Int64, primary_key=True),  # Unix seconds, floored to the hour
    Column("model", CleanString, primary_key=True),
    Column("feed_id", CleanString, primary_key=True),
    Column("outcome", CleanString, primary_key=True),  # hit | similar | join | miss | bypass | stale | refused | refresh | shadow
    Column("ending", CleanString, primary_key=True),  # stop | length | cancelled | error
    Column("requests", Int64, nullable=False),
    Column("prompt_tokens", Int64, nullable=False),
    Column("completion_tokens", Int64, nullable=False),
    Column("compute_s", Float, nullable=False),  # spent for these requests: zero for hits and joins
    Column("alone_s", Float, nullable=False),  # what the spent part costs one at a time
    Column("avoided_s", Float, nullable=False),  # compute-seconds of the answers that were not made again
    Column("cost_usd", Float, nullable=False),
    Column("latency_s", Float, nullable=False),  # summed over the requests
)

replicas = Table(  # one row per Model replica that ever was, written about once a second while it lives
    "replicas",
    metadata,
    Column("id", CleanString, primary_key=True),
    Column("model", CleanString, nullable=False),
    Column("host", CleanString, nullable=False),
    Column("phase", CleanText, nullable=False),  # what it is doing, in plain words; "ready" once it serves
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
    Column("steps", Int64, nullable=False),
    Column("rows", Int64, nullable=False),  # live rows summed over the steps
    Column("wasted_rows", Int64, nullable=False),  # rows that had ended and were computed all the same
)

similar_questions = Table(  # what the similarity lookup compares with; every AnswerCache replica reads what the others add
    "similar_questions",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=True),  # the order in which they came
    Column("key", CleanString(64), nullable=False, unique=True),  # of the stored answer
    Column("group_key", CleanString(64), nullable=False),  # SHA-256 of everything but the last question's text
    Column("embedding", CleanString(16), nullable=False),  # whose vector it is
    Column("question", ExactText, nullable=False),
    Column("vector", LargeBinary, nullable=False),  # float16, little-endian, of length 1
    sqlite_autoincrement=True,  # an id is never given twice: who has seen it would overlook its second question
)

similar_trials = Table(  # what shadow sampling has found out under one set of settings
    "similar_trials",
    metadata,
    Column("id", CleanString(16), primary_key=True),  # of the settings, see cache/similar/lookup.py
    Column("model", CleanString, nullable=False),
    Column("configured", Float, nullable=False),  # threshold at the beginning
    Column("threshold", Float, nullable=False),  # the one in force; above 1: off
    Column("judged", Int64, nullable=False),  # samples at this threshold, and how many of them were wrong
    Column("wrong", Int64, nullable=False),
    Column("all_judged", Int64, nullable=False),  # the same from the beginning
    Column("all_wrong", Int64, nullable=False),
    Column("updated_at", Float, nullable=False),
)

webhooks = Table(  # how the receivers of `Feeds.user_config.webhooks` do; their addresses and secrets are not here
    "webhooks",
    metadata,
    Column("id", CleanString(16), primary_key=True),  # first 16 hex digits of SHA-256(url)
    Column("shown", CleanString, nullable=False),  # the address without its path
    Column("fingerprint", CleanString(16), nullable=False),  # of its settings
    Column("options", CleanText, nullable=False),  # JSON: events, feeds, tags
    Column("state", CleanString, nullable=False),  # active | disabled | removed
    Column("reason", CleanText),
    Column("num_delivered", Int64, nullable=False),
    Column("num_errors", Int64, nullable=False),  # since the last success
    Column("last_status", Integer),
    Column("last_error", CleanText),
    Column("last_success_at", Float),
    Column("last_failure_at", Float),
)

deliveries = Table(  # what is to be told to them, written with what it tells of; a row goes when its receiver has taken it
    "deliveries",
    metadata,
    Column("id", CleanString(32), primary_key=True),  # webhook-id
    Column("webhook_id", CleanString(16), nullable=False),
    Column("event", CleanString, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Float),  # NULL: given up, a dead letter
    Column("last_status", Integer),
    Column("last_error", CleanText),
    Column("body", CleanText, nullable=False),  # the last one: SQLite reads through a long value to get at what lies behind it
    Index("deliveries_webhook", "webhook_id", "next_try_at"),
)

daily_digests = Table(  # one per day and tag
    "daily_digests",
    metadata,
    Column("date", CleanString(10), primary_key=True),  # of the day on which it is made, in the setting's time zone
    Column("tag", CleanString, primary_key=True),  # "*": all articles
    Column("state", CleanString, nullable=False),  # pending | done | failed | empty
    Column("reason", CleanText),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Float),
    Column("model", CleanString, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("compute_s", Float, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("article_ids", CleanText, nullable=False),  # JSON
    Column("text", CleanText, nullable=False),
)
