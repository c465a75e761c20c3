"""One node: a process that lives in namespaces of its own, with containerd, kubelet and kube-proxy of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from semipd_cluster import network
from semipd_cluster.control_plane import ControlPlane
from semipd_cluster.errors import ClusterError
from semipd_cluster.kubeconfig import write_kubeconfig
from semipd_cluster.machine import MODULE, Machine, Service
from semipd_cluster.node_files import CONTAINERD_SOCKET, NodePaths, build_files
from semipd_cluster.processes import Process, python_module, running, wait_until

NAMESPACE_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 90.0
HIDDEN_IN_NODES = ("/run", "/var/lib", "/var/log")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    address: str
    process: Process
    control_plane: ControlPlane

    @property
    def containerd(self) -> Path:
        """The socket as this machine sees it."""
        return containerd_socket(self.process.popen.pid)

    def wait_for_containerd(self) -> None:
        wait_until(
            self.containerd.exists, f"containerd of {self.name} listens", READY_TIMEOUT_S, self.process
        )

    def wait_until_ready(self) -> None:
        logs = f"{self.process.log.parent}/{self.name}-*.log"
        wait_until(self._is_ready, f"{self.name} is Ready, see {logs}", READY_TIMEOUT_S, self.process)

    def _is_ready(self) -> bool:
        node = self.control_plane.api.get_object(f"/api/v1/nodes/{self.name}") or {}
        conditions = node.get("status", {}).get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def containerd_socket(pid: int) -> Path:
    return Path(f"/proc/{pid}/root{CONTAINERD_SOCKET}")


def check_is_visible(path: Path) -> None:
    """Raises: ClusterError for a path that the node's own mounts would hide."""
    for hidden in HIDDEN_IN_NODES:
        if path.is_relative_to(hidden):
            raise ClusterError(f"{path}: nodes have a {hidden} of their own, and would not see it")


@contextmanager
def running_node(index: int, nodes: int, control_plane: ControlPlane) -> Iterator[Node]:
    """Starts without waiting for anything but the node's namespaces."""
    name = network.node_name(index)
    configuration = _write_files(index, control_plane)
    command = python_module(MODULE, "enter", str(configuration))
    with running(name, command, control_plane.logs, stdin=subprocess.PIPE) as process:
        pid = process.popen.pid
        wait_until(lambda: _has_own_network(pid), f"{name} has namespaces", NAMESPACE_TIMEOUT_S, process)
        network.attach(index, pid, nodes)
        assert process.popen.stdin is not None
        process.popen.stdin.write(b"go\n")
        process.popen.stdin.flush()
        yield Node(name, network.node_address(index), process, control_plane)


def _has_own_network(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except FileNotFoundError:  # it has ended
        return False


def _write_files(index: int, control_plane: ControlPlane) -> Path:
    """The machine's configuration, and every file that it names."""
    name = network.node_name(index)
    paths = _issue(index, control_plane)
    for part in ("lib", "log"):
        (paths.directory / part).mkdir(parents=True)
    for path, content in build_files(index, paths).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    machine = Machine(
        name=name,
        directory=str(paths.directory),
        logs=str(control_plane.logs),
        path=f"{control_plane.programs}:{SYSTEM_PATH}",
        services=build_services(index, paths),
    )
    configuration = paths.directory / "machine.json"
    configuration.write_text(json.dumps(asdict(machine)))
    return configuration


def _issue(index: int, control_plane: ControlPlane) -> NodePaths:
    name, address = network.node_name(index), network.node_address(index)
    directory, authority = control_plane.directory / name, control_plane.authority
    directory.mkdir()
    names = [f"DNS:{name}", f"IP:{address}"]
    kubelet = authority.issue(name, f"/O=system:nodes/CN=system:node:{name}", names)
    proxy = authority.issue(f"{name}-proxy", "/CN=system:kube-proxy")
    return NodePaths(
        directory=directory,
        authority=authority.pair.certificate,
        serving=kubelet,
        kubelet_kubeconfig=write_kubeconfig(
            directory / "kubelet.kubeconfig", control_plane.server, authority, kubelet
        ),
        proxy_kubeconfig=write_kubeconfig(
            directory / "proxy.kubeconfig", control_plane.server, authority, proxy
        ),
    )


def build_services(index: int, paths: NodePaths) -> list[Service]:
    kubelet = [
        "kubelet",
        f"--config={paths.directory / 'kubelet.json'}",
        f"--kubeconfig={paths.kubelet_kubeconfig}",
        f"--node-ip={network.node_address(index)}",
    ]
    return [
        Service(
            name="containerd",
            command=["containerd", "--config", str(paths.directory / "containerd.toml")],
            socket=CONTAINERD_SOCKET,
        ),
        Service(name="kubelet", command=kubelet),
        Service(name="kube-proxy", command=["kube-proxy", f"--config={paths.directory / 'kube-proxy.json'}"]),
    ]
