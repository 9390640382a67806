"""What a new user sees: the sample articles done, over HTTP and on the page; an unreachable feed with its reason; costs that add up."""

from __future__ import annotations

import html
import pathlib
import socket
import sys

import httpx
import pytest
import yaml

from tests.ray.program import Program, config_of, free_port

NUM_SAMPLE_ARTICLES = 14


def test_every_sample_article_is_done_over_http_and_on_the_page(program: Program) -> None:
    program.wait_for(lambda: not program.articles(state="pending"), 300)
    done = program.articles(state="done")
    assert len(done) == NUM_SAMPLE_ARTICLES
    assert all(article["summary"]["text"].strip() and article["summary"]["model"] == "smollm2-135m-instruct" for article in done)
    page = html.unescape(program.http.get("/", headers={"accept": "text/html"}).text)
    assert [article["title"] for article in done if article["title"] not in page] == []


def test_the_stripe_feed_is_done_or_shown_with_its_reason_and_next_try(program: Program) -> None:
    stripe = next(feed for feed in program.get("/v1/feeds")["data"] if "stripe.com" in feed["url"])
    assert stripe["state"] == "ok" or (stripe["state"] == "failing" and stripe["last_error"] and stripe["next_check_at"])


def test_the_second_identical_question_is_a_hit(program: Program) -> None:
    first, second = program.ask("What is a cache?"), program.ask("What is a cache?")
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.json()["choices"] == second.json()["choices"]
    assert int(second.headers["age"]) >= 0


def test_used_idle_and_start_up_add_up_to_the_replicas_time(program: Program) -> None:
    each = program.get("/v1/report")["replicas"]["each"]
    assert each
    assert [replica for replica in each if abs(replica["unaccounted_s"]) > 0.01 * replica["replica_s"]] == []


def test_a_replicas_time_begins_when_ray_says_that_its_actor_began(program: Program) -> None:
    ray = str(pathlib.Path(sys.executable).parent / "ray")
    token = program.run(ray, "get-auth-token").stdout.strip()
    reply = httpx.get(f"{program.dashboard}/logical/actors", headers={"authorization": f"Bearer {token}"}, trust_env=False)
    actors = [actor for actor in reply.json()["data"]["actors"].values() if actor["actorClass"] == "ServeReplica:frugal-serve:Model"]
    replicas = program.get("/v1/report")["replicas"]["each"]
    assert len(actors) == len(replicas) == 1
    assert abs(actors[0]["startTime"] / 1000 - replicas[0]["started_at"]) < 0.01 * replicas[0]["replica_s"]


def test_metrics_of_all_replicas_are_in_one_place(program: Program) -> None:
    text = program.http.get("/metrics").text
    assert {f'deployment="{name}"' for name in ("Ingress", "AnswerCache", "Model", "Feeds")} <= {
        part for line in text.splitlines() for part in line.replace("{", ",").replace("}", ",").split(",") if part.startswith("deployment=")
    }
    assert program.metric("frugal_articles", state="done") == NUM_SAMPLE_ARTICLES


def test_the_command_line_shows_what_the_server_knows(program: Program) -> None:
    digest = program.cli("digest", "--limit", "100")
    assert digest.returncode == 0, digest.stderr
    assert [article["title"] for article in program.articles(state="done") if article["title"] not in digest.stdout] == []
    assert "allocation (the bill)" in digest.stdout
    answer = program.cli("ask", "What is a cache?", "--max-tokens", "16", "--temperature", "0")
    assert answer.stdout.strip() == program.ask("What is a cache?").json()["choices"][0]["message"]["content"].strip()
    assert "[hit; " in answer.stderr
    assert "sample:" in program.cli("feeds").stdout


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (
            "/v1/chat/completions",
            {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "word " * 9000}]},
            400,
            "messages",
        ),
        ("/v1/chat/completions", {"model": "gpt-9", "messages": [{"role": "user", "content": "hi"}]}, 404, "smollm2-135m-instruct"),
        ("/v1/chat/completions", {"model": "smollm2-135m-instruct", "messages": "hi"}, 400, "messages"),
        ("/v1/feeds", {"url": "ftp://example.com/feed"}, 400, "http"),
        ("/v1/feeds", {"url": "sample:"}, 409, "already"),
    ],
)
def test_bad_input_names_the_field_and_the_remedy(program: Program, path: str, body: object, status: int, said: str) -> None:
    reply = program.http.post(path, json=body)
    assert (reply.status_code, said in reply.text) == (status, True), reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert program.http.get("/health").status_code == 200


