"""kill -9 of everything the program consists of, under load: it answers again by itself or after a plain new start, and loses nothing."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable

import psutil
import pytest

from serve_app.program import leftovers
from tests.ray.load import Load
from tests.ray.program import Program

ROUNDS = int(
    os.environ.get("FRUGAL_KILLS", "2")
)  # of each part; CI takes 5, which would make `make test` longer than 25 minutes on two cores
RECOVERS_S, STARTS_AGAIN_S = 30, 60  # by itself; where Ray or the whole program is started anew

log = logging.getLogger(__name__)  # pytest -o log_cli=true -o log_cli_level=INFO shows how long each took
Victims = Callable[[Program], list[psutil.Process]]


def named(start: str) -> Victims:
    return lambda program: program.named(start)


def replica(deployment: str) -> Victims:
    return lambda program: program.replicas(deployment)


PARTS: dict[str, tuple[Victims, float]] = {
    "controller": (named("ray::ServeController"), RECOVERS_S),
    "Ingress": (replica("Ingress"), RECOVERS_S),
    "AnswerCache": (replica("AnswerCache"), RECOVERS_S),
    "Feeds": (replica("Feeds"), RECOVERS_S),
    "Model": (replica("Model"), RECOVERS_S),
    "haproxy": (named("haproxy"), RECOVERS_S),
    "HAProxy's manager": (named("ray::HAProxyManager"), RECOVERS_S),
    "Serve's proxy": (named("ray::ProxyActor"), RECOVERS_S),
    "gcs_server": (named("gcs_server"), STARTS_AGAIN_S),
    "raylet": (named("raylet"), STARTS_AGAIN_S),
    "the driver": (lambda program: program.processes()[1:2], STARTS_AGAIN_S),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """Everything that anybody was told, question -> text."""
    return {}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_killed_and_new_questions_are_answered_again(program: Program, answers: dict[str, str], part: str) -> None:
    find, limit_s = PARTS[part]
    took = []
    with Load(program) as load:
        for _ in range(ROUNDS):
            load.wait_for_new_answers(RECOVERS_S)
            # Where the program was started anew, answers come before the launcher has seen it ready; it gives up on starts that die before.
            program.wait_for(lambda: program.has_started() and find(program), limit_s)
            took.append(kill_and_wait(program, load, find, limit_s))
    answers |= load.answers
    log.info("%s: answers again after %s s; meanwhile %s", part, ", ".join(f"{seconds:.1f}" for seconds in took), load.failures)
    program.wait_for(lambda: program.get("/ready")["ready"], STARTS_AGAIN_S)


def test_the_whole_program_is_killed_and_a_new_start_needs_no_manual_step(program: Program, answers: dict[str, str]) -> None:
    with Load(program) as load:
        for number in range(ROUNDS):
            load.wait_for_new_answers(RECOVERS_S)
            family = program.processes()
            kill(family[:1] if number % 2 else family)  # every other time the launcher alone
            psutil.wait_procs(family[:1], timeout=5)
            program.start(within_s=STARTS_AGAIN_S)
            load.wait_for_new_answers(RECOVERS_S)
    answers |= load.answers


def test_nothing_that_was_answered_is_lost_or_different(program: Program, answers: dict[str, str]) -> None:
    assert answers
    chosen = random.Random(1).sample(sorted(answers), min(100, len(answers)))
    again = {text: program.ask(text, max_tokens=4) for text in chosen}
    assert {text: reply.json()["choices"][0]["message"]["content"] for text, reply in again.items()} == {
        text: answers[text] for text in chosen
    }
    assert {reply.headers["x-cache"] for reply in again.values()} == {"hit"}
    assert program.articles(state="failed") == []


def test_after_a_stop_there_is_no_stray_process_and_no_port(program: Program) -> None:
    assert program.stop() == []
    assert leftovers.find(program.folder / "data") == []
    assert [at for at in psutil.net_connections("tcp") if at.status == "LISTEN" and getattr(at.laddr, "port", 0) == program.port] == []
    program.start()


def kill_and_wait(program: Program, load: Load, find: Victims, limit_s: float) -> float:
    """Seconds until a successor is there and a question that was begun after that has been answered."""
    victims, began = find(program), time.monotonic()
    kill(victims)
    program.wait_for(lambda: set(find(program)) - set(victims), limit_s)
    load.wait_for_new_answers(limit_s - (time.monotonic() - began))
    return time.monotonic() - began


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        if process.is_running():
            process.kill()
