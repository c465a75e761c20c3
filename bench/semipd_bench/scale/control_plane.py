"""etcd and an API server that knows semipd's kinds. Only a checkout has what builds and starts them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semipd_core.errors import SemipdError

ROOT = Path(__file__).parents[3]
PACKAGES = ROOT / "e2e" / "cluster"
ESTABLISHED_S = 30


class NoControlPlane(SemipdError):
    """There is nothing here to start an API server with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    kubeconfig: Path
    version: str
    read_metrics: Callable[[], str]  # blocks


@contextmanager
def running_api_server(directory: Path) -> Iterator[ApiServer]:
    """A fresh one. The first run of all builds Kubernetes, in about ten minutes.

    Raises: NoControlPlane outside a checkout, or where it does not start.
    """
    if not (PACKAGES / "semipd_cluster").is_dir() or not (ROOT / "crds").is_dir():
        raise NoControlPlane(
            f"bench scale needs a checkout of semipd, with e2e/cluster and crds: {ROOT} has not both of them"
        )
    sys.path.append(str(PACKAGES))
    from semipd_cluster import build  # noqa: PLC0415 - it is no part of the installed package
    from semipd_cluster.api import kubectl  # noqa: PLC0415
    from semipd_cluster.control_plane import ControlPlane  # noqa: PLC0415
    from semipd_cluster.errors import ClusterError  # noqa: PLC0415

    try:
        with ControlPlane(directory) as api:
            kubectl(api.programs, api.kubeconfig, "apply", "--server-side", "-k", str(ROOT / "crds"))
            wait = ("--for=condition=Established", "crd", "--all", f"--timeout={ESTABLISHED_S}s")
            kubectl(api.programs, api.kubeconfig, "wait", *wait)

            def read_metrics() -> str:
                return (api.api.get("/metrics") or b"").decode()

            yield ApiServer(
                kubeconfig=api.kubeconfig, version=build.kubernetes_version(), read_metrics=read_metrics
            )
    except ClusterError as error:
        raise NoControlPlane(str(error)) from error
