"""The wires between this machine and its nodes: one bridge, one veth pair for each node, static routes.

The machine is 192.168.99.1, where the control plane listens. Nodes have no default route: pods reach the cluster and this
machine, and nothing beyond. Every route and veth goes when its bridge or its node goes.
"""

from __future__ import annotations

import subprocess

from semipd_cluster.control_plane import SERVICE_RANGE
from semipd_cluster.errors import ClusterError

BRIDGE = "semipd0"
PREFIX = "192.168.99"
HOST_ADDRESS = f"{PREFIX}.1"
POD_RANGE = "10.244.0.0/16"


def node_name(index: int) -> str:
    return f"node-{index}"


def node_address(index: int) -> str:
    return f"{PREFIX}.{10 + index}"


def pod_range(index: int) -> str:
    return f"10.244.{index}.0/24"


def create_bridge() -> None:
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def remove_bridge() -> None:
    """With it go the routes. The veth pairs go with their nodes, but later than these end."""
    names = [line.split()[0].partition("@")[0] for line in _ip("-brief", "link", "show").splitlines()]
    for name in names:
        if name == BRIDGE or name.startswith(f"{BRIDGE}n"):
            subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


def attach(index: int, pid: int, nodes: int) -> None:
    """Wires the network namespace of `pid` as the node `index` of `nodes`, counted from 1."""
    outside = f"{BRIDGE}n{index}"
    _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("link", "set", outside, "master", BRIDGE, "up")
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
    _run(*inside, "link", "set", "lo", "up")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "address", "add", f"{node_address(index)}/24", "dev", "eth0")
    _run(
        *inside, "route", "add", SERVICE_RANGE, "via", HOST_ADDRESS
    )  # any will do: the address is translated before
    for other in range(1, nodes + 1):
        if other != index:
            _run(*inside, "route", "add", pod_range(other), "via", node_address(other))
    _ip("route", "add", pod_range(index), "via", node_address(index))
    if index == 1:
        _ip("route", "add", SERVICE_RANGE, "via", node_address(index))


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
