"""etcd and the API server: ready in a second, and enough for everything that needs no pods.

Alone, nothing reconciles: no garbage collection, no namespace deletion, no scheduling. `cluster` adds what does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from semipd_cluster import build
from semipd_cluster.api import Api
from semipd_cluster.certificates import Authority, KeyPair
from semipd_cluster.kubeconfig import write_kubeconfig
from semipd_cluster.processes import Process, running, wait_until

LOOPBACK = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
OWN_DIRECTORIES = ("etcd", "logs", "pki")
READY_TIMEOUT_S = 60.0
FIRST_PORT, PORTS_PER_WORKER = 12_000, 4_000
ALONE = ("--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none")
WITH_NODES = ("--enable-admission-plugins=NodeRestriction",)

_numbers = itertools.count(os.getpid() * 7)


class ControlPlane:
    """`with ControlPlane(directory) as api: use(api.kubeconfig)`; what an earlier one left there goes."""

    def __init__(
        self,
        directory: Path,
        *,
        programs: Path | None = None,
        address: str = LOOPBACK,
        port: int = 0,  # 0: a free one
        flags: Sequence[str] = ALONE,
    ) -> None:
        self.directory = directory.resolve()
        self.programs = programs or build.ensure_programs()
        self.address = address
        self.port = port
        self.flags = flags
        self.kubeconfig = self.directory / "kubeconfig"
        self.logs = self.directory / "logs"
        self.authority: Authority
        self.token_signer: KeyPair  # of service accounts
        self.api: Api
        self._running = ExitStack()
        self._etcd: Process
        self._api_server: Process
        self._api_server_command: list[str]

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.port}"

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self._prepare_directory()
            self._start(starting)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _prepare_directory(self) -> None:
        for name in OWN_DIRECTORIES:
            shutil.rmtree(self.directory / name, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.authority = Authority(self.directory / "pki")
        self.token_signer = self.authority.issue("service-accounts", "/CN=service-accounts")

    def _start(self, starting: ExitStack) -> None:
        etcd_port, peer_port, free_port = free_ports(3)
        self.port = self.port or free_port
        etcd_url = f"http://{LOOPBACK}:{etcd_port}"
        user = self.authority.issue("admin", "/O=system:masters/CN=admin")
        self.api = Api(self.server, self.authority, user)
        write_kubeconfig(self.kubeconfig, self.server, self.authority, user)
        peer = f"--peer-url=http://{LOOPBACK}:{peer_port}"
        data = f"--data-dir={self.directory / 'etcd'}"
        self._etcd = starting.enter_context(
            running("etcd", [str(self.programs / "etcd"), data, f"--client-url={etcd_url}", peer], self.logs)
        )
        self._api_server_command = [
            str(self.programs / "kube-apiserver"),
            *self._api_server_flags(etcd_url),
        ]
        self._start_api_server(starting)

    def _start_api_server(self, starting: ExitStack) -> None:
        self._api_server = starting.enter_context(
            running("kube-apiserver", self._api_server_command, self.logs)
        )
        wait_until(self._is_ready, "the API server is ready", READY_TIMEOUT_S, self._etcd, self._api_server)

    def break_api_server(self, outage_s: float) -> None:
        """Killed with -9, and started again after `outage_s`."""
        self._api_server.popen.kill()
        self._api_server.popen.wait()
        time.sleep(outage_s)
        self._start_api_server(self._running)

    def _is_ready(self) -> bool:
        return self.api.exists("/readyz") and self.api.exists("/api/v1/namespaces/default")

    def _api_server_flags(self, etcd_url: str) -> list[str]:
        names = [f"IP:{self.address}", f"IP:{LOOPBACK}", f"IP:{FIRST_SERVICE_ADDRESS}", "DNS:localhost"]
        names += [
            f"DNS:kubernetes{suffix}"
            for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")
        ]
        serving = self.authority.issue("kube-apiserver", "/CN=kube-apiserver", names)
        to_kubelets = self.authority.issue(
            "kube-apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet"
        )
        return [
            f"--etcd-servers={etcd_url}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority.pair.certificate}",
            f"--service-account-key-file={self.token_signer.certificate}",
            f"--service-account-signing-key-file={self.token_signer.key}",
            f"--service-account-issuer={ISSUER}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--kubelet-certificate-authority={self.authority.pair.certificate}",
            f"--kubelet-client-certificate={to_kubelets.certificate}",
            f"--kubelet-client-key={to_kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            *self.flags,
        ]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those that the kernel gives out by itself; each worker of pytest has its own part."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    found: list[int] = []
    while len(found) < count:
        port = FIRST_PORT + PORTS_PER_WORKER * worker + next(_numbers) % PORTS_PER_WORKER
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
            found.append(port)
    return found
