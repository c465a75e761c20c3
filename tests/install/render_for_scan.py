"""`python render_for_scan.py DIRECTORY`: what the manifests and the operator give a cluster, as files for a scanner.

DIRECTORY/operator has the kustomizations, DIRECTORY/children what becomes of the services in tests/fixtures/rendered_children.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from installed import MANIFESTS, render
from rendered_children import SERVICES, children_of

KUSTOMIZATIONS = ("default", "cluster", "namespaced")


def main() -> None:
    directory = Path(sys.argv[1])
    for part in ("operator", "children"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    for name in KUSTOMIZATIONS:
        (directory / "operator" / f"{name}.yaml").write_text(render(MANIFESTS / name))
    for name in SERVICES:
        file = directory / "children" / f"{name.replace(' ', '-')}.yaml"
        file.write_text(yaml.safe_dump_all(children_of(name)))


if __name__ == "__main__":
    main()
