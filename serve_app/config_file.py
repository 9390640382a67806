"""Checks a Serve config file strictly: unknown keys at Serve's own level too, our settings, and values that contradict each other.

Serve itself ignores keys it does not know, so that a misspelt option is silently dropped; here each is an error with the remedy. Imports
Serve's schema, and nothing else of Ray. Tests: tests/fast/test_config_file.py.
"""

from __future__ import annotations

import pathlib
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from serve_app.errors import ConfigError
from serve_app.problems import path_text, unknown_key_remedy
from serve_app.settings import USER_CONFIGS, AppSettings, IngressSettings, ModelTuning
from serve_app.settings_base import S, Settings
from serve_app.settings_cache import CacheSettings
from serve_app.settings_feeds import FeedsSettings

IMPORT_PATH = "serve_app.graph:build"
Path = tuple[int | str, ...]
TOKENS_PER_WORD = 1.6  # generous for English prose; the engine refuses what really does not fit


@dataclass(slots=True)
class CheckedConfig:
    """A configuration without mistakes: as YAML gave it, our part typed, and where it will listen."""

    data: dict[str, Any]
    app: AppSettings
    user_configs: dict[str, Settings]
    host: str
    port: int
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_config(path: pathlib.Path) -> CheckedConfig:
    """Read and check a config file.

    Raises:
        ConfigError: one line per mistake, `where: what; remedy`.
    """
    return check_config(read(path))


def check_config(data: dict[str, Any]) -> CheckedConfig:
    """Check a configuration as plain data; see `load_config`."""
    found = list(_serve_problems(data))
    if found:
        raise ConfigError("\n".join(found))
    return check_ours(data)


def check_ours(data: dict[str, Any]) -> CheckedConfig:
    """Check our part of data that has Serve's shape; where that was not checked, any exception may come."""
    index, app_data = _our_application(data)
    where = f"applications[{index}]"
    deployments = {entry["name"]: entry for entry in app_data.get("deployments", [])}
    app, user_configs, found = _our_settings(where, app_data)
    if app is None or found:
        raise ConfigError("\n".join(found))
    http = data.get("http_options", {})
    checked = CheckedConfig(data, app, user_configs, http.get("host", ""), http.get("port", 8000), deployments)
    found = list(_contradictions(checked, where))
    if found:
        raise ConfigError("\n".join(found))
    return checked


