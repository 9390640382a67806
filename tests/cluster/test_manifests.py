"""Our manifests hold what manifests.py checks, and each mistake that it is there to find is found."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.config_file import check_config, load_config
from tests.cluster.manifests import (
    GPU,
    MANIFESTS,
    RAY_SERVICES,
    ROOT,
    Data,
    documents,
    of_kind,
    ports,
    problems_of,
    serve_config,
    size_bytes,
)

Change = Callable[[Data], object]
SHIPPED = load_config(ROOT / "serve_config.yaml")


def ray_service(name: str) -> Data:
    (service,) = of_kind("RayService", documents(name))
    return service


def broken(change: Change, name: str = "rayservice-gpu.yaml") -> list[str]:
    """The problems of a shipped file after its RayService was changed."""
    objects = documents(name)
    change(of_kind("RayService", objects)[0])
    return problems_of(objects)


def cluster(service: Data) -> Data:
    found: Data = service["spec"]["rayClusterConfig"]
    return found


def group(service: Data, name: str) -> Data:
    return next(found for found in cluster(service)["workerGroupSpecs"] if found["groupName"] == name)


def container(service: Data, name: str) -> Data:
    found: Data = group(service, name)["template"]["spec"]["containers"][0]
    return found


def configured(change: Callable[[Data, dict[str, Data]], object]) -> Change:
    """A change of the application inside serveConfigV2: of its `args.model` and its deployments by their names."""

    def apply(service: Data) -> None:
        config = serve_config(service)
        (application,) = config["applications"]
        change(application["args"]["model"], {entry["name"]: entry for entry in application["deployments"]})
        service["spec"]["serveConfigV2"] = yaml.safe_dump(config)

    return apply


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_shipped_file_has_no_problem(name: str) -> None:
    assert problems_of(documents(name)) == []


@pytest.mark.parametrize("name", RAY_SERVICES)
def test_the_serve_configuration_agrees_with_the_repositorys(name: str) -> None:
    config = serve_config(ray_service(name))
    ServeDeploySchema.model_validate(config)
    checked = check_config(config)
    (application,), (shipped,) = config["applications"], SHIPPED.data["applications"]
    assert list(checked.deployments) == list(SHIPPED.deployments)
    assert [application[key] for key in ("name", "import_path", "route_prefix")] == [
        shipped[key] for key in ("name", "import_path", "route_prefix")
    ]
    assert (checked.host, checked.port, config["proxy_location"]) == ("0.0.0.0", SHIPPED.port, "EveryNode")


def test_the_cpu_file_has_the_repositorys_settings_but_for_where_they_run() -> None:
    checked = check_config(serve_config(ray_service("rayservice-cpu.yaml")))
    assert checked.app.model == SHIPPED.app.model.model_copy(update={"device": "cpu", "threads": 4})
    ingress = SHIPPED.user_configs["Ingress"]
    hosts = (*ingress.allowed_hosts, "frugal.example.com")  # type: ignore[attr-defined]
    assert checked.user_configs == {**SHIPPED.user_configs, "Ingress": ingress.model_copy(update={"allowed_hosts": hosts})}


def test_a_gpu_pod_has_one_gpu_and_memory_for_the_unquantised_weights() -> None:
    service = ray_service("rayservice-gpu.yaml")
    limits = container(service, "gpu")["resources"]["limits"]
    assert limits[GPU] == "1"
    assert size_bytes(limits["memory"]) > 15_231_233_024 * 6 // 5  # Qwen2.5-7B's 7,615,616,512 parameters in bf16, and what load asks for
    assert {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in group(service, "gpu")["template"]["spec"]["tolerations"]


def test_the_gpu_file_keeps_its_password_in_a_secret_on_every_pod() -> None:
    service = ray_service("rayservice-gpu.yaml")
    assert "database_url" not in service["spec"]["serveConfigV2"]
    expected = {"name": "FRUGAL_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "frugal-serve-database", "key": "url"}}}
    head = cluster(service)["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert all(expected in found["env"] for found in (head, container(service, "edge"), container(service, "gpu")))


def test_without_a_gpu_replica_the_file_is_still_valid() -> None:
    assert broken(configured(lambda _model, of: of["Model"]["autoscaling_config"].update(min_replicas=0))) == []
    assert group(ray_service("rayservice-gpu.yaml"), "gpu")["minReplicas"] == 0


def test_feeds_alone_never_ask_for_a_second_gpu() -> None:
    deployments = check_config(serve_config(ray_service("rayservice-gpu.yaml"))).deployments
    target = deployments["Model"]["autoscaling_config"]["target_ongoing_requests"]
    assert deployments["Feeds"]["user_config"]["max_in_flight"] < target < deployments["Model"]["max_ongoing_requests"]


@pytest.mark.parametrize("name", RAY_SERVICES)
def test_ray_asks_for_its_token_in_every_file(name: str) -> None:
    assert cluster(ray_service(name))["authOptions"] == {"mode": "token"}


def test_a_port_has_one_name() -> None:
    found = {port for name in MANIFESTS for port in ports(documents(name))}
    assert len({number for _, number in found}) == len({name for name, _ in found}) == len(found)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda service: service["spec"].update(serveConfig="x"), r"RayService\.spec: .*'serveConfig' was unexpected"),
        (lambda service: service.update(apiVersion="ray.io/v1alpha1"), r"RayService\.apiVersion: 'ray.io/v1' was expected"),
        (lambda service: cluster(service).update(headGroupSpecs={}), r"RayService\..*rayClusterConfig: .*'headGroupSpecs' was unexpected"),
        (lambda service: group(service, "gpu").update(minReplica=0), r"RayService\..*workerGroupSpecs\.1: .*'minReplica' was unexpected"),
        (lambda service: cluster(service)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), r".*num-cpus: 0 is not of type"),
        (lambda service: cluster(service)["authOptions"].update(mode="tokens"), r".*authOptions\.mode: 'tokens' is not one of"),
        (lambda service: container(service, "gpu").update(imagePulPolicy="Always"), r"pod gpu .*'imagePulPolicy' was unexpected"),
        (lambda service: container(service, "edge")["resources"].update(limit={}), r"pod edge .*'limit' was unexpected"),
        (
            lambda service: cluster(service)["autoscalerOptions"]["securityContext"].update(root=1),
            "autoscalerOptions .*'root'",
        ),
        (lambda service: container(service, "gpu")["ports"][0].update(containerPort="http"), r"pod gpu .*'http' is not of type"),
    ],
)
def test_what_a_schema_does_not_know_is_found(change: Change, problem: str) -> None:
    _assert_found(problem, broken(change))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda service: cluster(service).update(rayVersion="2.59.0"), r"rayVersion: 2\.59\.0 is not the \S+ of constraints\.txt"),
        (
            lambda service: container(service, "gpu").update(image="frugal-serve:0.1.0-ray2.59.0-cuda"),
            "pod gpu: the image's tag",
        ),
        (lambda service: container(service, "gpu").update(image="frugal-serve"), "pod gpu: the image's tag"),
        (lambda service: container(service, "gpu")["resources"]["limits"].pop(GPU), "Model: no worker group has 0 CPUs and 1 GPUs"),
        (lambda service: group(service, "gpu").update(rayStartParams={}), "Ingress: a replica may settle on a GPU pod"),
        (
            lambda service: container(service, "gpu")["resources"]["limits"].update(memory="64Gi"),
            "pod gpu.*requests and limits",
        ),
        (lambda service: group(service, "gpu").update(maxReplicas=1), "Model: up to 4 replicas, but its worker groups have at most 1 pods"),
        (
            lambda service: group(service, "gpu")["template"]["spec"].update(terminationGracePeriodSeconds=30),
            "pod gpu: terminationGracePeriodSeconds",
        ),
        (lambda service: group(service, "gpu")["template"]["spec"]["securityContext"].pop("runAsNonRoot"), "pod head: securityContext"),
        (lambda service: container(service, "gpu")["securityContext"].pop("capabilities"), r"pod gpu\.ray-worker: securityContext"),
        (lambda service: container(service, "gpu")["volumeMounts"][0].update(name="weights"), r"pod edge\.ray-worker: no volume weights"),
        (lambda service: container(service, "gpu")["ports"].pop(0), r"pod edge\.ray-worker: no port named serve"),
        (lambda service: cluster(service)["headGroupSpec"].update(rayStartParams={}), r"headGroupSpec\.rayStartParams: num-cpus"),
        (
            lambda service: group(service, "gpu")["template"]["spec"]["volumes"][0]["persistentVolumeClaim"].update(claimName="other"),
            "pod edge: no PersistentVolumeClaim other in this file",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_found(change: Change, problem: str) -> None:
    _assert_found(problem, broken(change))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda _model, of: of["Model"]["ray_actor_options"].pop("num_gpus"),
            r"serveConfigV2: Model\..*add num_gpus: 1",
        ),
        (lambda _model, of: of["Model"].pop("ray_actor_options"), r"Model\.ray_actor_options\.num_gpus: missing"),
        (lambda _model, of: of["Ingress"].pop("ray_actor_options"), r"Ingress\.ray_actor_options\.num_cpus: must be more than 0"),
        (lambda _model, of: of["Model"].update(max_ongoing_request=8), r"serveConfigV2: .*max_ongoing_request: unknown key"),
        (lambda _model, of: of["Model"]["user_config"].update(max_waiting=256), r"serveConfigV2: Model\.max_ongoing_requests: 64 is less"),
        (
            lambda _model, of: of["Model"].update(graceful_shutdown_timeout_s=600),
            "pod gpu: termination.* shorter than the 600",
        ),
        (lambda model, _of: model.update(threads="auto"), r"args\.model\.threads: auto are not the 4 CPUs of a pod of gpu"),
        (lambda model, _of: model.update(quantisation="nf4"), r"serveConfigV2: .*quantisation: unknown key"),
    ],
)
def test_a_serve_configuration_that_does_not_fit_is_found(change: Callable[[Data, dict[str, Data]], object], problem: str) -> None:
    _assert_found(problem, broken(configured(change)))


def test_a_database_pod_that_may_become_root_is_found() -> None:
    objects = documents("postgres.yaml")
    (database,) = of_kind("StatefulSet", objects)
    database["spec"]["template"]["spec"]["securityContext"].pop("runAsNonRoot")
    _assert_found("pod frugal-serve-postgres: securityContext", problems_of(objects))


def test_an_unknown_key_in_a_plain_kubernetes_object_is_found() -> None:
    for name in ("network-policy.yaml", "postgres.yaml"):
        for number, item in enumerate(documents(name)):
            item["spec"]["unheard"] = 1
            assert [line for line in problems_of([item]) if "'unheard' was unexpected" in line], (name, number)
    assert problems_of([{"apiVersion": "v1", "kind": "Secrets", "metadata": {"name": "x"}}]) != []


def _assert_found(problem: str, found: list[str]) -> None:
    assert [line for line in found if re.match(problem, line)], found
