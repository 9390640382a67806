"""It ends cleanly, starts again, and goes on where it was. Last, because it stops the program that the other tests share."""

from __future__ import annotations

import signal
from typing import Any

import httpx
import psutil
import pytest

from tests.ray.program import Program


def test_ctrl_c_leaves_no_process_and_no_port_and_a_second_start_knows_everything(program: Program) -> None:
    answered = program.ask("What survives a restart?")
    done = {article["id"]: article["summary"]["text"] for article in program.articles(state="done")}
    assert program.stop(signal.SIGINT) == []
    with pytest.raises(httpx.ConnectError):
        program.http.get("/health")
    assert [connection for connection in psutil.net_connections("tcp") if listens_on(connection, program.port)] == []

    program.start()
    again = program.ask("What survives a restart?")
    assert (again.headers["x-cache"], again.json()["choices"]) == ("hit", answered.json()["choices"])
    assert {article["id"]: article["summary"]["text"] for article in program.articles(state="done")} == done
    assert program.stop(signal.SIGTERM) == []


def listens_on(connection: Any, port: int) -> bool:
    return bool(connection.status == "LISTEN" and connection.laddr.port == port)
