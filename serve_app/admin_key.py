"""The key of the administrator: made once, shown once, and kept only as its SHA-256.

A plain hash is enough: the key is 32 random bytes, which nobody guesses, however fast the hash. Tests: tests/fast/test_admin_key.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import pathlib
import re
import secrets

PREFIX = "frugal-admin-"  # so that people and secret scanners know what they found
SHA256 = r"[0-9a-f]{64}"


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(32)


def sha256_of(key: str) -> str:
    """What is kept of a key: 64 hex digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def matches(key: str, sha256: str) -> bool:
    """Whether this is the key, in a time that tells nothing of it."""
    return hmac.compare_digest(sha256_of(key), sha256)


def keep(path: pathlib.Path, sha256: str) -> None:
    """Write it for its owner alone, in place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{sha256}\n")
    draft.replace(path)


def kept(path: pathlib.Path) -> str | None:
    """What was kept there, if anything was."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(SHA256, text) else None
