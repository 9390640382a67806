"""A PostgreSQL server of this test run alone, from the system's own binaries: loopback, a free port, a data folder that goes with it.

`kill` is kill -9 of every process of it, `frozen` stops them all in the middle of whatever they do.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import psutil
import sqlalchemy
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

USER, PASSWORD = "frugal", "p@ss/w:rd%20"  # all that an address must escape
LIMIT_S = 60
# Without fsync: only a power cut would tell the difference, and nothing here is killed that way.
OPTIONS = ("-c", "unix_socket_directories=", "-c", "fsync=off")


def binaries() -> pathlib.Path | None:
    """The folder of the newest PostgreSQL server on this machine."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found and (on_path := shutil.which("initdb")):
        found = [pathlib.Path(on_path).resolve()]
    return found[-1].parent if found else None


class PostgresServer:
    """`create` and `start` it, and `stop` it in the end."""

    def __init__(self, programs: pathlib.Path) -> None:
        self._programs = programs
        self._account = _account()
        self._home = pathlib.Path(tempfile.mkdtemp(prefix="frugal-postgres-"))  # not below pytest's, which only root may enter
        if self._account:
            os.chown(self._home, self._account.pw_uid, self._account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def create(self) -> None:
        """Make the data folder."""
        password = self._home / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = ("-U", USER, "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        code = self._spawn("initdb", "-D", str(self._data), *options).wait()
        assert code == 0, self._said()

    def start(self) -> None:
        """Start, or start again; returns when it answers."""
        # As a child of ours: only a parent can bury it after a kill, and nobody takes its place while its number is not free.
        self._process = self._spawn("postgres", "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), *OPTIONS)
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert self._process.poll() is None, self._said()
            try:
                self.sql("SELECT 1")
                return
            except OperationalError:
                assert time.monotonic() < deadline, self._said()

    def stop(self) -> None:
        """End it, and remove all that it wrote."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: in order, it would first write out what is removed anyway
            self._process.wait(LIMIT_S)
        shutil.rmtree(self._home, ignore_errors=True)

    def kill(self) -> None:
        """End every process of it at once, as a crash of the machine would."""
        assert self._process is not None
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(LIMIT_S)
        while any(map(_lives, processes)):
            os.sched_yield()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, it neither answers nor refuses."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def url(self, database: str, **changes: object) -> str:
        """The address of a database here."""
        parts = URL.create("postgresql+psycopg", USER, PASSWORD, "127.0.0.1", self.port, database)
        return parts.set(**changes).render_as_string(hide_password=False)  # type: ignore[arg-type]

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement outside any transaction; its rows."""
        engine = sqlalchemy.create_engine(self.url(database), isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    @property
    def _data(self) -> pathlib.Path:
        return self._home / "data"

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _spawn(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        who = self._account
        with (self._home / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self._home)},
                user=who.pw_uid if who else None,
                group=who.pw_gid if who else None,
                extra_groups=[] if who else None,
                start_new_session=True,  # Ctrl-C is for the tests, which stop it in the end
            )

    def _said(self) -> str:
        return (self._home / "log").read_text(errors="replace")[-2_000:]


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: it holds nothing any more, and in a container there may be nobody to bury it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _account() -> pwd.struct_passwd | None:
    """Whom to become: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
