"""Pure: what the server said, as text for a terminal. Tests: tests/fast/test_render.py."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

MAX_WIDTH = 100
PAUSED_BY = {
    "person": "by a person; `frugal-serve feeds resume` lets it go on",
    "config": "the configuration names it no more",
    "both": "by a person, and the configuration names it no more",
}


def digest(articles: Iterable[dict[str, Any]]) -> str:
    """Titles, links and summaries, one block per article."""
    return "\n\n".join("\n".join(_article(article)) for article in articles)


def _article(article: dict[str, Any]) -> Iterator[str]:
    yield _plain(article["title"])
    if article["link"]:
        yield f"  {_plain(article['link'])}"
    summary = article.get("summary")
    if summary:
        yield _wrapped(_plain(summary["text"]))
        yield from _digest(summary)
    else:
        reason = f": {_plain(article['reason'])}" if article.get("reason") else ""
        yield f"  [{article['state']}{reason}]"


def _digest(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary.get("tags"):
        yield f"  [{', '.join(map(_plain, summary['tags']))}]"
    if summary.get("missing"):
        yield _wrapped(f"not in the article: {', '.join(map(_plain, summary['missing']))}")


def rerun(data: dict[str, Any]) -> str:
    """What a rerun would cost, or that it began."""
    if not data["dry_run"]:
        return f"{_counted(data['num_articles'], 'article')} pending"
    if not data["num_articles"]:
        return "no article fits"
    lines = [f"{_counted(data['num_articles'], 'article')}, {_counted(data['num_calls'], 'call')} of the model"]
    if data["num_same"]:
        lines.append(f"  {data['num_same']} of them have a summary of this prompt and model, free while its answer is stored")
    if (expected := data["expected"]) is None:
        lines.append("  nothing is known yet of what a call takes")
    else:
        tokens = f"{expected['prompt_tokens']:,} + {expected['completion_tokens']:,} tokens"
        lines.append(
            f"  at the averages until now: {tokens}, {expected['compute_s']:.1f} compute-seconds, {_usd(expected['cost_usd'])} by usage"
        )
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def feeds(found: Iterable[dict[str, Any]]) -> str:
    """One block per feed: its id, state and address, how many articles, what went wrong and when it is checked again."""
    return "\n\n".join("\n".join(_feed(feed)) for feed in found)


def _feed(feed: dict[str, Any]) -> Iterator[str]:
    yield f"{feed['id']}  {feed['state']:<8} {_plain(feed['title'] or feed['url'])}"
    if feed["title"]:
        yield f"  {_plain(feed['url'])}"
    counts = ", ".join(f"{count} {state}" for state, count in feed["num_articles"].items() if count)
    yield f"  articles: {counts or 'none yet'}"
    if feed["paused_by"]:
        yield f"  paused: {PAUSED_BY[feed['paused_by']]}"
    if feed["last_error"]:
        yield _wrapped(f"last check failed: {_plain(feed['last_error'])}")
    if feed.get("note"):  # a server of before has none
        yield _wrapped(f"note: {_plain(feed['note'])}")
    if feed["state"] not in ("paused", "gone"):
        yield f"  next check: {_time(feed['next_check_at'])}"


def imported_feeds(told: dict[str, Any]) -> str:
    """What became of a file of feeds: how many, and why some are refused."""
    lines = [f"{told['added']} added, {told['already_there']} already there, {told['refused']} refused"]
    refused = [entry for entry in told["entries"] if entry["result"] == "refused"]
    lines += [_wrapped(f"{_plain(entry['title'] or '(no title)')} {_plain(entry['url'])}: {_plain(entry['reason'])}") for entry in refused]
    return "\n".join(lines)


def probe(found: dict[str, Any]) -> str:
    """The steps of a trial check as a table, each request with the headers that matter; `!` marks a step that went wrong. Below it the
    feeds that a web page names."""
    width = max(len(step["name"]) for step in found["steps"])
    lines: list[str] = []
    for step in found["steps"]:
        lines.append(f"{' ' if step['ok'] else '!'} {step['name']:<{width}}  {_plain(step['text'])}")
        lines += [f"  {'':<{width}}  {name}: {_plain(value)}" for name, value in step["details"].get("headers", {}).items()]
    lines += [f"  {'try':<{width}}  {_plain(feed)}" for feed in found["feeds"]]
    # An address is copied from here, so none is broken.
    wrapper = textwrap.TextWrapper(_width(), subsequent_indent=" " * (width + 4), break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrapper.fill, lines))


def report(data: dict[str, Any]) -> str:
    """Costs and performance, one line per figure."""
    requests, compute, cost, time = data["requests"], data["compute"], data["cost"], data["replicas"]["total"]
    batching, latency = data["batching"], data["latency"]["by_outcome"]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(requests["by_outcome"].items()))
    lines = [
        ("requests", f"{requests['total']} ({outcomes or 'none'}); hit ratio {_share(requests['hit_ratio'])}"),
        ("tokens", f"{data['tokens']['prompt']} prompt, {data['tokens']['completion']} completion"),
        ("latency", _latency(latency)),
        ("batching", f"{_number(batching['rows_per_step'])} rows per step, {_share(batching['wasted_row_share'])} of the rows wasted"),
        ("compute", f"{compute['spent_s']:.1f} s spent, {compute['lost_s']:.1f} s of it on answers that were given up"),
        ("answers", f"{compute['attributed_s']:.1f} s; one at a time they would have taken {compute['one_at_a_time_s']:.1f} s"),
        ("avoided", f"{compute['avoided_by_cache_s']:.1f} s by caching, {compute['avoided_by_batching_s']:.1f} s by batching"),
        ("cache", _cached(data)),
        (
            "replicas",
            f"{time['replica_s']:.0f} s = {time['used_s']:.0f} used + {time['idle_s']:.0f} idle + {time['startup_s']:.0f} start-up"
            + (f" + {time['unaccounted_s']:.0f} unaccounted" if abs(time["unaccounted_s"]) >= 0.5 else ""),
        ),
        ("cost", f"{_usd(cost['allocation_usd'])} allocation (the bill), {_usd(cost['usage_usd'])} usage (the work)"),
        ("", f"{_usd(cost['allocation_usd_per_1k_requests'])} per 1,000 requests, allocation"),
        ("", f"{_usd(cost['allocation_usd_per_1m_completion_tokens'])} per 1M completion tokens, allocation"),
    ]
    return "\n".join(f"{name:<10}{text}" for name, text in lines)


def model(data: dict[str, Any]) -> list[str]:
    """What is loaded, and what is particular about it on this machine."""
    size = "" if data["weights_bytes"] is None else f", {data['weights_bytes'] / 1e6:.0f} MB"
    lines = [f"model {data['id']}: {data['quantization']}, computed in {data['dtype']} on {data['device']}{size}"]
    return lines + [f"note: {note}" for note in data["notes"]]


def ready(data: dict[str, Any]) -> str:
    """What /ready says, in lines."""
    lines = ["ready"] if data["ready"] else [f"waiting for {item}" for item in data["waiting_for"]]
    return "\n".join(lines + [f"error: {error}" for error in data["errors"]])


def status(data: dict[str, Any]) -> str:
    """What `serve_status.state` found: readiness, then a line per deployment, replica and model."""
    lines = [ready(data)]
    for deployment in data["deployments"] or []:
        replicas = deployment["replicas"]
        lines.append(f"{deployment['name']:<12} {deployment['status'].lower():<12} {len(replicas)} of {deployment['target']} replicas")
        lines += [f"  {replica['id']}  {replica['state'].lower():<10} process {replica['pid'] or '-'}" for replica in replicas]
        if deployment["message"] and deployment["status"] != "HEALTHY":
            lines.append(_wrapped(_plain(deployment["message"])))
    if data["models"]:
        lines.append("model replicas")
        lines += [_model_replica(replica) for replica in data["models"]]
    return "\n".join(lines)


def _model_replica(replica: dict[str, Any]) -> str:
    seconds = f"{replica['startup_s']:.0f} s start-up, {replica['used_s']:.0f} s used, {replica['idle_s']:.0f} s idle"
    return f"  {replica['id']}  {_plain(replica['phase'])}; {seconds}"


def spoken(text: str) -> str:
    """A model's words: they keep their lines and joined characters, and steer the terminal no more than a feed does."""
    return "".join(char if char.isprintable() or char in "\n\t\u200c\u200d" else " " for char in text)


