"""`PYTHONPATH=tests/fixtures:e2e/cluster python tests/upgrade/take_snapshot.py 0.2.0`: what this version leaves on a cluster.

Run it when a version is released: the next ones are tested against it. It needs the API server (`make cluster-build`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from api_server import ROOT, api_server_with_crds
from installed import render
from operator_process import Cluster, OperatorProcess, serving_agents
from running_service import free_port
from upgrade_snapshot import SNAPSHOTS, play_services, take


def main(version: str) -> None:
    directory = SNAPSHOTS / version
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving_agents() as agents,
        api_server_with_crds(Path(scratch) / "api-server") as kubeconfig,
    ):
        cluster = Cluster(kubeconfig)
        with OperatorProcess(kubeconfig, Path(scratch), agents.port, free_port()):
            play_services(cluster)
        objects = take(cluster)
        cluster.client.close()
    (directory / "objects.json").write_text(json.dumps(objects, indent=1, sort_keys=True) + "\n")
    (directory / "crds.yaml").write_text(render(ROOT / "crds"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"{sys.argv[0]}: got {len(sys.argv) - 1} arguments, allowed: the version, as in 0.2.0")
    main(sys.argv[1])
