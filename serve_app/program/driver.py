"""The child of the launcher that holds Ray: starts Ray and Serve, deploys the configuration, says what happens, and ends all in order.

What it says are JSON lines on a pipe; what Ray prints goes to the log. It stops on SIGTERM or SIGINT, and when the launcher dies: no more
questions or summaries, what runs gets `drain_s` seconds, what is left then gets a proper error, then Serve and Ray end.
With graph.py and handles.py the only file that imports Ray (and config_file.py its schema). Tests: tests/ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from typing import Any, TextIO

from serve_app.errors import ConfigError
from serve_app.program.child import LAUNCHER
from serve_app.program.haproxy import signal_at_parents_death

APPLICATION_POLL_S = 0.3
GIVE_UP_WAIT_S = 2.0  # from the error that ends a stream to the last byte of it
BROADCAST_S = 1.5  # for an answer to a question at a stop
DRAIN_POLL_S = 0.1
DRAIN_UNKNOWN_S = 2.0  # where no Ingress replica says how long
FAILED = "DEPLOY_FAILED"  # not UNHEALTHY, which passes


class Driver:
    """One Ray and one Serve. `say` writes an event: `refused`, `ray`, `serve`, `failed` or `draining`."""

    def __init__(self, path: pathlib.Path, events: TextIO) -> None:
        self._path = path
        self._events = events
        self._stop = threading.Event()
        self._name = ""
        self._deployed = False

    def run(self) -> int:
        """Until a signal comes; the exit status."""
        from serve_app.config_file import IMPORT_PATH, load_config

        try:
            checked = load_config(self._path)
        except ConfigError as error:
            self.say("refused", problems=error.problems)
            return 2
        self._name = next(entry["name"] for entry in checked.data["applications"] if entry["import_path"] == IMPORT_PATH)
        try:
            self._start(checked.data)
            self._wait_for_application()
            self._stop.wait()
        except Exception as error:
            if not self._stop.is_set():
                self.say("failed", message=f"{type(error).__name__}: {error}")
                raise
        finally:
            self._end()
        return 0

    def say(self, kind: str, **values: Any) -> None:
        """Tell the launcher; where it is gone there is nobody to tell."""
        with contextlib.suppress(OSError, ValueError):
            self._events.write(json.dumps({"kind": kind, **values}) + "\n")
            self._events.flush()

    def stop(self, *_: object) -> None:
        """Signal handler."""
        self._stop.set()

    def _start(self, data: dict[str, Any]) -> None:
        import ray
        from ray.serve._private.api import serve_start
        from ray.serve.config import gRPCOptions
        from ray.serve.schema import ServeDeploySchema

        config = ServeDeploySchema.model_validate(data)
        self._leave_if_asked()
        context = ray.init(address="local", namespace="serve")
        self._listen_for_signals()  # Ray has put its own handler there, which ends everything at once
        self.say("ray", dashboard=context.dashboard_url, session=context.address_info["session_dir"])
        self._leave_if_asked()
        client = serve_start(
            http_options=config.http_options.model_dump(),
            proxy_location=config.proxy_location,
            grpc_options=gRPCOptions(**config.grpc_options.model_dump()),
            controller_options=config.controller_options,
        )
        self.say("serve")
        self._leave_if_asked()
        self._deployed = True
        client.deploy_apps(config, _blocking=False)

    def _listen_for_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)

    def _leave_if_asked(self) -> None:
        if self._stop.is_set():
            raise InterruptedError("a signal came during the start")

    def _wait_for_application(self) -> None:
        """Until it runs. A failure is said as it is seen: Serve tries again by itself, the launcher decides what it means."""
        from ray import serve

        told: set[str] = set()
        while not self._stop.wait(APPLICATION_POLL_S):
            application = serve.status().applications.get(self._name)
            if application is None or application.status != FAILED:
                if application is not None and application.status == "RUNNING":
                    return
                continue
            for name, deployment in application.deployments.items():
                if deployment.status == FAILED and name not in told:
                    told.add(name)
                    self.say("failed", deployment=name, message=deployment.message)
            if not application.deployments and "" not in told:
                told.add("")
                self.say("failed", message=application.message)

    def _end(self) -> None:
        import ray

        if ray.is_initialized():
            asyncio.run(self._end_serve())
            ray.shutdown()

    async def _end_serve(self) -> None:
        """On one event loop: the throughput settings have no handles without one, and their ends belong to the loop of their beginnings."""
        from ray import serve

        for step in (self._drain, serve.shutdown_async) if self._deployed else (serve.shutdown_async,):
            try:
                await step()
            except Exception:  # what does not answer any more is ended with Ray all the same
                traceback.print_exc()

    async def _drain(self) -> None:
        from ray import serve

        ingress, answers, feeds = (serve.get_deployment_handle(name, self._name) for name in ("Ingress", "AnswerCache", "Feeds"))
        limits = await _asked(ingress, "refuse_new")
        await asyncio.gather(
            _asked(feeds, "rest"),
            _asked(answers, "settings_error"),  # so that the handle knows its replicas when the time is short
        )
        await self._wait_for_requests(ingress, time.monotonic() + max(limits, default=DRAIN_UNKNOWN_S))
        await _asked(answers, "give_up")
        await self._wait_for_requests(ingress, time.monotonic() + GIVE_UP_WAIT_S)

    async def _wait_for_requests(self, ingress: Any, until: float) -> None:
        """Until every replica says that nobody waits for an answer, or the time is over."""
        told = 0
        while time.monotonic() < until:
            counts = await _asked(ingress, "num_running")
            running = int(sum(counts))
            if counts and not running:
                return
            if running and running != told:
                told = running
                self.say("draining", running=running)
            await asyncio.sleep(DRAIN_POLL_S)


async def _asked(handle: Any, method: str) -> list[float]:
    """The numbers that the replicas answered in time; one that dies or is slow must not keep the others from their end."""
    try:
        answers = await handle.broadcast(method).results_async(timeout_s=BROADCAST_S, return_exceptions=True)
    except Exception as error:
        answers = [error]
    for failed in answers:
        if isinstance(failed, Exception):
            print(f"{method}: {type(failed).__name__}: {failed}", file=sys.stderr)  # noqa: T201 (the log)
    return [answer for answer in answers if isinstance(answer, int | float)]


def leave_with_parent(launcher: int) -> None:
    """Where the launcher is killed, end in order (on Linux; elsewhere `frugal-serve stop` finds what is left)."""
    signal_at_parents_death(signal.SIGTERM)
    if os.getppid() != launcher:  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)


def main(path: str, events: str) -> int:
    """`path` of the configuration, `events` the number of the pipe's end."""
    with os.fdopen(int(events), "w", encoding="utf-8") as pipe:
        driver = Driver(pathlib.Path(path), pipe)
        driver._listen_for_signals()
        leave_with_parent(int(os.environ[LAUNCHER]))
        return driver.run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
