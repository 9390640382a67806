"""What must hold in a file of cluster/: Kubernetes' schemas, RayService's, Serve's, our own settings, and that the parts fit each other.

`problems_of` returns mistakes as lines and touches no cluster. The tests break files with it as well as read ours.
"""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from packaging.version import Version

from serve_app import __version__
from serve_app.config_file import CheckedConfig, check_config
from serve_app.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY_SERVICES = ("rayservice-cpu.yaml", "rayservice-gpu.yaml")
MANIFESTS = (*RAY_SERVICES, "network-policy.yaml", "postgres.yaml")
KUBERNETES = ("1.30", "1.37")
GPU = "nvidia.com/gpu"

Data = dict[str, Any]


def documents(name: str) -> list[Data]:
    """The objects in a file of cluster/."""
    return [document for document in yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8")) if document is not None]


def of_kind(kind: str, objects: list[Data]) -> list[Data]:
    return [item for item in objects if item.get("kind") == kind]


def pins() -> dict[str, str]:
    """Package -> version, as constraints.txt has them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def problems_of(objects: list[Data]) -> list[str]:
    """Every mistake in the objects of one file; the later checks expect what the schemas have promised."""
    found = [problem for item in objects for problem in _schema_problems(item)]
    if found:
        return found
    claims = {item["metadata"]["name"] for item in of_kind("PersistentVolumeClaim", objects)}
    for item in of_kind("StatefulSet", objects):
        found += _security_problems(item["metadata"]["name"], item["spec"]["template"]["spec"])
    return found + [problem for service in of_kind("RayService", objects) for problem in _ray_service_problems(service, claims)]


def pods(service: Data) -> dict[str, Data]:
    """Every pod that KubeRay makes for a RayService: `head` and the worker groups by their names."""
    cluster = service["spec"]["rayClusterConfig"]
    groups = {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster.get("workerGroupSpecs", [])}}
    return {name: group["template"] for name, group in groups.items()}


def ports(objects: list[Data]) -> set[tuple[str, int]]:
    """Every named port of the containers."""
    templates = [template for service in of_kind("RayService", objects) for template in pods(service).values()]
    templates += [item["spec"]["template"] for item in of_kind("StatefulSet", objects)]
    return {
        (port["name"], port["containerPort"])
        for template in templates
        for container in template["spec"]["containers"]
        for port in container["ports"]
    }


def serve_config(service: Data) -> Data:
    config: Data = yaml.safe_load(service["spec"]["serveConfigV2"])
    return config


def _schema_problems(item: Data) -> Iterator[str]:
    if item.get("kind") != "RayService":
        yield from _kubernetes_problems(item, str(item.get("kind")))
        return
    found = list(_lines("RayService", ray_service_schema().iter_errors(item)))
    yield from found
    if found:
        return
    for name, template in pods(item).items():
        yield from _kubernetes_problems(_pod(template), f"pod {name}")
    options = item["spec"]["rayClusterConfig"].get("autoscalerOptions", {})
    container = {key: options[key] for key in ("resources", "securityContext") if key in options}
    yield from _kubernetes_problems(_pod({"spec": {"containers": [{"name": "autoscaler", **container}]}}), "autoscalerOptions")


@functools.cache
def ray_service_schema() -> jsonschema.Draft202012Validator:
    schema = yaml.safe_load((pathlib.Path(__file__).parent / "rayservice_schema.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _pod(template: Data) -> Data:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template.get("metadata", {})}, "spec": template["spec"]}


def _kubernetes_problems(item: Data, where: str) -> Iterator[str]:
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{where}: {error.message}"
        except kubernetes_validate.ValidationError as error:
            yield from _lines(f"{where} (Kubernetes {version})", [error])


def _lines(where: str, errors: Any) -> Iterator[str]:
    for error in errors:
        yield f"{where}.{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:300]}"


def _ray_service_problems(service: Data, claims: set[str]) -> Iterator[str]:
    try:
        config = check_config(serve_config(service))
    except ConfigError as error:
        yield from (f"serveConfigV2: {problem}" for problem in error.problems)
        return
    yield from _version_problems(service)
    yield from _placement_problems(service, config)
    for name, template in pods(service).items():
        yield from _pod_problems(name, template["spec"], config, claims)


def _version_problems(service: Data) -> Iterator[str]:
    pinned, told = pins()["ray"], service["spec"]["rayClusterConfig"]["rayVersion"]
    if Version(told) != Version(pinned):
        yield f"rayVersion: {told} is not the {pinned} of constraints.txt"
    for name, template in pods(service).items():
        for container in template["spec"]["containers"]:
            tag = container["image"].rpartition(":")[2]
            if not tag.startswith(f"{__version__}-ray{pinned}-"):
                yield f"pod {name}: the image's tag {tag} does not name version {__version__} and ray {pinned}"


def _placement_problems(service: Data, config: CheckedConfig) -> Iterator[str]:
    """Every deployment fits a worker group, and none fits the head."""
    cluster = service["spec"]["rayClusterConfig"]
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams: num-cpus must be '0', or replicas settle on the head"
    for name, entry in config.deployments.items():
        options = entry.get("ray_actor_options", {})
        num_cpus, num_gpus = options.get("num_cpus", 0), options.get("num_gpus", 0)
        if not num_cpus and not num_gpus:
            yield f"{name}.ray_actor_options.num_cpus: must be more than 0, or the replica may settle on the head or on a GPU pod"
        if not num_gpus and any(_fits(num_cpus, 0, group) for group in cluster["workerGroupSpecs"] if GPU in _limits(group)):
            yield f"{name}: a replica may settle on a GPU pod and keep it; set rayStartParams num-cpus: '0' in that group"
        if name == "Model" and config.app.model.device == "cuda" and not num_gpus:
            yield "Model.ray_actor_options.num_gpus: missing, but args.model.device is cuda"
        groups = [group for group in cluster["workerGroupSpecs"] if _fits(num_cpus, num_gpus, group)]
        if not groups:
            yield f"{name}: no worker group has {num_cpus} CPUs and {num_gpus} GPUs for a replica"
        elif name == "Model":
            yield from _model_problems(config, entry, groups)


def _fits(num_cpus: float, num_gpus: float, group: Data) -> bool:
    limits = _limits(group)
    offered = float(group["rayStartParams"].get("num-cpus", limits["cpu"]))
    return num_cpus <= offered and num_gpus <= int(limits.get(GPU, 0))


def _limits(group: Data) -> Data:
    limits: Data = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return limits


def _model_problems(config: CheckedConfig, entry: Data, groups: list[Data]) -> Iterator[str]:
    wanted = entry.get("autoscaling_config", {}).get("max_replicas", entry.get("num_replicas", 1))
    offered = sum(group["maxReplicas"] for group in groups)
    if wanted > offered:
        yield f"Model: up to {wanted} replicas, but its worker groups have at most {offered} pods"
    for group in groups:
        if config.app.model.threads != int(_limits(group)["cpu"]):
            cpus = _limits(group)["cpu"]
            yield f"args.model.threads: {config.app.model.threads} are not the {cpus} CPUs of a pod of {group['groupName']}"


def _pod_problems(name: str, spec: Data, config: CheckedConfig, claims: set[str]) -> Iterator[str]:
    drain = max(entry.get("graceful_shutdown_timeout_s", 20) for entry in config.deployments.values())
    if spec.get("terminationGracePeriodSeconds", 30) < drain:
        yield f"pod {name}: terminationGracePeriodSeconds is shorter than the {drain} s in which Serve drains a replica"
    yield from _security_problems(name, spec)
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    used = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "persistentVolumeClaim" in volume}
    yield from (f"pod {name}: no PersistentVolumeClaim {claim} in this file" for claim in sorted(used - claims))
    for container in spec["containers"]:
        yield from _container_problems(f"pod {name}.{container['name']}", container, volumes, config)


def _security_problems(name: str, spec: Data) -> Iterator[str]:
    """What Kubernetes' standard `restricted` asks of a pod, as far as ours can break it."""
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"pod {name}: securityContext must have runAsNonRoot and the seccompProfile RuntimeDefault"
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"pod {name}.{container['name']}: securityContext must forbid privilege escalation and drop every capability"


def _container_problems(where: str, container: Data, volumes: Data, config: CheckedConfig) -> Iterator[str]:
    if container["resources"].get("requests") != container["resources"].get("limits"):
        yield f"{where}: requests and limits differ"
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"{where}: no volume {mount['name']}"
    if ("serve", config.port) not in {(port["name"], port["containerPort"]) for port in container["ports"]}:
        yield f"{where}: no port named serve with the {config.port} of http_options"


def size_bytes(quantity: str) -> Decimal:
    """Kubernetes' 32Gi and 500M in bytes."""
    found = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti|k|M|G|T)?", quantity)
    assert found is not None, quantity
    unit = found[2] or ""
    return int(found[1]) * Decimal(1024 if unit.endswith("i") else 1000) ** ("kmgt".index(unit[0].lower()) + 1 if unit else 0)