def _cached(data: dict[str, Any]) -> str:
    age, stored = data["requests"]["age"], data["requests"]["stored"]
    parts = [
        f"{_share(data['requests']['token_hit_ratio'])} of the tokens reused",
        f"age when served p50 {_seconds(age['p50_s'])}, p95 {_seconds(age['p95_s'])}" if age["mean_s"] is not None else "",
        f"{stored['entries']} stored, {stored['size_bytes'] / 1e6:.1f} MB" if stored["entries"] is not None else "",
        f"{data['cache']['evictions']} evicted",
    ]
    return "; ".join(part for part in parts if part)


def _latency(by_outcome: dict[str, dict[str, float | None]]) -> str:
    parts = [
        f"{outcome} p50 {_seconds(found['p50_s'])}, p95 {_seconds(found['p95_s'])}"
        for outcome, found in sorted(by_outcome.items())
        if found["p50_s"] is not None
    ]
    return "; ".join(parts) or "nothing answered yet"


def _width() -> int:
    return min(MAX_WIDTH, shutil.get_terminal_size().columns)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _width(), initial_indent="  ", subsequent_indent="  ")


def stored_answer(entry: dict[str, Any]) -> str:
    """What is known about a stored answer, and its text."""
    tokens = f"{entry['prompt_tokens']} + {entry['completion_tokens']} tokens, ended by {entry['finish_reason']}"
    return f"{_stored(entry)}\n  {tokens}\n\n{spoken(entry['text'])}"


