"""The whole cluster: control plane and DNS on this machine, nodes in namespaces.

`with Cluster() as cluster` runs it as long as the block; `daemon` runs such a block in the background.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from semipd_cluster import build, cgroups, controllers, dns, images, machine_lock, machine_state, network
from semipd_cluster.api import kubectl
from semipd_cluster.control_plane import WITH_NODES, ControlPlane
from semipd_cluster.kubeconfig import write_kubeconfig
from semipd_cluster.node import Node, check_is_visible, containerd_socket, running_node
from semipd_cluster.node_files import PAUSE_IMAGE
from semipd_cluster.processes import Process, running, wait_until

PORT = 6443
NODES = 2
DNS_TIMEOUT_S = 30.0
GPU_RESOURCE = "nvidia.com~1gpu"  # a JSON pointer's way to write the slash


def default_directory() -> Path:
    return build.cache_directory() / "cluster"


class Cluster:
    """Needs root. `gpus` is what each node advertises as `nvidia.com/gpu`: a number, no devices."""

    def __init__(self, directory: Path | None = None, *, nodes: int = NODES, gpus: int = 0) -> None:
        self.directory = (directory or default_directory()).resolve()
        self.node_count = nodes
        self.gpus = gpus
        self.kubeconfig = self.directory / "kubeconfig"
        self.programs = build.programs_directory()
        self.nodes: list[Node] = []
        self.control_plane: ControlPlane
        self._running = ExitStack()

    def __enter__(self) -> Self:
        machine_state.check()
        self.programs = build.ensure_programs()
        for path in (self.directory, self.programs, Path(sys.executable)):
            check_is_visible(path)
        with ExitStack() as starting:
            starting.enter_context(machine_lock.held(self.directory))
            starting.callback(machine_state.remove_traces, self.directory)
            machine_state.remove_traces(self.directory)
            self._start(starting)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl(self.programs, self.kubeconfig, *arguments, stdin=stdin)

    def import_images(self, archives: Sequence[Path]) -> None:
        images.import_archives([node.containerd for node in self.nodes], archives)

    def _start(self, starting: ExitStack) -> None:
        network.create_bridge()
        self.control_plane = control_plane = starting.enter_context(
            ControlPlane(
                self.directory,
                programs=self.programs,
                address=network.HOST_ADDRESS,
                port=PORT,
                flags=WITH_NODES,
            )
        )
        for name, command in controllers.build_commands(control_plane).items():
            starting.enter_context(running(name, command, control_plane.logs))
        self.nodes = [
            starting.enter_context(running_node(index, self.node_count, control_plane))
            for index in range(1, self.node_count + 1)
        ]
        coredns = starting.enter_context(
            running("coredns", self._build_coredns(control_plane), control_plane.logs)
        )
        self._finish(coredns)

    def _finish(self, coredns: Process) -> None:
        """What runs gets its pause image, its DNS and its GPUs."""
        self.kubectl("apply", "--filename=-", stdin=dns.build_objects())
        for node in self.nodes:
            node.wait_for_containerd()
        pause = images.write_image(
            self.directory / "pause.tar", PAUSE_IMAGE, {"pause": self.programs / build.PAUSE}, ["/pause"]
        )
        self.import_images([pause])
        for index, node in enumerate(self.nodes, 1):
            node.wait_until_ready()
            cgroups.confine_pods(node.name, cgroups.share_of_cpus(index, self.node_count))
            self._advertise_gpus(node)
        wait_until(dns.is_ready, "cluster DNS answers", DNS_TIMEOUT_S, coredns)
        self._write_state()

    def _build_coredns(self, control_plane: ControlPlane) -> list[str]:
        user = control_plane.authority.issue("coredns", f"/CN={dns.USER}")
        kubeconfig = write_kubeconfig(
            self.directory / "coredns.kubeconfig", control_plane.server, control_plane.authority, user
        )
        corefile = self.directory / "Corefile"
        corefile.write_text(dns.build_corefile(kubeconfig))
        return [str(self.programs / "coredns"), "-conf", str(corefile)]

    def _advertise_gpus(self, node: Node) -> None:
        if self.gpus == 0:
            return
        fields = ("capacity", "allocatable")
        patch = [
            {"op": "add", "path": f"/status/{field}/{GPU_RESOURCE}", "value": str(self.gpus)}
            for field in fields
        ]
        self.kubectl(
            "patch", "node", node.name, "--subresource=status", "--type=json", f"--patch={json.dumps(patch)}"
        )

    def _write_state(self) -> None:
        """Written last: a cluster with this file is ready."""
        pids = {node.name: node.process.popen.pid for node in self.nodes}
        partial = self.directory / "nodes.partial"
        partial.write_text(json.dumps(pids))
        partial.rename(nodes_file(self.directory))


def nodes_file(directory: Path) -> Path:
    return directory / "nodes.json"


def read_containerd_sockets(directory: Path) -> list[Path]:
    """Of a cluster that another process runs."""
    pids: dict[str, int] = json.loads(nodes_file(directory).read_text())
    return [containerd_socket(pid) for pid in pids.values()]
