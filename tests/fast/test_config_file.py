"""The shipped file is valid and says what the code says; every mistake in a file names its place and the remedy."""

from __future__ import annotations

import copy
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from serve_app.config_file import check_config, load_config
from serve_app.errors import ConfigError
from serve_app.settings import USER_CONFIGS, AppSettings

SHIPPED = pathlib.Path(__file__).parents[2] / "serve_config.yaml"
DATA: dict[str, Any] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
Change = Callable[[dict[str, Any]], object]


def problems_of(data: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_config(data)
    return caught.value.problems


def changed(*changes: Change) -> dict[str, Any]:
    """The shipped configuration with something done to it."""
    data = copy.deepcopy(DATA)
    for change in changes:
        change(data)
    return data


def application(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["applications"][0]
    return found


def deployment(data: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in application(data)["deployments"] if entry["name"] == name)
    return found


def put(which: str, **values: Any) -> Change:
    """Set keys of one deployment."""
    return lambda data: deployment(data, which).update(values)


def tune(name: str, **values: Any) -> Change:
    """Set keys of one deployment's user_config."""
    return lambda data: deployment(data, name)["user_config"].update(values)


def model(**values: Any) -> Change:
    """Set keys of args.model."""
    return lambda data: application(data)["args"]["model"].update(values)


def test_the_shipped_file_is_valid() -> None:
    checked = load_config(SHIPPED)
    assert (checked.host, checked.port, checked.data) == ("127.0.0.1", 8000, DATA)
    assert list(checked.deployments) == list(USER_CONFIGS)


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    # No exceptions: who deletes a line of the file gets what the line said.
    checked = load_config(SHIPPED)
    assert checked.app == AppSettings().absolute()
    assert checked.user_configs == {name: cls() for name, cls in USER_CONFIGS.items()}


def test_without_user_config_there_are_the_defaults() -> None:
    checked = check_config(changed(lambda data: application(data).pop("deployments"), lambda data: application(data).pop("args")))
    assert (checked.app, checked.user_configs) == (AppSettings().absolute(), {name: cls() for name, cls in USER_CONFIGS.items()})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\nb: 2", r"not YAML: .* line 2, column 2: b: 2 .*; check indentation and quotes there"),
        ("a: 'x\n", r"not YAML: .*; check indentation and quotes there"),
        ("- a\n- b\n", r"must be a mapping with the keys http_options and applications, not list"),
        ("", r"must be a mapping with the keys http_options and applications, not NoneType"),
        ("!!python/object:os.system {}", r"not YAML: could not determine a constructor .*"),
    ],
    ids=["bracket", "quote", "list", "empty", "object"],
)
def test_a_file_that_is_no_mapping_in_yaml_says_where_it_breaks(tmp_path: pathlib.Path, text: str, problem: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert re.fullmatch(f"{re.escape(str(path))}: {problem}", caught.value.message)


def test_a_file_that_cannot_be_read_says_so(tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(missing)
    assert caught.value.message == f"{missing}: no such file; name a Serve config file, such as serve_config.yaml"
    with pytest.raises(ConfigError, match=r"cannot be read: .*Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data.update(http_option={}), "http_option: unknown key; did you mean http_options?"),
        (lambda data: data["http_options"].update(prot=1), "http_options.prot: unknown key; did you mean port?"),
        (lambda data: data["logging_config"].update(loglevel="INFO"), "logging_config.loglevel: unknown key; did you mean log_level?"),
        (lambda data: application(data).update(arg={}), "applications[0].arg: unknown key; did you mean args?"),
        (put("Ingress", num_replica=2), "applications[0].deployments[0].num_replica: unknown key; did you mean num_replicas?"),
        (
            put("Model", autoscaling_config={"max_replica": 2}),
            "applications[0].deployments[2].autoscaling_config.max_replica: unknown key; did you mean max_replicas?",
        ),
        (
            put("Model", ray_actor_options={"num_gpu": 1}),
            "applications[0].deployments[2].ray_actor_options.num_gpu: unknown key; did you mean num_gpus?",
        ),
        (
            put("Model", logging_config={"encodin": "JSON"}),
            "applications[0].deployments[2].logging_config.encodin: unknown key; did you mean encoding?",
        ),
        (lambda data: application(data)["args"].update(data_dri="x"), "applications[0].args.data_dri: unknown key; did you mean data_dir?"),
        (
            tune("Feeds", pol_interval_s=1),
            "applications[0].deployments[3].user_config.pol_interval_s: unknown key; did you mean poll_interval_s?",
        ),
        (
            lambda data: deployment(data, "Feeds")["user_config"]["feeds"][1].update(ur1="x"),
            "applications[0].deployments[3].user_config.feeds[1].ur1: unknown key; did you mean url?",
        ),
    ],
)
def test_an_unknown_key_at_any_level_names_its_place_and_the_nearest_known_key(change: Change, problem: str) -> None:
    assert problem in problems_of(changed(change))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda data: data["http_options"].update(port="many"), "http_options.port"),
        (lambda data: data.update(http_options=None), "http_options"),
        (lambda data: data.update(applications={}), "applications"),
        (lambda data: data.update(applications=None), "applications"),
        (lambda data: application(data).update(deployments=None), "applications[0].deployments"),
        (lambda data: application(data).update(args=[1]), "applications[0].args"),
        (lambda data: application(data)["deployments"].append({}), "applications[0].deployments[4].name"),
        (lambda data: application(data)["deployments"].append("Model"), "applications[0].deployments[4]"),
        (put("Ingress", num_replicas="many"), "applications[0].deployments[0]: `num_replicas` must be an int"),
        (put("Ingress", user_config=[1]), "applications[0].deployments[0].user_config"),
        (put("Model", max_ongoing_requests=0), "applications[0].deployments[2].max_ongoing_requests"),
        (put("Model", ray_actor_options={"num_cpus": -1}), "applications[0].deployments[2].ray_actor_options"),
        (tune("Model", max_batch_size="3"), "applications[0].deployments[2].user_config.max_batch_size"),
        (model(max_context="long"), "applications[0].args.model.max_context"),
    ],
)
def test_a_wrong_type_names_its_place(change: Change, place: str) -> None:
    assert [problem for problem in problems_of(changed(change)) if problem.startswith(place)]


