"""Shards of AnswerCache come and go: only their share of the keys moves, a key is generated at most twice, and no answer is wrong.

First on Serve's own ring without a server, then on the running program.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

import httpx
import pytest
import yaml
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from serve_app.cache.key import shard_key
from serve_app.cache.shard import AnswerShard
from serve_app.graph import ROUTER
from serve_app.messages import Answer, Ask, Chunk, Generate, Item
from serve_app.settings import AppSettings
from tests.fast.fakes import ask, finish
from tests.fast.fakes_feeds import until
from tests.ray.program import Program, question
from tests.ray.test_a_first_run import deploy

QUESTIONS = [ask(f"question {number}") for number in range(4000)]
DEPLOYMENT = DeploymentID("AnswerCache", "frugal-serve")


def ring(names: Iterable[str]) -> Callable[[Ask], str]:
    """What Serve's router says, configured as the graph does, about which of these replicas answers."""
    router = ConsistentHashRouter.__new__(ConsistentHashRouter)  # without the cluster that its constructor wants
    router._deployment_id = DEPLOYMENT
    router.initialize_state(**ROUTER.request_router_kwargs)
    router._rebuild_ring(frozenset(ReplicaID(name, DEPLOYMENT) for name in names))

    def replica_of(asked: Ask) -> str:
        (replica,) = router._lookup_ranked_replicas(shard_key(asked))  # one: there are no fallbacks
        return str(replica.unique_id)

    return replica_of


@pytest.mark.parametrize("num", [1, 2, 3, 5, 8])
def test_a_shard_that_comes_or_goes_moves_its_share_of_the_keys_and_no_other(num: int) -> None:
    names = [f"replica-{number}" for number in range(num)]
    before, after = ring(names), ring([*names, "new"])
    moved = [asked for asked in QUESTIONS if before(asked) != after(asked)]
    assert {after(asked) for asked in moved} == {"new"}  # and read from right to left: the keys of the one that goes, and no other
    assert 0.6 / (num + 1) < len(moved) / len(QUESTIONS) < 1.5 / (num + 1)


class Cluster:
    """Shards over one store and a model that is held: `finish` lets every generation end."""

    def __init__(self, app: AppSettings, names: Iterable[str]) -> None:
        self.generations: Counter[str] = Counter()
        self._go_on = asyncio.Event()
        self.shards = {name: AnswerShard(app, self._generate, self._fingerprint, self._promote) for name in names}

    def finish(self) -> None:
        self._go_on.set()

    async def until_generating(self, num: int) -> None:
        await until(lambda: self.generations.total() >= num)

    async def close(self) -> None:
        await asyncio.gather(*(shard.stop() for shard in self.shards.values()))

    async def _generate(self, request: Generate) -> AsyncGenerator[Item, None]:
        text = request.messages[-1].content
        self.generations[text] += 1
        await self._go_on.wait()
        yield Chunk(f"answer to {text}", 3)
        yield finish()

    async def _fingerprint(self) -> str:
        return "f" * 64

    async def _promote(self, _request_id: str) -> None: ...


async def test_while_some_see_the_old_shards_and_others_the_new_ones_a_key_is_generated_at_most_twice(tmp_path: pathlib.Path) -> None:
    cluster = Cluster(AppSettings(data_dir=str(tmp_path)), ["a", "b", "c"])
    before, after = ring(["a", "b"]), ring(["a", "b", "c"])
    questions = QUESTIONS[:60]

    def asked(view: Callable[[Ask], str]) -> list[asyncio.Task[Answer]]:
        return [asyncio.create_task(cluster.shards[view(one)].answers.whole(one)) for one in questions for _ in range(3)]

    moved = sum(before(one) != after(one) for one in questions)
    calls = asked(before) + asked(after)
    await cluster.until_generating(len(questions) + moved)
    cluster.finish()
    answers = await asyncio.gather(*calls)
    expected = [f"answer to {one.generate.messages[-1].content}" for one in questions for _ in range(3)]
    assert [answer.text for answer in answers] == expected * 2
    assert Counter(cluster.generations.values()) == {1: len(questions) - moved, 2: moved}
    assert {answer.opening.outcome for answer in await asyncio.gather(*asked(after))} == {"hit"}
    assert cluster.generations.total() == len(questions) + moved
    await cluster.close()


def configured(program: Program, **cache: Any) -> dict[str, Any]:
    """The running configuration with these keys of AnswerCache; nothing is replayed by Ingress, so that every question reaches a shard."""
    config: dict[str, Any] = yaml.safe_load(program.path.read_text())
    entry = next(entry for entry in config["applications"][0]["deployments"] if entry["name"] == "AnswerCache")
    entry.update(cache)
    entry["user_config"] = {**entry["user_config"], "replay_s": 0}
    return config


def outcomes(program: Program, texts: list[str]) -> Counter[str]:
    return Counter(program.ask(text, max_tokens=4).headers["x-cache"] for text in texts)


def by_shard(program: Program) -> dict[str, float]:
    """Questions that each living shard answered."""
    found: dict[str, float] = defaultdict(float)
    for line in program.http.get("/metrics").text.splitlines():
        if line.startswith("frugal_cache_requests_total{") and 'deployment="AnswerCache"' in line:
            found[line.split('replica="')[1].split('"')[0]] += float(line.rsplit(" ", 1)[1])
    return found


async def crowd(program: Program, text: str, num: int) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=num)
    async with httpx.AsyncClient(base_url=program.url, timeout=120, limits=limits, trust_env=False) as client:
        body = question(text, max_tokens=48)
        return list(await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(num))))


def test_two_shards_share_what_is_stored_and_what_is_deleted_is_gone_in_both(program: Program) -> None:
    original = yaml.safe_load(program.path.read_text())
    texts = [f"Shards, number {number}" for number in range(12)]
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: program.wait_for(lambda: program.get("/ready")["ready"], 60))
        stack.callback(deploy, program, original)
        deploy(program, configured(program))
        assert outcomes(program, texts) == {"miss": 12}
        deploy(program, configured(program, num_replicas=2))
        program.wait_for(lambda: len(by_shard(program)) == 2 or (outcomes(program, texts) and False), 60)
        assert outcomes(program, texts) == {"hit": 12}
        assert min(by_shard(program).values()) > 0
        key = program.cli("admin-key", "new", str(program.path)).stdout.strip()
        headers = {"authorization": f"Bearer {key}"}
        reply = program.http.request("DELETE", "/v1/admin/cache/entries", params={"all": "true"}, headers=headers)
        assert (reply.status_code, reply.json()["replicas_told"]) == (200, 3), reply.text
        assert outcomes(program, texts) == {"miss": 12}, "a shard served what was deleted"
        deploy(program, configured(program, num_replicas=1))
        replies = asyncio.run(crowd(program, "While a shard goes", 40))
        assert {reply.status_code for reply in replies} == {200}
        assert len({reply.json()["choices"][0]["message"]["content"] for reply in replies}) == 1
        assert Counter(reply.headers["x-cache"] for reply in replies)["miss"] <= 2
        program.wait_for(lambda: len(by_shard(program)) == 1, 60)
        assert outcomes(program, texts) == {"hit": 12}
