"""The sender of the webhooks' outbox: signs, posts, tries again, gives up. Standard Webhooks (https://www.standardwebhooks.com).

    outbox row --due--> claimed --POST--> 2xx: row gone | 410: webhook disabled | else: due again, after about a day dead

At least once: after a crash a message may come a second time, under the same `webhook-id`. Order is not promised. Each receiver has slots
of its own, so one that is slow or dead delays no other. Tests: tests/fast/test_feeds_webhooks.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.errors import FetchError
from serve_app.feeds.slots import Slots
from serve_app.metrics import Metrics
from serve_app.settings_webhooks import Webhook, signing_keys
from serve_app.store.webhooks import Delivery, WebhookStore

log = logging.getLogger(__name__)

DELAYS_S = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 28_800.0, 28_800.0)  # after each failed try; 23.6 hours together
JITTER = 0.1  # of a delay, either way
MAX_RETRY_AFTER_S = 86_400.0
CLAIM_S = 60.0  # far more than a request may take
PER_WEBHOOK = 2  # messages on their way to one receiver
IDLE_WAIT_S = 2.0
MAX_REST_S = 30.0
SYNC_S = 3600.0  # between two looks for what is too old to be kept


@dataclass(frozen=True, slots=True)
class Posted:
    """A receiver's answer: its status and what its Retry-After asks for."""

    status: int
    retry_after_s: float | None = None


class Post(Protocol):
    """See webhook_post.Poster."""

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        """Raises FetchError where there is no answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a message after a try; with `again`, in so many seconds."""

    kind: Literal["done", "again", "dead", "gone"]
    again_s: float = 0.0


def verdict(posted: Posted | None, attempts: int, jitter: float) -> Verdict:
    """Decide. `attempts` counts the tries before this one, `jitter` is from 0 to 1, `posted` None where no answer came."""
    if posted is not None and 200 <= posted.status < 300:
        return Verdict("done")
    if posted is not None and posted.status == 410:
        return Verdict("gone")
    if attempts >= len(DELAYS_S):
        return Verdict("dead")
    delay_s = DELAYS_S[attempts] * (1 - JITTER + 2 * JITTER * jitter)
    asked_s = posted.retry_after_s if posted is not None and posted.retry_after_s else 0.0
    return Verdict("again", max(delay_s, min(asked_s, MAX_RETRY_AFTER_S)))


def rest_s(num_failed: int) -> float:
    """How long a receiver is left in peace after so many failed tries in a row: one that is down is not asked for each message at once."""
    return min(2.0 ** min(max(num_failed - 1, 0), 10), MAX_REST_S)


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_headers(keys: Sequence[bytes], message_id: str, now: float, body: bytes) -> dict[str, str]:
    """What goes with a message, signed with each key. The timestamp is that of the try, which receivers compare with their clocks."""
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(signature(key, message_id, int(now), body) for key in keys),
    }


