"""The admin key: random, kept as a hash that only its owner may read, and found in one of three places."""

from __future__ import annotations

import pathlib
import re
import stat

import pytest

from serve_app.admin_key import keep, kept, matches, new_key, sha256_of
from serve_app.errors import ConfigError
from serve_app.settings import AppSettings, IngressSettings


def test_keys_are_long_and_different_and_match_only_their_own_hash() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"frugal-admin-[A-Za-z0-9_-]{43}", key) for key in keys)
    one, other = sorted(keys)[:2]
    assert (matches(one, sha256_of(one)), matches(other, sha256_of(one)), matches("", sha256_of(one))) == (True, False, False)
    assert matches("caf\udce9", sha256_of("caf\udce9")), "whatever bytes a shell hands in"


def test_it_is_kept_for_its_owner_alone_and_a_new_one_replaces_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "data" / "admin-key.sha256"
    assert kept(path) is None
    for sha256 in (sha256_of("one"), sha256_of("two")):
        keep(path, sha256)
        assert (kept(path), stat.S_IMODE(path.stat().st_mode)) == (sha256, 0o600)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    path.write_text("the key itself")
    assert kept(path) is None


def test_the_variable_wins_over_the_setting_and_the_setting_over_the_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRUGAL_ADMIN_KEY_SHA256", raising=False)
    app, set_up = AppSettings(data_dir=str(tmp_path)), IngressSettings(admin_key_sha256="a" * 64)
    assert app.admin_key_sha256(IngressSettings()) is None
    keep(app.admin_key_path, "b" * 64)
    assert (app.admin_key_sha256(IngressSettings()), app.admin_key_sha256(set_up)) == ("b" * 64, "a" * 64)
    monkeypatch.setenv("FRUGAL_ADMIN_KEY_SHA256", "c" * 64)
    assert app.absolute().admin_key_sha256(set_up) == "c" * 64
    monkeypatch.setenv("FRUGAL_ADMIN_KEY_SHA256", "frugal-admin-key")
    with pytest.raises(ConfigError, match="must be 64 hex digits, not the key itself"):
        app.absolute()
