"""`user_config` of AnswerCache. What the freshness settings do together: docs/cache.md. Tests: tests/fast/test_settings.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.settings_base import Seconds, Settings
from serve_app.settings_similar import SimilarSettings


class CacheSettings(Settings):
    """`user_config` of AnswerCache."""

    ttl_s: Seconds = Field(30 * 24 * 3600, gt=0, description="an answer older than this is made again")
    ttl_s_by_model: dict[str, Annotated[Seconds, Field(gt=0)]] = Field({}, description="the same for single models, by their id")
    # Off, because ttl_s is a promise until somebody says otherwise; and the same weights would say the same again.
    stale_while_revalidate_s: Seconds = Field(
        0, ge=0, description="so long beyond its time to live an answer is served all the same, while a new one is made in the background"
    )
    max_stale_s: Seconds = Field(
        3600, ge=0, description="so long beyond its time to live an answer is kept for requests that accept a stale one (max-stale)"
    )
    negative_ttl_s: Seconds = Field(
        5, ge=0, le=300, description="so long a refusal that depends on the request alone is remembered, for clients that try again; 0: not"
    )
    max_bytes: int = Field(256_000_000, ge=1_000_000, description="stored answers; those that save least go first")
    memory_bytes: int = Field(64_000_000, ge=0, description="of the hottest answers in each replica's memory, before the store; 0: none")
    memory_ttl_s: Seconds = Field(
        60, gt=0, description="so long the memory is believed before it asks the store again, whatever else a replica failed to hear"
    )
    store_timeout_s: Seconds = Field(2, gt=0, le=60, description="a store that takes longer counts as down, and the question as a miss")
    replay_s: Seconds = Field(
        10, ge=0, le=3600, description="so long Ingress may replay an answer without asking again; also how late it sees a removal"
    )
    sampled: Literal["never", "always"] = Field("never", description="cache answers drawn at temperature > 0 without a seed")
    finish_abandoned: bool = Field(False, description="finish and store an answer that nobody waits for any more")
    max_in_flight: int = Field(512, ge=1, description="generations at once; more are refused with a 429")
    similar: SimilarSettings = SimilarSettings()
