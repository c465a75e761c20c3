"""What docs/install.md says of images of one's own leaves no image of the manifests behind, in either way to install."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import API_SERVER_IS_BUILT
from installed import MANIFESTS, ROOT, programs, render

CHART = MANIFESTS / "helm" / "semipd"
SHIPPED = re.compile(r"(?<!registry\.example/)semipd/(operator|engine):")
TOOLS = pytest.mark.skipif(
    not API_SERVER_IS_BUILT, reason="helm and kubectl are not built: make cluster-build"
)


def section() -> str:
    text = (ROOT / "docs" / "install.md").read_text()
    return text.partition("\n## Images of your own\n")[2].partition("\n## ")[0]


def overlay() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(section().partition("```yaml\n")[2].partition("```")[0])
    return found


def helm_sets() -> list[str]:
    """The arguments of `--set`, as pairs joined by commas."""
    command = section().partition("$ helm install")[2].partition("```")[0].replace("\\\n", " ")
    words = shlex.split(command)
    return [value for flag, value in itertools.pairwise(words) if flag == "--set"]


def images(deployment: dict[str, Any]) -> dict[str, str]:
    """By where they stand: the container's own, and those that its variables hand on."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    handed_on = {each["name"]: each.get("value", "") for each in container["env"]}
    return {"image": container["image"]} | {
        name: value for name, value in handed_on.items() if name.endswith("_IMAGE")
    }


def deployment_of(text: str) -> dict[str, Any]:
    return next(each for each in yaml.safe_load_all(text) if each and each["kind"] == "Deployment")


def test_the_overlay_names_every_image_of_the_operators_deployment() -> None:
    (patch,) = overlay()["patches"]
    given = yaml.safe_load(patch["patch"])
    shipped = deployment_of((MANIFESTS / "operator" / "operator.yaml").read_text())
    assert images(given).keys() == images(shipped).keys()
    assert given["metadata"] == {key: shipped["metadata"][key] for key in ("name", "namespace")}
    (container,) = given["spec"]["template"]["spec"]["containers"]
    assert container["name"] == shipped["spec"]["template"]["spec"]["containers"][0]["name"]


def test_the_charts_values_that_are_set_are_there() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = [pair.partition("=")[0].split(".") for each in helm_sets() for pair in each.split(",")]
    assert len(named) == 4
    assert all(below in values[top] for top, below in named)


@TOOLS
def test_no_image_of_the_manifests_is_left_and_helm_says_the_same(tmp_path: Path) -> None:
    found = overlay()
    found["resources"] = [str(Path("manifests") / Path(each).name) for each in found["resources"]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(found))
    (tmp_path / "manifests").symlink_to(MANIFESTS)
    rendered = render(tmp_path)
    assert not SHIPPED.search(rendered)
    command = [str(programs() / "helm"), "template", "semipd", str(CHART), "--namespace", "semipd-system"]
    sets = [word for each in helm_sets() for word in ("--set", each)]
    chart = subprocess.run([*command, *sets], capture_output=True, text=True, check=True, timeout=120).stdout
    assert not SHIPPED.search(chart)
    assert images(deployment_of(rendered)) == images(deployment_of(chart))