def test_a_web_page_as_a_feed_is_shown_as_failing_with_the_reason(program: Program) -> None:
    added = program.http.post("/v1/feeds", json={"url": f"{program.url}/"})
    assert added.status_code == 201, added.text
    program.wait_for(lambda: program_feed(program, added.json()["id"])["state"] == "failing", 60)
    assert "web page" in program_feed(program, added.json()["id"])["last_error"]
    assert program.http.delete(f"/v1/feeds/{added.json()['id']}").status_code == 204


def test_the_command_line_tries_pauses_and_carries_feeds(program: Program, tmp_path: pathlib.Path) -> None:
    page = program.cli("feeds", "check", f"{program.url}/")
    assert (page.returncode, "this is a web page, not a feed" in " ".join(page.stdout.split())) == (1, True), page.stderr
    paused = program.cli("feeds", "pause", "sample:")
    assert "paused: by a person" in paused.stdout, paused.stderr
    refused = program.cli("feeds", "refresh", "sample:")
    assert (refused.returncode, "paused by a person" in refused.stderr) == (2, True)
    assert "paused:" not in program.cli("feeds", "resume", "sample:").stdout
    assert program.cli("feeds", "export", str(tmp_path / "feeds.opml")).returncode == 0
    assert program.cli("feeds", "import", str(tmp_path / "feeds.opml")).stdout == "0 added, 1 already there, 0 refused\n"


def program_feed(program: Program, feed_id: str) -> dict[str, str]:
    return next(feed for feed in program.get("/v1/feeds")["data"] if feed["id"] == feed_id)


def test_a_bad_change_at_run_time_keeps_the_old_settings_and_shows_the_error(program: Program) -> None:
    original = program.path.read_text()
    bad = yaml.safe_load(original)
    for deployment in bad["applications"][0]["deployments"]:
        if deployment["name"] in ("Model", "Feeds"):
            deployment["user_config"]["max_things"] = 4
    deploy(program, bad)
    shown = {f"{name}.user_config.max_things: unknown key" for name in ("Model", "Feeds")}
    program.wait_for(lambda: shown <= {error.split(";")[0] for error in program.get("/ready")["errors"]}, 60)
    assert program.ask("Does it still answer?", {"cache-control": "no-cache"}).status_code == 200

    replica = program.replicas("Feeds")[0]  # a successor has no old settings of its own, and takes those of the one that was killed
    replica.kill()
    program.wait_for(lambda: [process.pid for process in program.replicas("Feeds")] not in ([], [replica.pid]), 60)
    program.wait_for(lambda: program.metric("frugal_feeds_lease_held") == 1, 60)
    assert shown <= {error.split(";")[0] for error in program.get("/ready")["errors"]}
    deploy(program, yaml.safe_load(original))
    program.wait_for(lambda: program.get("/ready") == {"ready": True, "waiting_for": [], "errors": []}, 60)


def deploy(program: Program, config: dict[str, object]) -> None:
    """`serve deploy`, as a user would from a second terminal."""
    path = program.folder / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    serve = str(pathlib.Path(sys.executable).parent / "serve")
    done = program.run(serve, "deploy", "-a", program.dashboard, str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_taken_port_is_said_plainly(tmp_path: pathlib.Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = Program(tmp_path, config_of(taken.getsockname()[1]))
        refused = other.cli("serve", str(other.path))
    assert refused.returncode == 2
    assert "stop the program that has it, or set another http_options.port" in refused.stderr


def test_a_model_that_is_not_there_ends_the_start_with_what_to_do(tmp_path: pathlib.Path) -> None:
    config = config_of(free_port())
    config["applications"][0]["args"]["model"]["source"] = "package:no_such_package/model.gguf"
    other = Program(tmp_path, config)
    done = other.run(sys.executable, "-m", "serve_app", "serve", str(other.path), timeout=180)
    assert done.returncode == 2
    assert "pip install" in done.stderr
    with pytest.raises(httpx.ConnectError):
        other.http.get("/health")