def stored_answers(totals: dict[str, Any], entries: Iterable[dict[str, Any]]) -> str:
    """How much is stored, by model and feed, and a block per answer."""
    lines = [f"{totals['entries']} answers, {totals['size_bytes']:,} bytes"]
    for group in totals["groups"]:
        feed = f", feed {_plain(group['feed_id'])}" if group["feed_id"] else ""
        lines.append(f"  {group['entries']} of {_plain(group['model'])}{feed}: {group['size_bytes']:,} bytes, {group['hits']} hits")
    return "\n\n".join(["\n".join(lines), *map(_stored, entries)])


def _stored(entry: dict[str, Any]) -> str:
    made = datetime.fromtimestamp(entry["created_at"], UTC).isoformat(" ", "seconds")
    of = _plain(entry["model"]) + (f", feed {_plain(entry['feed_id'])}" if entry["feed_id"] else "")
    ttl = "" if entry["ttl_s"] is None else f", for {entry['ttl_s']:g} s"
    worth = f"{entry['hits']} hits, each saves {entry['compute_s']:.2f} compute-seconds"
    return f"{entry['key']}\n  {of}; made {made}{ttl}; {entry['size_bytes']:,} bytes; {worth}"


def warmed(result: dict[str, Any]) -> str:
    """What became of one line of requests."""
    if "error" in result:
        return f"line {result['line']}: {_plain(result['error']['message'])}"
    return f"line {result['line']}: {result['cache']} {result['key']}"


def _plain(text: str) -> str:
    """Without control characters: a feed must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _time(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _usd(value: float | None) -> str:
    return "-" if value is None else f"${value:.6f}" if value < 0.01 else f"${value:.4f}"
