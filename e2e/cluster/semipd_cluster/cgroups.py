"""The control groups of the nodes: one group below /semipd in each v1 hierarchy, and nothing outside it.

A node enters its group before it gets a cgroup namespace of its own, so that it sees the group as the root.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from semipd_cluster.errors import ClusterError

PARENT = "semipd"
CPUSET_CPUS = "cpuset.cpus"
CPUSET_FILES = (CPUSET_CPUS, "cpuset.mems")
POD_GROUPS = (
    "kubepods/besteffort",
    "kubepods/burstable",
    "kubepods",
)  # children first: theirs must be a part of it
REMOVAL_TIMEOUT_S = 20.0


def hierarchies() -> list[Path]:
    """Where v1 controllers are mounted. Raises: ClusterError on a machine with cgroup v2 only."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [Path(point) for _, point, kind, *_ in mounts if kind == "cgroup"]
    if not found:
        raise ClusterError(
            "nodes need cgroup v1, which this machine does not mount: set KUBECONFIG to another cluster"
        )
    return found


def own_controllers() -> list[str]:
    """The v1 controllers as mount options: "memory", "cpu,cpuacct", "name=systemd"."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [controllers for number, controllers, _ in lines if number != "0"]


def enter(node: str) -> None:
    """Moves the calling process into the group of the node."""
    for hierarchy in hierarchies():
        parent = hierarchy / PARENT
        for group in (parent, parent / node):
            group.mkdir(exist_ok=True)
            _inherit_cpuset(group)
        (parent / node / "cgroup.procs").write_text(str(os.getpid()))


def _inherit_cpuset(group: Path) -> None:
    """A new cpuset group is empty, and takes no process."""
    for name in CPUSET_FILES:
        if (group / name).exists():
            (group / name).write_text((group.parent / name).read_text())


def confine_pods(node: str, cpus: Sequence[int]) -> None:
    """Pods of the node that is Ready run on `cpus`. The kubelet itself takes all that the machine has for its own."""
    for hierarchy in hierarchies():
        for group in POD_GROUPS:
            file = hierarchy / PARENT / node / group / CPUSET_CPUS
            if file.exists():
                file.write_text(",".join(map(str, cpus)))


def share_of_cpus(index: int, nodes: int) -> list[int]:
    """Of this machine's CPUs, for pods of node `index` (from 1): its own where there are enough, as real nodes have."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[index - 1 :: nodes] if len(cpus) >= nodes else cpus


def remove() -> None:
    """Ends every process of the groups, and removes the groups."""
    deadline_s = time.monotonic() + REMOVAL_TIMEOUT_S
    while groups := list(_groups()):
        for group in groups:
            _kill(group)
        for group in groups:
            _try_to_remove(group)
        if time.monotonic() > deadline_s:
            raise ClusterError(f"processes that do not end hold the groups {', '.join(map(str, groups))}")


def _groups() -> Iterator[Path]:
    """Children before their parents."""
    for hierarchy in hierarchies():
        for directory, _, _ in os.walk(hierarchy / PARENT, topdown=False):
            yield Path(directory)


def _kill(group: Path) -> None:
    try:
        if (group / "freezer.state").exists():
            (group / "freezer.state").write_text("THAWED")
        for pid in (group / "cgroup.procs").read_text().split():
            if (
                pid != "0"
            ):  # a process that this namespace does not see; to kill(2), 0 is the caller's own group
                os.kill(int(pid), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return


def _try_to_remove(group: Path) -> None:
    try:
        group.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        time.sleep(0.01)  # its last process is still ending
