"""Builds the programs of the cluster, and keeps them under the hash of what they are built from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semipd_cluster.errors import ClusterError

MODULE = Path(__file__).parent.parent
SOURCES = ("go.sum", "go.mod", "main.go", "pause/main.go")
BINARY = "semipd-kubernetes"
PAUSE = "pause"
PROGRAMS = (
    "coredns",
    "etcd",
    "helm",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semipd"


def programs_directory() -> Path:
    """Where the programs of these sources lie once they are built."""
    content = b"".join((MODULE / name).read_bytes() for name in SOURCES)
    return cache_directory() / f"kubernetes-{hashlib.sha256(content).hexdigest()[:16]}"


def find_programs() -> Path | None:
    directory = programs_directory()
    return directory if directory.is_dir() else None


def ensure_programs() -> Path:
    """Builds what no earlier call has built: 11 minutes and 2.5 GB of memory on two cores. Raises: ClusterError."""
    directory = programs_directory()
    with _build_lock():
        if not directory.is_dir():
            _build(directory)
    return directory


@contextmanager
def _build_lock() -> Iterator[None]:
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(directory: Path) -> None:
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    print(
        f"building Kubernetes {kubernetes_version()} into {directory} (about 11 minutes on two cores)",
        flush=True,
    )
    _go_build(partial / PAUSE, "./pause")
    _go_build(partial / BINARY, ".")
    for program in PROGRAMS:
        (partial / program).symlink_to(BINARY)
    partial.rename(directory)


def _go_build(output: Path, package: str) -> None:
    go = shutil.which("go")
    if go is None:
        raise ClusterError("no go in PATH: Kubernetes is built from source")
    flags = " ".join(["-s", "-w", *version_flags(kubernetes_version())])
    command = [
        go,
        "build",
        "-trimpath",
        "-buildvcs=false",
        "-mod=readonly",
        f"-ldflags={flags}",
        "-o",
        str(output),
        package,
    ]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    if subprocess.run(command, cwd=MODULE, env=environment, check=False).returncode != 0:
        raise ClusterError(f"go build {package} failed")


def kubernetes_version() -> str:
    found = re.search(r"^\s*k8s\.io/kubernetes v(\S+)$", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def version_flags(version: str) -> list[str]:
    """What the release build stamps in, for /version and for the kubelet's entry in node status."""
    major, minor, _ = version.split(".")
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return [f"-X {package}.{name}={value}" for package in packages for name, value in values.items()]
