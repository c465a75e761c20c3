"""Process 1 of a node: gives it its own mounts, then starts its services and starts them again when they end.

`enter` moves into the node's control groups and namespaces, `run` is what runs inside. All of a node ends with it: the kernel
kills what is left in its process namespace, and with the last process go its mounts and network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semipd_cluster import cgroups

MODULE = "semipd_cluster.machine"
NAMESPACES = (
    "--mount",
    "--net",
    "--uts",
    "--ipc",
    "--cgroup",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
RESTART_AFTER_S = 1.0
SOCKET_TIMEOUT_S = 30.0
KUBELET_SYSCTLS = {  # what the kubelet would write, and what only the whole machine has
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    command: list[str]
    socket: str | None = None  # the next service starts when this exists


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    name: str
    directory: str
    logs: str
    path: str  # PATH
    services: list[Service]


def read_machine(text: str) -> Machine:
    fields: dict[str, Any] = json.loads(text)
    return Machine(**{**fields, "services": [Service(**service) for service in fields["services"]]})


def enter(configuration: str) -> None:
    """Does not return."""
    cgroups.enter(read_machine(Path(configuration).read_text()).name)
    inside = [sys.executable, "-m", MODULE, "run", configuration]
    os.execvp("unshare", ["unshare", *NAMESPACES, "--propagation", "private", "--", *inside])


def run(configuration: str) -> None:
    """Does not return, unless the one that started it ends before the network is there."""
    machine = read_machine(Path(configuration).read_text())
    if sys.stdin.readline() == "":
        return
    os.environ["PATH"] = machine.path
    _call("hostname", machine.name)
    _mount(Path(machine.directory))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    supervise(machine)


def _mount(directory: Path) -> None:
    _call("mount", "--make-rshared", "/")  # volumes that propagate need it
    for name in ("lib", "log"):
        _call("mount", "--bind", directory / name, f"/var/{name}")
    _call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for name in ("lock", "netns"):
        (Path("/run") / name).mkdir()
    for name, value in KUBELET_SYSCTLS.items():
        private = directory / "sysctl" / name
        private.parent.mkdir(parents=True, exist_ok=True)
        private.write_text(value + "\n")
        _call("mount", "--bind", private, f"/proc/sys/{name}")
    _mount_cgroups(Path("/sys/fs/cgroup"))


def _mount_cgroups(root: Path) -> None:
    """Version 1 only: with `unified` beside it, runtimes take the machine for a hybrid one."""
    _call("mount", "-t", "sysfs", "sysfs", "/sys")
    _call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for controllers in cgroups.own_controllers():
        point = root / controllers.removeprefix("name=")
        point.mkdir()
        _call("mount", "-t", "cgroup", "-o", controllers, "cgroup", point)


def _call(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def supervise(machine: Machine) -> None:
    """Does not return. Also collects the orphans of containers, as process 1 must."""
    running: dict[int, Service] = {}
    for service in machine.services:
        running[_start(service, machine)] = service
        _wait_for_socket(service)
    while True:
        ended, _ = os.wait()
        if service_ended := running.pop(ended, None):
            time.sleep(RESTART_AFTER_S)
            running[_start(service_ended, machine)] = service_ended


def _start(service: Service, machine: Machine) -> int:
    log = Path(machine.logs) / f"{machine.name}-{service.name}.log"
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp(service.command[0], service.command, os.environ, file_actions=actions, setsid=True)


def _wait_for_socket(service: Service) -> None:
    deadline_s = time.monotonic() + SOCKET_TIMEOUT_S
    while service.socket is not None and not Path(service.socket).exists():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{service.name} does not listen on {service.socket}")
        time.sleep(0.05)


if __name__ == "__main__":
    {"enter": enter, "run": run}[sys.argv[1]](sys.argv[2])
