"""Stored answers in Valkey or Redis, for a cluster: what AnswerStore promises over SQL, on a server that all shards share.

One round trip per lookup; sums, limits and eviction are steps inside the server (valkey_scripts.py). The server may be shared with other
programs: only keys below PREFIX are touched, and never by KEYS or FLUSH. It must not evict by itself among keys without an expiry
(`maxmemory-policy noeviction` or `volatile-*`), or the sums drift. One server or one primary with replicas, not a sharded cluster: all keys
share one slot. Tests: tests/contract_store/answers.py, tests/valkey.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import valkey
from valkey.backoff import NoBackoff
from valkey.exceptions import ConnectionError as Disconnected
from valkey.exceptions import ResponseError
from valkey.retry import Retry

from serve_app.answers_url import shown_url
from serve_app.messages import Selection
from serve_app.store import valkey_scripts as scripts
from serve_app.store.answer_lines import from_blob, to_blob
from serve_app.store.answers import EVICT_TO, Entry, Group, Place, StoredAnswer, Totals, every

log = logging.getLogger(__name__)

PREFIX = "{frugal-serve}:1:"  # 1: the layout; braces: one slot
ENTRY_BYTES = 1100  # of an entry beside its blob, as the server's used_memory tells: hash, sorted sets, sizes
STEP = 500  # entries per round trip of a list, and per script, so that the server stands still for a millisecond and not for a second


class ValkeyAnswers:
    """Answers on the server at `url` (valkey://, redis://, valkeys://, rediss://). All calls block, for at most about twice `timeout_s`,
    and raise valkey's errors; the first connection is made by the first call. `on_corrupt`: as for AnswerStore.
    """

    def __init__(self, url: str, timeout_s: float, on_corrupt: Callable[[], None] = lambda: None) -> None:
        # One retry, without waiting: a server that was restarted has left the pool full of dead connections.
        retry = Retry(NoBackoff(), 1, (Disconnected,))
        options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "socket_keepalive": True}
        self._client: Any = valkey.Valkey.from_url(url, retry=retry, retry_on_error=[Disconnected], client_name="frugal-serve", **options)
        self._on_corrupt = on_corrupt
        self._shown = shown_url(url)
        self._num_evicted = 0  # by puts since the last `evict`
        self._warned = False
        names = ("PUT", "DELETE", "DROP_BEFORE", "MAKE_ROOM", "NOTE_HITS")
        self._scripts = {name: self._client.register_script(getattr(scripts, name)) for name in names}

    def get(self, key: str) -> StoredAnswer | None:
        """See AnswerStore."""
        try:
            blob = self._client.hget(f"{PREFIX}answer:{key}", "blob")
            if blob is None:
                return None
            answer = from_blob(blob)
            if answer.key == key:
                return answer
            why: object = f"it is the answer {answer.key}"
        except ValueError as error:
            why = error
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            why = error
        log.warning("the stored answer %s is not served, but deleted, and counts as a miss: %s", key, why)
        self._on_corrupt()
        self._drop([key])
        return None

    def put(self, answer: StoredAnswer, *, only_newer: bool = False) -> bool:
        """See AnswerStore. What makes room, where there is none, goes in the same step."""
        blob = to_blob(answer)
        created_at, ttl_s = float(answer.created_at), answer.ttl_s
        ttl, expires_at = ("", "") if ttl_s is None else (repr(float(ttl_s)), repr(created_at + ttl_s))
        numbers = [len(blob) + ENTRY_BYTES, repr(float(answer.finish.compute_s)), repr(created_at), expires_at]
        names = [_clean(answer.model), _clean(answer.feed_id)]
        stored, evicted = self._run("PUT", answer.key, blob, *numbers, *names, ttl, "1" if only_newer else "")
        self._num_evicted += int(evicted)
        return bool(stored)

    def delete(self, selection: Selection) -> int:
        """See AnswerStore."""
        return self._drop([entry.key for entry in every(self.page, selection, STEP)])

    def totals(self) -> Totals:
        """See AnswerStore."""
        entries, size = self._client.pipeline(transaction=False).hlen(f"{PREFIX}sizes").get(f"{PREFIX}bytes").execute()
        return Totals(int(entries), int(size or 0))

    def groups(self) -> list[Group]:
        """See AnswerStore."""
        sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        for entry in every(self.page, Selection(), STEP):
            found = sums[entry.model, entry.feed_id]
            found[0], found[1], found[2] = found[0] + 1, found[1] + entry.size_bytes, found[2] + entry.hits
        groups = [Group(model, feed_id, *numbers) for (model, feed_id), numbers in sums.items()]
        return sorted(groups, key=lambda group: (-group.size_bytes, group.model, group.feed_id))

    def page(self, selection: Selection, limit: int, after: Place | None = None) -> list[Entry]:
        """See AnswerStore."""
        entries = self._newest(selection.created_before, after) if selection.key is None else self._one(selection.key, after)
        return list(islice((entry for entry in entries if _holds(entry, selection)), limit))

    def note_hits(self, hits: Mapping[str, int]) -> None:
        """See AnswerStore."""
        for some in _in_steps(list(hits.items())):
            self._run("NOTE_HITS", *[word for pair in some for word in pair])

    def evict(self, max_bytes: int, older_than: float, expired_before: float = 0.0) -> int:
        """See AnswerStore. From now on, puts of all shards keep to `max_bytes`, too."""
        self._warn_of_eviction()
        self._client.set(f"{PREFIX}limit", int(max_bytes))
        gone, self._num_evicted = self._num_evicted, 0
        for index, bound in (("created", older_than), ("expires", expired_before)):
            gone += self._again("DROP_BEFORE", index, repr(float(bound)))
        if self.totals().size_bytes > max_bytes:
            gone += self._again("MAKE_ROOM", int(max_bytes * EVICT_TO))
        return gone

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _run(self, name: str, *words: Any) -> Any:
        return self._scripts[name](args=[PREFIX, *words])

    def _again(self, name: str, *words: Any) -> int:
        """A script that does STEP entries at a time, until it finds fewer."""
        total = 0
        while True:
            gone = int(self._run(name, *words, STEP))
            total += gone
            if gone < STEP:
                return total

    def _drop(self, keys: list[str]) -> int:
        return sum(int(self._run("DELETE", *some)) for some in _in_steps(keys))

    def _one(self, key: str, after: Place | None) -> Iterator[Entry]:
        created_at = self._client.zscore(f"{PREFIX}created", key)
        if created_at is not None and (after is None or (created_at, key) < after):
            yield from self._entries([(key, created_at)])

    def _newest(self, before: float | None, after: Place | None) -> Iterator[Entry]:
        """Entries from the newest on, behind a place."""
        most: str = "+inf" if before is None else f"({before!r}"
        if after is not None and (before is None or after[0] < before):
            most = repr(after[0])
        offset = 0
        while found := self._client.zrevrangebyscore(f"{PREFIX}created", most, "-inf", start=offset, num=STEP, withscores=True):
            offset += len(found)
            places = [(key.decode(), created_at) for key, created_at in found]
            yield from self._entries([place for place in places if after is None or (place[1], place[0]) < after])

    def _entries(self, places: list[tuple[str, float]]) -> Iterator[Entry]:
        pipeline = self._client.pipeline(transaction=False)
        for key, _created_at in places:
            pipeline.hmget(f"{PREFIX}answer:{key}", "model", "feed_id", "ttl_s", "compute_s", "hits")
            pipeline.hget(f"{PREFIX}sizes", key)
            pipeline.zscore(f"{PREFIX}value", key)
        replies = pipeline.execute(raise_on_error=False)
        for (key, created_at), fields, size, value in zip(places, replies[::3], replies[1::3], replies[2::3], strict=True):
            if isinstance(fields, list) and None not in (*fields, size, value):  # else it has just gone, or is none of ours
                model, feed_id, ttl_s, compute_s, hits = (field.decode("utf-8", "replace") for field in fields)
                ttl = float(ttl_s) if ttl_s else None
                yield Entry(key, model, feed_id, created_at, ttl, int(size), float(compute_s), int(hits), float(value))

    def _warn_of_eviction(self) -> None:
        """Once: of a server that throws our entries away by itself."""
        policy = str(self._client.info("memory").get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and not self._warned:
            log.warning("%s has maxmemory-policy %s and may evict by itself; set it to noeviction or volatile-lru", self._shown, policy)
            self._warned = True


def _holds(entry: Entry, selection: Selection) -> bool:
    return (
        selection.model in (None, entry.model)
        and selection.feed_id in (None, entry.feed_id)
        and (selection.created_before is None or entry.created_at < selection.created_before)
    )


def _in_steps(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), STEP):
        yield items[start : start + STEP]


def _clean(name: str) -> bytes:
    return name.encode("utf-8", "replace")
