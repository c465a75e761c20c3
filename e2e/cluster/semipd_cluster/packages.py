"""Debian's packages, those of the nodes first."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from semipd_cluster.errors import ClusterError

NODE = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "conntrack",
    "iproute2",
    "util-linux",
    "openssl",
)
POLICY = Path("/usr/sbin/policy-rc.d")


def find_missing(packages: Sequence[str] = NODE) -> list[str]:
    return [package for package in packages if not _is_installed(package)]


def ensure(packages: Sequence[str] = NODE) -> None:
    """Installs what is missing, when root can. Raises: ClusterError."""
    missing = find_missing(packages)
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"missing packages, to be installed by root with apt-get: {' '.join(missing)}")
    print(f"installing {' '.join(missing)}", flush=True)
    with _services_not_started():
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *missing)


def _is_installed(package: str) -> bool:
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "installed"


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", "--quiet", *arguments]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"apt-get {' '.join(arguments)} failed:\n{done.stdout}")


@contextmanager
def _services_not_started() -> Iterator[None]:
    """Debian's own containerd must not start where systemd runs: a machine's policy stands, or ours for this while."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
