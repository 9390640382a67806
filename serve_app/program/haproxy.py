"""Stands in for the haproxy binary: makes the configuration that Serve wrote private, then becomes the packaged haproxy.

Serve's template (2.60) has its statistics and metrics pages listen on every address, lets every local user send admin commands, and
answers a 500 in plain text where no replica is there; no setting changes that. RAY_SERVE_HAPROXY_BINARY_PATH names a small script that
runs this file. The process id stays the same, which Serve checks. Standard library only: it runs without our packages, at every reload.
Tests: tests/process/test_haproxy.py, against the packaged binary.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import sys
from collections.abc import Iterator, Sequence

REAL_BINARY = "FRUGAL_HAPROXY_BINARY"  # environment: where the packaged haproxy lies
PUBLIC_FRONTENDS = ("http_frontend", "grpc_frontend")  # these listen where http_options says
PR_SET_PDEATHSIG = 1
ERROR_FILE = "unavailable.http"
UNAVAILABLE = {
    "error": {
        "message": "no part of the server that answers HTTP is there at this moment; send the request again",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }
}


def private(config: str, error_file: str) -> str:
    """The same configuration: pages on loopback, the admin socket for its owner alone, our error instead of a plain 500."""
    return "\n".join(_private_lines(config.split("\n"), error_file))


def _private_lines(lines: Sequence[str], error_file: str) -> Iterator[str]:
    section = ""
    knows_application = any(line.strip().startswith("use_backend") for line in lines)
    for line in lines:
        if found := re.match(r"(?:frontend|listen)\s+(\S+)", line):
            section = found[1]
        if section not in PUBLIC_FRONTENDS:
            line = re.sub(r"^(\s*bind\s+)(?:\*|0\.0\.0\.0|\[::\]|::)?:(\d+)", r"\g<1>127.0.0.1:\2", line)
        line = re.sub(r"^(\s*stats socket \S+) mode \d+", r"\1 mode 600", line)
        if not knows_application:  # it has just begun, and would tell clients that our paths do not exist
            line = re.sub(r"^(\s*)http-request return status 404 .*", r"\1http-request deny deny_status 503", line)
        yield re.sub(r"^(\s*errorfile 50[234]) \S+", rf"\1 {error_file}", line)


def error_response() -> bytes:
    """What a client gets where no replica is there: OpenAI's error JSON and when to come back, like every other refusal of ours."""
    body = json.dumps(UNAVAILABLE).encode()
    head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def main(arguments: Sequence[str]) -> None:
    """Called as haproxy would be: `-f` names the configuration."""
    binary = os.environ[REAL_BINARY]
    if "-f" in arguments:
        path = pathlib.Path(arguments[arguments.index("-f") + 1])
        error_file = path.with_name(ERROR_FILE)
        error_file.write_bytes(error_response())
        path.write_text(private(path.read_text(), str(error_file)))
        path.chmod(0o600)
    # Where Serve's manager is killed, stop listening and let running requests end: nobody else would ever stop this process.
    signal_at_parents_death(signal.SIGUSR1)
    os.execv(binary, [binary, *arguments])


def signal_at_parents_death(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies, however it dies; survives exec. Nothing where it is not Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


if __name__ == "__main__":
    main(sys.argv[1:])
