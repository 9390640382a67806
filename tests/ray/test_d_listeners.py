"""Who listens where after a start: nothing of ours or of HAProxy's on another address than loopback; Ray's own as the README lists them."""

from __future__ import annotations

import re

import grpc
import psutil
import pytest
from ray.serve._private.constants import RAY_SERVE_FALLBACK_PROXY_HTTP_PORT
from ray.serve.generated import serve_pb2

from serve_app.program.profile import OWN_PORTS
from tests.ray.program import REPOSITORY, Program

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def listeners(process: psutil.Process) -> list[tuple[str, int]]:
    return [(at.laddr.ip, at.laddr.port) for at in process.net_connections("tcp") if at.status == psutil.CONN_LISTEN]


def test_the_server_and_haproxy_listen_on_loopback_alone(program: Program) -> None:
    everything = {at for process in program.processes() for at in listeners(process)}
    assert ("127.0.0.1", program.port) in everything
    haproxy = {at for process in program.named("haproxy") for at in listeners(process)}
    assert len(haproxy) == 3  # the front door, its statistics, its metrics
    assert {address for address, _port in haproxy} == {"127.0.0.1"}
    assert {address for address, port in everything if 30000 <= port <= 31000} <= set(LOOPBACK)  # Ingress behind HAProxy


def test_serves_proxy_has_a_port_that_no_other_program_shares(program: Program) -> None:
    """Behind HAProxy it takes what no replica takes yet; on Serve's own number, two programs would answer each other's callers."""
    (proxy,) = [process for process in program.processes() if process.cmdline()[:1] == ["ray::ProxyActor"]]
    ports = {port for _ip, port in listeners(proxy)}
    assert len(ports & set(OWN_PORTS)) == 1
    assert RAY_SERVE_FALLBACK_PROXY_HTTP_PORT not in ports


def test_every_listener_on_another_address_is_rays_and_stands_in_the_readme(program: Program) -> None:
    text = (REPOSITORY / "README.md").read_text()
    table = text[text.index("| Ray's process |") :].split("\n\n")[0]
    listed = set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))
    found = {kind(process) for process in program.processes() if {ip for ip, _port in listeners(process)} - set(LOOPBACK)}
    assert found == listed


def test_a_replica_refuses_a_call_without_rays_token(program: Program) -> None:
    (replica,) = program.replicas("AnswerCache")
    (port,) = [port for ip, port in listeners(replica) if ip not in LOOPBACK]
    service = serve_pb2.DESCRIPTOR.services_by_name["ASGIService"]
    for method in service.methods:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{service.full_name}/{method.name}", request_serializer=bytes, response_deserializer=bytes)
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=10)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, method.name


def kind(process: psutil.Process) -> str:
    """The name under which the README lists a process of Ray's."""
    words = process.cmdline()
    if words[0].startswith("ray::ServeReplica:"):
        return "ray::ServeReplica"
    if words[0].startswith("ray::"):
        return words[0].split()[0]
    script = next((word for word in words if word.endswith(".py")), None)
    return script.rsplit("/", 1)[-1] if script else process.name()
