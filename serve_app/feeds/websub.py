"""WebSub, the subscriber's side (https://www.w3.org/TR/websub/): a hub tells us when a feed has something new.

    a check finds a hub --> wanted --POST--> asked --GET, challenge--> active --renewed in time--> active
                                                                          +--> POST with a signature: new entries

Polling goes on beside it, at max_interval_s while a subscription is active and as ever while it is not.
Tests: tests/fast/test_feeds_websub.py.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serve_app.errors import FetchError, NotFound
from serve_app.feed_url import MAX_FEED_URL
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.websub import Subscription, SubscriptionStore

log = logging.getLogger(__name__)

LEASE_S = 10 * 86_400  # what is asked for; the hub decides
MIN_LEASE_S, MAX_LEASE_S = 300.0, 366 * 86_400.0
RENEW_AT = 0.8  # of a lease
VERIFY_S = 3600.0  # a hub that took the request and never came back is asked again after this
MAX_RETRY_S = 86_400.0
MAX_CHALLENGE = 2_000  # characters
MAX_REASON = 500
Post = Callable[[str, Mapping[str, str]], Awaitable[int]]
METHODS = ("sha1", "sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class Verification:
    """The `hub.*` parameters of a hub's GET."""

    mode: str
    topic: str
    challenge: str = ""
    lease_s: str = ""
    reason: str = ""


def is_signed(secret: str, body: bytes, signature: str) -> bool:
    """True where `X-Hub-Signature: method=hex` is the HMAC of this body, by any of the four methods; compared in constant time."""
    method, _, digest = signature.strip().partition("=")
    if method.lower() not in METHODS or not digest.isascii():
        return False
    return hmac.compare_digest(hmac.new(secret.encode(), body, method.lower()).hexdigest(), digest.lower())


def wanted(known: Subscription | None, feed_id: str, hub: str | None, topic: str | None, now: float) -> Subscription | None:
    """The subscription to store for what a document advertises now; `known` where nothing changes, None where there is no hub."""
    if not hub or not topic or max(len(hub), len(topic)) > MAX_FEED_URL or not hub.startswith(("http://", "https://")):
        return None
    if known is not None and (known.hub, known.topic) == (hub, topic):
        return known
    return Subscription(feed_id, hub, topic, secrets.token_hex(16), secrets.token_hex(32), "wanted", now)


def callback(base: str, subscription: Subscription) -> str:
    """Where the hub finds us."""
    return f"{base.rstrip('/')}/v1/websub/{subscription.feed_id}/{subscription.token}"


def form(base: str, subscription: Subscription) -> dict[str, str]:
    """The subscription request."""
    return {
        "hub.mode": "subscribe",
        "hub.topic": subscription.topic,
        "hub.callback": callback(base, subscription),
        "hub.lease_seconds": str(LEASE_S),
        "hub.secret": subscription.secret,
    }


class Subscriber:
    """Asks hubs, and checks what they send. `post` sends a form; see Fetcher.post, whose guards hold for hubs, too."""

    def __init__(self, store: SubscriptionStore, post: Post, now: Callable[[], float]) -> None:
        self._store = store
        self._post = post
        self._now = now

    def advertised(self, feed_id: str, hub: str | None, topic: str | None) -> None:
        """A check has found this hub in a feed, or none. Blocks."""
        known = self._store.get(feed_id)
        found = wanted(known, feed_id, hub, topic, self._now())
        if found is None and known is not None:
            self._store.remove(feed_id)
        elif found is not None and found is not known:
            self._store.put(found)

    def is_pushed(self, feed_id: str) -> bool:
        """True while a hub has promised to tell. Blocks."""
        found = self._store.get(feed_id)
        return found is not None and found.state == "active" and (found.lease_until or 0) > self._now()

    async def ask(self, settings: FeedsSettings) -> None:
        """Ask every hub whose time has come, for the first time or to renew; what fails is tried again later."""
        if settings.websub_callback_url is None:
            return
        for subscription in await asyncio.to_thread(self._store.due, self._now()):
            await self._ask(subscription, settings.websub_callback_url)

    async def _ask(self, subscription: Subscription, base: str) -> None:
        keep = {} if subscription.state == "active" else {"state": "asked"}  # a renewal changes nothing until the hub confirms it
        # Before the request, because the hub may come back while it still runs.
        await asyncio.to_thread(self._store.change, subscription, next_ask_at=self._now() + VERIFY_S, **keep)
        try:
            await self._post(subscription.hub, form(base, subscription))
        except FetchError as error:
            num_errors = subscription.num_errors + 1
            later = self._now() + min(VERIFY_S * 2.0 ** min(num_errors - 1, 30), MAX_RETRY_S)
            failure = {"num_errors": num_errors, "last_error": error.message, "next_ask_at": later}
            await asyncio.to_thread(self._store.change, subscription, **failure)
            log.warning("feed %s: its hub cannot be asked: %s", subscription.feed_id, error.message)

    def verified(self, feed_id: str, token: str, asked: Verification) -> str:
        """The challenge to send back to a hub that asks whether we meant it. Blocks.

        Raises:
            NotFound: we did not.
        """
        found = self._known(feed_id, token)
        if asked.topic != found.topic or len(asked.challenge) > MAX_CHALLENGE:
            raise NotFound("no subscription to this topic is wanted here")
        now = self._now()
        if asked.mode == "denied":
            reason = asked.reason[:MAX_REASON] or "the hub refused the subscription"
            self._store.change(found, state="refused", last_error=reason, next_ask_at=now + MAX_RETRY_S)
            return ""
        if asked.mode != "subscribe" or not asked.challenge:
            raise NotFound("nobody wants to unsubscribe here")
        lease_s = _lease_s(asked.lease_s)
        again_at = now + RENEW_AT * lease_s
        self._store.change(found, state="active", lease_until=now + lease_s, next_ask_at=again_at, num_errors=0, last_error=None)
        return asked.challenge

    def accepts(self, feed_id: str, token: str, body: bytes, signature: str) -> bool:
        """True for content that the hub has signed. Anything else is answered as if it had been accepted, and dropped. Blocks.

        Raises:
            NotFound: there is no such subscription.
        """
        found = self._known(feed_id, token)
        if not is_signed(found.secret, body, signature):
            log.warning("feed %s: content without its hub's signature was dropped", feed_id)
            return False
        self._store.change(found, last_push_at=self._now())
        return True

    def _known(self, feed_id: str, token: str) -> Subscription:
        found = self._store.get(feed_id)
        if found is None or not hmac.compare_digest(found.token.encode(), token.encode("utf-8", "replace")):
            raise NotFound("there is no such subscription")
        return found


def _lease_s(text: str) -> float:
    """What the hub grants, within reason; what we asked for where it does not say."""
    granted_s = float(text) if text.isascii() and text.isdigit() and len(text) < 12 else float(LEASE_S)
    return min(max(granted_s, MIN_LEASE_S), MAX_LEASE_S)