def read(path: pathlib.Path) -> dict[str, Any]:
    """The file's YAML.

    Raises:
        ConfigError: it is none, or no mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name a Serve config file, such as serve_config.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}; check indentation and quotes there") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping with the keys http_options and applications, not {type(data).__name__}")
    return data


def _serve_problems(data: dict[str, Any]) -> Iterator[str]:
    from ray.serve.schema import ServeDeploySchema

    yield from _unknown_keys(ServeDeploySchema, data, ())
    try:
        ServeDeploySchema.model_validate(data)
    except pydantic.ValidationError as error:
        for detail in error.errors(include_url=False):
            yield f"{path_text('', detail['loc']) or 'configuration'}: {detail['msg'].removeprefix('Value error, ')}"
    except (TypeError, ValueError, AttributeError) as error:  # Serve's own validators are not always ready for any type
        yield f"configuration: {error}"


def _unknown_keys(model: type[BaseModel], data: object, path: Path) -> Iterator[str]:
    if not isinstance(data, dict):
        return
    known = model.model_fields
    for key, value in data.items():
        if key not in known:
            yield f"{path_text('', (*path, key))}: unknown key; {unknown_key_remedy(str(key), list(known))}"
            continue
        inner = next(iter(_models_in(known[key].annotation)), None)
        if inner is None:
            continue
        places = {(*path, key, number): item for number, item in enumerate(value)} if isinstance(value, list) else {(*path, key): value}
        for place, item in places.items():
            if isinstance(value, list) and not isinstance(item, dict):
                yield f"{path_text('', place)}: must be a mapping, not {item!r}; write `- name: ...`"
            yield from _unknown_keys(inner, item, place)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The pydantic models inside a type such as `Optional[Union[Dict, AutoscalingConfig]]` or `List[DeploymentSchema]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)


def _our_application(data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    for index, application in enumerate(data.get("applications", [])):
        if application.get("import_path") == IMPORT_PATH:
            return index, application
    raise ConfigError(f"applications: none has import_path: {IMPORT_PATH}; add it")


def _our_settings(where: str, data: dict[str, Any]) -> tuple[AppSettings | None, dict[str, Settings], list[str]]:
    found: list[str] = []
    app: AppSettings | None = None
    try:
        app = AppSettings.load(data.get("args"), f"{where}.args").absolute()
    except ConfigError as error:
        found += error.problems
    user_configs: dict[str, Settings] = {name: cls() for name, cls in USER_CONFIGS.items()}
    for number, entry in enumerate(data.get("deployments", [])):
        name, place = entry["name"], f"{where}.deployments[{number}]"
        if name not in USER_CONFIGS:
            found.append(f"{place}.name: no deployment {name!r}; {unknown_key_remedy(name, list(USER_CONFIGS))}")
            continue
        if any(earlier["name"] == name for earlier in data["deployments"][:number]):
            found.append(f"{place}.name: {name} stands there twice; merge the two")
        try:
            user_configs[name] = USER_CONFIGS[name].load(entry.get("user_config"), f"{place}.user_config")
        except ConfigError as error:
            found += error.problems
    return app, user_configs, found


def _contradictions(config: CheckedConfig, where: str) -> Iterator[str]:
    if not config.host:
        yield "http_options.host: missing, and Serve would listen on every address; write host: 127.0.0.1"
    yield from _model_contradictions(config, where)
    yield from _feeds_contradictions(config, where)
    ingress = _typed(config, "Ingress", IngressSettings)
    if ingress.sampling.max_tokens >= config.app.model.max_context:
        yield (
            f"Ingress.user_config.sampling.max_tokens: {ingress.sampling.max_tokens} leaves no room for a prompt in "
            f"model.max_context {config.app.model.max_context}; lower it"
        )


def _model_contradictions(config: CheckedConfig, where: str) -> Iterator[str]:
    entry, tuning = config.deployments.get("Model", {}), _typed(config, "Model", ModelTuning)
    needed, ongoing = tuning.max_waiting + tuning.max_batch_size, entry.get("max_ongoing_requests", 512)
    if ongoing < needed:
        yield (
            f"Model.max_ongoing_requests: {ongoing} is less than max_waiting + max_batch_size ({needed}) and would silently cap the batch; "
            f"raise it to {needed} or lower max_waiting"
        )
    scaling = entry.get("autoscaling_config") or {}
    target = scaling.get("target_ongoing_requests")
    if target is not None and target > ongoing:
        yield f"Model.autoscaling_config.target_ongoing_requests: {target} is above max_ongoing_requests {ongoing}; it would never scale up"
    resources = entry.get("ray_actor_options")
    if config.app.model.device == "cuda" and resources is not None and not resources.get("num_gpus"):
        yield "Model.ray_actor_options: replaces our own and asks for no GPU, but args.model.device is cuda; add num_gpus: 1"
    if config.app.model.device == "cpu" and (entry.get("ray_actor_options") or {}).get("num_gpus"):
        yield f"Model.ray_actor_options.num_gpus: contradicts {where}.args.model.device cpu; remove one of the two"


def _feeds_contradictions(config: CheckedConfig, where: str) -> Iterator[str]:
    entry, feeds = config.deployments.get("Feeds", {}), _typed(config, "Feeds", FeedsSettings)
    if entry.get("num_replicas", 1) != 1 or entry.get("autoscaling_config"):
        yield f"{where}: Feeds has exactly one writer; set its num_replicas to 1 and remove autoscaling_config"
    cache = _typed(config, "AnswerCache", CacheSettings)
    if feeds.max_in_flight > cache.max_in_flight:
        yield (
            f"Feeds.user_config.max_in_flight: {feeds.max_in_flight} is above AnswerCache's max_in_flight {cache.max_in_flight}; "
            "most summaries would be refused; lower it"
        )
    needed = int(feeds.summary.max_words * TOKENS_PER_WORD) + feeds.summary.max_tokens
    if needed > config.app.model.max_context:
        yield (
            f"Feeds.user_config.summary.max_words: {feeds.summary.max_words} words and {feeds.summary.max_tokens} tokens of summary need "
            f"about {needed} tokens, more than model.max_context {config.app.model.max_context}; lower it"
        )
    daily = feeds.digest
    needed = int(daily.max_words * TOKENS_PER_WORD) + daily.max_tokens
    if daily.tags and needed > config.app.model.max_context:
        yield (
            f"Feeds.user_config.digest.max_words: {daily.max_words} words and {daily.max_tokens} tokens of digest need about {needed} "
            f"tokens, more than model.max_context {config.app.model.max_context}; lower it"
        )


def _typed(config: CheckedConfig, name: str, cls: type[S]) -> S:
    settings = config.user_configs[name]
    assert isinstance(settings, cls)
    return settings
