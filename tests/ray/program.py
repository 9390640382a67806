"""The program as a user starts it: `frugal-serve serve` on a configuration of the test's, watched from outside over HTTP and /proc."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
import psutil
import yaml

from serve_app.program.runfile import RunFile

REPOSITORY = pathlib.Path(__file__).parents[2]
START_S = 600  # the first start on a loaded machine converts and quantises the weights
STOP_S = 15


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config_of(port: int, **user_configs: dict[str, Any]) -> dict[str, Any]:
    """The shipped configuration on another port, with changed `user_config`s."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    for deployment in config["applications"][0]["deployments"]:
        deployment["user_config"].update(user_configs.get(deployment["name"], {}))
    return config


class Program:
    """One run. `folder` holds configuration, data and log, so that a second Program on it is a second start."""

    def __init__(self, folder: pathlib.Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.port = int(config["http_options"]["port"])
        self.url = f"http://127.0.0.1:{self.port}"
        self.path = folder / "serve_config.yaml"
        self.write(config)
        self.environment = {**os.environ, "FRUGAL_DATA_DIR": str(folder / "data"), "FRUGAL_URL": self.url, "RAY_AUTH_MODE": "token"}
        self.http = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, config: dict[str, Any]) -> None:
        self.path.write_text(yaml.safe_dump(config))

    def start(self, profile: str = "auto", within_s: float = START_S) -> None:
        """Start and wait until it is ready."""
        assert self._process is None or self._process.poll() is not None, "this program runs already; stop it first"
        command = [sys.executable, "-m", "serve_app", "serve", str(self.path), "--profile", profile]
        with (self.folder / "out.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        # By its own word first: what a killed run left answers on this port for some seconds, until the new one has ended it.
        self.wait_for(lambda: self.has_started() and self.get("/ready")["ready"], within_s)

    def stop(self, number: int = signal.SIGTERM) -> list[str]:
        """Signal it, wait for its end; the command lines of what is left of it."""
        assert self._process is not None
        family = self.processes()
        self._process.send_signal(number)
        self._process.wait(STOP_S)
        _gone, alive = psutil.wait_procs(family, timeout=1)
        return [" ".join(process.cmdline()) for process in alive]

    def kill_everything(self) -> None:
        """After a failed test: end what this run started."""
        for process in self.processes() if self._process and self._process.poll() is None else []:
            process.kill()

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command in the program's environment."""
        return subprocess.run(
            arguments, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`frugal-serve` with these arguments."""
        return self.run(sys.executable, "-m", "serve_app", *arguments)

    def get(self, path: str, **params: str | int) -> Any:
        return self.http.get(path, params=params).json()

    def ask(self, text: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=question(text, **body), headers=headers)

    def articles(self, **params: str) -> list[dict[str, Any]]:
        """All of them, over all pages."""
        found, cursor = [], ""
        while True:
            page = self.get("/v1/articles", limit=100, **params, **({"cursor": cursor} if cursor else {}))
            found += page["data"]
            if not page["has_more"]:
                return found
            cursor = page["next_cursor"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels over all replicas."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.http.get("/metrics").text.splitlines() if re.match(rf"{name}[ {{]", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))

    @property
    def dashboard(self) -> str:
        """The address of Ray's dashboard, which takes another port where 8265 is taken."""
        found = re.search(r"View the dashboard at \S*?((?:\d+\.){3}\d+:\d+)", (self.folder / "data" / "serve.log").read_text())
        assert found, "Ray did not say where its dashboard is"
        return f"http://{found[1]}"

    def processes(self) -> list[psutil.Process]:
        """The launcher and everything it started."""
        assert self._process is not None
        try:
            launcher = psutil.Process(self._process.pid)
            return [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def named(self, start: str) -> list[psutil.Process]:
        """The processes of this run whose command line begins so; an executable is found by its name too."""
        return [process for process in self.processes() if _title(process).startswith(start) or _name(process) == start]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        return self.named(f"ray::ServeReplica:frugal-serve:{deployment}")

    def has_started(self) -> bool:
        """Whether the launcher lives and has seen its present start ready."""
        run = RunFile(self.folder / "data").read()
        return run is not None and run.ready_at is not None and run.process() is not None

    def wait_for(self, condition: Any, timeout_s: float) -> None:
        """Until the condition holds; a server that does not answer yet does not hold."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if condition():
                    return
            except (httpx.HTTPError, KeyError, ValueError):
                pass
            assert self._process is not None
            log = (self.folder / "out.log").read_text()
            assert self._process.poll() is None, f"the program ended with {self._process.returncode}:\n{log}"
            assert time.monotonic() < deadline, f"not within {timeout_s} s; the program says:\n{log}"
            time.sleep(0.2)


def question(text: str, **body: Any) -> dict[str, Any]:
    """A chat request."""
    messages = [{"role": "user", "content": text}]
    return {"model": "smollm2-135m-instruct", "messages": messages, "max_tokens": 16, "temperature": 0, **body}


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