def test_an_application_that_is_not_ours_says_what_to_add() -> None:
    problem = "applications: none has import_path: serve_app.graph:build; add it"
    assert problems_of(changed(lambda data: application(data).update(import_path="other:app"))) == [problem]
    assert problems_of(changed(lambda data: data.update(applications=[]))) == [problem]


def test_an_unknown_deployment_names_the_nearest_one() -> None:
    assert problems_of(changed(put("AnswerCache", name="AnswerCash"))) == [
        "applications[0].deployments[1].name: no deployment 'AnswerCash'; did you mean AnswerCache?"
    ]


def test_a_deployment_that_stands_there_twice_is_refused() -> None:
    again = {"name": "Model", "user_config": {"max_batch_size": 4}}
    assert problems_of(changed(lambda data: application(data)["deployments"].append(again))) == [
        "applications[0].deployments[4].name: Model stands there twice; merge the two"
    ]


def test_a_file_without_a_host_is_refused() -> None:
    remedy = "http_options.host: missing, and Serve would listen on every address; write host: 127.0.0.1"
    assert problems_of(changed(lambda data: data["http_options"].pop("host"))) == [remedy]
    assert problems_of(changed(lambda data: data.pop("http_options"))) == [remedy]
    assert check_config(changed(lambda data: data["http_options"].update(host="0.0.0.0"))).host == "0.0.0.0"


GPU: Change = put("Model", ray_actor_options={"num_gpus": 1})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            put("Model", max_ongoing_requests=100),
            "Model.max_ongoing_requests: 100 is less than max_waiting + max_batch_size (288) and would silently cap the batch; "
            "raise it to 288 or lower max_waiting",
        ),
        (
            tune("Model", max_waiting=1000),
            "Model.max_ongoing_requests: 512 is less than max_waiting + max_batch_size (1032) and would silently cap the batch; "
            "raise it to 1032 or lower max_waiting",
        ),
        (
            put("Model", autoscaling_config={"target_ongoing_requests": 600}),
            "Model.autoscaling_config.target_ongoing_requests: 600 is above max_ongoing_requests 512; it would never scale up",
        ),
        (
            lambda data: (GPU(data), model(device="cpu")(data)),
            "Model.ray_actor_options.num_gpus: contradicts applications[0].args.model.device cpu; remove one of the two",
        ),
        (
            put("Feeds", num_replicas=2),
            "applications[0]: Feeds has exactly one writer; set its num_replicas to 1 and remove autoscaling_config",
        ),
        (
            lambda data: (deployment(data, "Feeds").pop("num_replicas"), put("Feeds", autoscaling_config={"max_replicas": 2})(data)),
            "applications[0]: Feeds has exactly one writer; set its num_replicas to 1 and remove autoscaling_config",
        ),
        (
            tune("AnswerCache", max_in_flight=8),
            "Feeds.user_config.max_in_flight: 24 is above AnswerCache's max_in_flight 8; most summaries would be refused; lower it",
        ),
        (
            tune("Feeds", summary={"max_words": 2000}),
            "Feeds.user_config.summary.max_words: 2000 words and 112 tokens of summary need about 3312 tokens, more than "
            "model.max_context 2048; lower it",
        ),
        (
            tune("Feeds", digest={"tags": ["*"], "max_words": 2000}),
            "Feeds.user_config.digest.max_words: 2000 words and 160 tokens of digest need about 3360 tokens, more than "
            "model.max_context 2048; lower it",
        ),
        (
            tune("Ingress", sampling={"max_tokens": 2048}),
            "Ingress.user_config.sampling.max_tokens: 2048 leaves no room for a prompt in model.max_context 2048; lower it",
        ),
        (
            model(quantization="int8", device="cpu"),
            "applications[0].args.model: quantization int8 needs CUDA; use nf4, fp4 or none on a CPU, or set device: cuda",
        ),
    ],
)
def test_values_that_contradict_each_other_say_what_to_do(change: Change, problem: str) -> None:
    assert problems_of(changed(change)) == [problem]


def test_a_number_of_replicas_beside_autoscaling_is_refused() -> None:
    (problem,) = problems_of(changed(put("Model", num_replicas=2)))  # in Serve's words, which may change
    assert problem.startswith("applications[0].deployments[2]: ")
    assert "num_replicas" in problem
    assert "autoscaling_config" in problem


def test_mistakes_of_args_and_of_every_deployment_are_told_together() -> None:
    data = changed(model(id=""), tune("Ingress", request_timeout_s=0), tune("Feeds", min_words=-1))
    assert [problem.split(":")[0] for problem in problems_of(data)] == [
        "applications[0].args.model.id",
        "applications[0].deployments[0].user_config.request_timeout_s",
        "applications[0].deployments[3].user_config.min_words",
    ]
