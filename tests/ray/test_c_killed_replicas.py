"""Feeds and Model killed with -9, 20 times, while articles are summarised: none is missing, each has one result, none is wrong."""

from __future__ import annotations

import random
import time

from sqlalchemy import func, select

from serve_app.cache.key import answer_key
from serve_app.feeds.prompt import clean, question
from serve_app.messages import Ask, Generate, Sampling
from serve_app.messages_feeds import Article
from serve_app.settings_feeds import SummaryPrompt
from serve_app.store import article_rows
from serve_app.store.database import Database
from serve_app.store.schema import answers, articles, ledger
from tests.ray.conftest import MAX_IN_FLIGHT, SUMMARY
from tests.ray.feed_server import FeedServer
from tests.ray.program import Program

NUM_KILLS = 20
NUM_ARTICLES = 64
TEXT = (
    "Number {number} of the test articles says that the parcel with the label {number} left the depot at noon, crossed the river by the "
    "northern bridge and reached house {number} before dark, where nobody had ordered it. The neighbours agreed to keep it for a week."
)


def test_20_kills_lose_nothing_and_make_nothing_twice(program: Program, feed_server: FeedServer) -> None:
    choose = random.Random(20)
    publish(feed_server, 0)
    feed = program.http.post("/v1/feeds", json={"url": feed_server.url}).json()["id"]
    program.wait_for(lambda: program.articles(feed=feed, state="done"), 120)
    for number in range(NUM_KILLS):
        if not program.articles(feed=feed, state="pending"):  # a kill while nothing is being done shows nothing
            publish(feed_server, number + 1)
            program.http.post(f"/v1/feeds/{feed}/refresh")
            program.wait_for(lambda: program.articles(feed=feed, state="pending"), 60)
        kill_one(program, "Feeds" if number % 2 else "Model", choose)
    program.wait_for(lambda: len(program.articles(feed=feed, state="done")) == len(feed_server.titles), 300)
    assert sorted(article["title"] for article in program.articles(feed=feed)) == sorted(feed_server.titles)
    check_stored(program, feed, len(feed_server.titles))


def publish(feed_server: FeedServer, volume: int) -> None:
    for number in range(volume * NUM_ARTICLES, (volume + 1) * NUM_ARTICLES):
        feed_server.entry(f"test-{number}", f"Parcel {number}", TEXT.format(number=number), 1_790_000_000 + number * 60)


def kill_one(program: Program, deployment: str, choose: random.Random) -> None:
    """Kill a replica's process at a random moment of its work; its successor must come by itself."""
    program.wait_for(lambda: program.replicas(deployment), 60)
    time.sleep(choose.uniform(0.0, 3.0))  # the random moment is the point of this test
    killed = program.replicas(deployment)
    for process in killed:
        process.kill()
    pids = {process.pid for process in killed}
    program.wait_for(lambda: {process.pid for process in program.replicas(deployment)} - pids, 60)
    program.wait_for(lambda: program.get("/ready")["ready"], 120)


def check_stored(program: Program, feed: str, num_articles: int) -> None:
    """One result per article, each the stored answer to this article's own question; at most what was in flight was made again."""
    database = Database(f"sqlite:///{program.folder}/data/frugal.db")
    card = program.get("/v1/models")["data"][0]
    with database.read() as connection:
        rows = connection.execute(article_rows.select_articles(with_text=True).where(articles.c.feed_id == feed)).all()
        stored = {row["key"]: row for row in connection.execute(select(answers)).mappings()}
        of_feed = ledger.c.feed_id == feed
        generated = connection.scalar(select(func.sum(ledger.c.requests)).where(of_feed, ledger.c.outcome == "miss"))
    assert len(rows) == num_articles
    for article in map(article_rows.article_of, rows):
        answer = stored[answer_key(asked(article, card["id"]), card["fingerprint"])]
        assert article.summary is not None
        assert article.summary.text in (clean(answer["text"], "length"), clean(answer["text"], "stop"))
    assert generated is not None
    assert num_articles <= generated <= num_articles + NUM_KILLS * MAX_IN_FLIGHT


def asked(article: Article, model: str) -> Ask:
    summary = SummaryPrompt.load(SUMMARY)
    sampling = Sampling(max_tokens=summary.max_tokens, frequency_penalty=summary.frequency_penalty)
    return Ask(Generate("", model, sampling, question(article, summary)))
