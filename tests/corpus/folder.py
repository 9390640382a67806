"""Where the corpus is: FRUGAL_CORPUS, or ../shared/feeds beside the repository."""

from __future__ import annotations

import os
import pathlib
import tarfile
from collections.abc import Iterator

import pytest

FOLDER = pathlib.Path(os.environ.get("FRUGAL_CORPUS") or pathlib.Path(__file__).parents[2].parent / "shared" / "feeds")
FILES = sorted(path for name in ("stripe", "open", "edge") for path in (FOLDER / name).glob("*") if path.is_file())
SERIES = sorted((FOLDER / "series").glob("*.tar.xz"))

NEEDED = pytest.mark.skipif(not FILES, reason="no feeds found: set FRUGAL_CORPUS to the folder that has stripe/, open/, edge/ and series/")


def name_of(path: pathlib.Path) -> str:
    """Of a test's case."""
    return path.name.split(".")[0] if path.suffix == ".xz" else path.name


def versions(path: pathlib.Path) -> Iterator[bytes]:
    """The versions of a series, the oldest first."""
    with tarfile.open(path) as archive:
        for name in sorted(member.name for member in archive if member.name.endswith(".xml")):
            stream = archive.extractfile(name)
            assert stream is not None
            yield stream.read()
