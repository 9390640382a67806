"""Quantised checkpoints kept on disk, so that the next replica starts in seconds: made once, whole or not at all.

A copy is written to a folder beside its place and renamed; its marker lists every file with its size, so that a folder that a crash or a
full disk left half-written is ignored and made again. Knows folders, not weights. Tests: tests/model/test_loader.py.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

from filelock import FileLock

MARKER = "complete.json"
LOCK_TIMEOUT_S = 3600.0  # a second replica waits for the first one's quantising, which takes minutes for 7 billion parameters


def ensure(folder: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Return `folder`, calling `make` with an empty folder to fill where it is not complete. Replicas that start together do it once."""
    if is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=LOCK_TIMEOUT_S):
        if not is_complete(folder):
            _make(folder, make)
    return folder


def is_complete(folder: pathlib.Path) -> bool:
    """True where every file of the marker is there in its size."""
    try:
        sizes = json.loads((folder / MARKER).read_text())
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _make(folder: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    for leftover in (folder, *folder.parent.glob(f"{folder.name}.tmp*")):  # under the lock, nobody else is writing them
        shutil.rmtree(leftover, ignore_errors=True)
    working = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp", dir=folder.parent))
    try:
        make(working)
        files = [file for file in working.rglob("*") if file.is_file()]
        for file in files:
            _flush(file)
        sizes = {str(file.relative_to(working)): file.stat().st_size for file in files}
        (working / MARKER).write_text(json.dumps(sizes, indent=1))
        _flush(working / MARKER)
        working.chmod(0o755)
        working.rename(folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _flush(file: pathlib.Path) -> None:
    """Onto the disk before the rename, or a power cut could leave a complete-looking folder of empty files."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
