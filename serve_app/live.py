"""Settings that change while requests run, and outlive the replica that took them. Tests: tests/fast/test_settings.py."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Generic

from serve_app.errors import ConfigError
from serve_app.settings_base import S


class Live(Generic[S]):
    """Settings that may change while requests run: a bad change keeps the old ones and is shown as `error`.

    `kept` is a file that remembers the last good settings of one `session` of the program, so that a replica which starts again while
    the bad change stands has old ones to keep, too.
    """

    def __init__(self, cls: type[S], where: str, kept: pathlib.Path | None = None, session: str = "") -> None:
        self._cls = cls
        self._where = where
        self._kept = kept
        self._session = session
        self._value: S | None = None
        self.error: str | None = None

    @property
    def value(self) -> S:
        """The settings in force; the defaults before the first update."""
        return self._cls() if self._value is None else self._value

    def update(self, data: Mapping[str, Any] | None) -> bool:
        """Take new settings over; False where they are wrong and the old ones stay.

        Raises:
            ConfigError: the very first settings are wrong, so that there are no old ones to keep.
        """
        try:
            self._value = self._cls.load(data, self._where)
        except ConfigError as error:
            self._value = self._value or self._recall()
            if self._value is None:
                raise
            self.error = error.message
            return False
        self.error = None
        self._remember(data)
        return True

    def _remember(self, data: Mapping[str, Any] | None) -> None:
        if self._kept is None:
            return
        with contextlib.suppress(OSError):  # a full disk must not cost a replica: the settings are in force all the same
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            draft = self._kept.with_suffix(f".{os.getpid()}")
            draft.touch(mode=0o600)  # a webhook's secret may be in it
            draft.write_text(json.dumps({"session": self._session, "settings": dict(data or {})}))
            draft.replace(self._kept)

    def _recall(self) -> S | None:
        try:
            kept = json.loads(self._kept.read_text()) if self._kept else {}
            return self._cls.load(kept["settings"]) if kept.get("session") == self._session else None
        except (OSError, ValueError, KeyError, AttributeError, ConfigError):
            return None
