"""What a cluster needs from this machine, and what it leaves there until it is removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from semipd_cluster import cgroups, network, packages
from semipd_cluster.errors import ClusterError

OWN_FILES = ("etcd", "pki", "node-*", "nodes.*", "volume-plugins", "*kubeconfig", "Corefile", "pause.tar")


def check() -> None:
    """Installs the packages that nodes need. Raises: ClusterError where no nodes can run."""
    check_rights()
    packages.ensure()


def check_rights() -> None:
    """Changes nothing. Raises: ClusterError where no nodes can run."""
    if os.geteuid() != 0:
        raise ClusterError("nodes have mounts and control groups of their own: only root may start them")
    cgroups.hierarchies()
    command = ["unshare", "--mount", "--net", "--uts", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"nodes need namespaces of their own: {done.stderr.strip()}")


def remove_traces(directory: Path) -> None:
    """Processes and groups of nodes, the bridge, and the cluster's own files but for its logs."""
    cgroups.remove()
    network.remove_bridge()
    for pattern in OWN_FILES:
        for path in directory.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