class Deliverer:
    """Sends for one holder of the lease. `jitter` draws from 0 to 1; `environment` holds the secrets that settings name."""

    def __init__(
        self,
        store: WebhookStore,
        post: Post,
        metrics: Metrics,
        holder: str,
        now: Callable[[], float],
        *,
        jitter: Callable[[], float] = random.random,
        environment: Mapping[str, str] = os.environ,
        idle_wait_s: float = IDLE_WAIT_S,
    ) -> None:
        self._store = store
        self._post = post
        self._metrics = metrics
        self._holder = holder
        self._now = now
        self._jitter = jitter
        self._environment = environment
        self._idle_wait_s = idle_wait_s
        self._webhooks: tuple[Webhook, ...] = ()
        self._sync_at = float("-inf")
        self._tell_at = float("-inf")
        self._failed: dict[str, tuple[int, float]] = {}  # per webhook: failed tries in a row, and until when it is left in peace
        self._woken = asyncio.Event()

    def reconfigure(self, webhooks: tuple[Webhook, ...]) -> None:
        """Send to these from now on."""
        self._webhooks = webhooks
        self._sync_at = float("-inf")
        self.wake()

    def wake(self) -> None:
        """Look into the outbox now: a person has asked for something, so nobody is left in peace any more."""
        self._failed.clear()
        self._woken.set()

    async def run(self) -> None:
        """Send what is due, for ever.

        Raises:
            LeaseLost: another replica sends now.
        """
        self._sync_at = float("-inf")
        slots = Slots(self._woken.set)
        try:
            while True:
                slots.check()
                if self._now() >= self._sync_at:
                    self._sync_at = self._now() + SYNC_S  # before the wait, in which other settings may come
                    await asyncio.to_thread(self._store.sync, self._holder, self._webhooks, self._now())
                for webhook in self._webhooks:
                    await self._start(webhook, slots)
                await self._tell_how_many()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_wait_s):
                        await self._woken.wait()
                self._woken.clear()
        finally:
            await slots.cancel()

    async def _start(self, webhook: Webhook, slots: Slots) -> None:
        running = [key for key in slots.keys if key.startswith(webhook.id)]
        free = PER_WEBHOOK - len(running)
        if free <= 0 or self._now() < self._failed.get(webhook.id, (0, 0.0))[1]:
            return
        sent = [key.partition(" ")[2] for key in running]
        for delivery in await asyncio.to_thread(self._store.due, webhook.id, self._now(), free, sent):
            key = f"{webhook.id} {delivery.id}"
            if key not in slots:
                slots.start(key, self._deliver(webhook, delivery))

    async def _deliver(self, webhook: Webhook, delivery: Delivery) -> None:
        if not await asyncio.to_thread(self._store.claim, self._holder, delivery.id, self._now() + CLAIM_S):
            return
        posted, why = await self._try(webhook, delivery)
        found, now = verdict(posted, delivery.attempts, self._jitter()), self._now()
        status = None if posted is None else posted.status
        self._metrics.inc("frugal_webhook_tries_total", result=found.kind)
        if found.kind == "done":
            assert status is not None
            self._failed.pop(webhook.id, None)
            await asyncio.to_thread(self._store.delivered, self._holder, delivery, status, now)
            return
        num_failed = self._failed.get(webhook.id, (0, 0.0))[0] + 1
        self._failed[webhook.id] = (num_failed, now + rest_s(num_failed))
        log.warning("webhook %s (%s): %s was not delivered: %s", webhook.id, webhook.shown, delivery.id, why)
        again_at = now + found.again_s if found.kind == "again" else None
        await asyncio.to_thread(self._store.failed, self._holder, delivery, why, status, again_at, now)
        if found.kind == "gone":
            await asyncio.to_thread(self._store.disable, self._holder, webhook.id, "the receiver says that it is gone (410)")

    async def _try(self, webhook: Webhook, delivery: Delivery) -> tuple[Posted | None, str]:
        """The answer, or none, and why it is no success."""
        try:
            keys = self._keys(webhook)
            body = delivery.body.encode("utf-8", "replace")
            posted = await self._post(webhook.url, body, signed_headers(keys, delivery.id, self._now(), body))
        except FetchError as error:
            return None, error.message
        except Exception as error:
            log.exception("webhook %s (%s): sending failed", webhook.id, webhook.shown)
            return None, f"internal error ({type(error).__name__}); the log has the cause"
        if 300 <= posted.status < 400:
            return posted, f"it answered with a redirect ({posted.status}), which is not followed; put the final address here"
        return posted, f"it answered with status {posted.status}"

    def _keys(self, webhook: Webhook) -> tuple[bytes, ...]:
        if webhook.secret is not None:
            return signing_keys(webhook.secret)
        name = webhook.secret_env or ""
        secret = self._environment.get(name)
        if not secret:
            raise FetchError(f"the variable {name} is not set where Feeds runs; set it and start again")
        try:
            return signing_keys(secret)
        except ValueError as error:
            raise FetchError(f"the variable {name} {error}") from None

    async def _tell_how_many(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._webhooks or now < self._tell_at:
            return
        self._tell_at = now + self._idle_wait_s  # counting takes as long as many messages wait
        health = await asyncio.to_thread(self._store.health)
        self._metrics.set("frugal_webhook_messages", sum(one.pending for one in health), state="pending")
        self._metrics.set("frugal_webhook_messages", sum(one.dead for one in health), state="dead")
