"""The chart reads the manifests through links: a file in a link's place is an empty folder to helm, which says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

MANIFESTS = Path(__file__).parents[2] / "manifests"
FILES = sorted((MANIFESTS / "helm" / "semipd" / "files").iterdir())


def test_there_are_links() -> None:
    assert {each.name for each in FILES} == {"base", "crds", "monitoring", "namespaced", "policies"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_of_the_chart_is_a_link_to_a_folder_of_manifests(file: Path) -> None:
    assert file.is_symlink()
    assert file.resolve() in {MANIFESTS.resolve() / file.name, MANIFESTS.resolve().parent / file.name}
    assert list(file.glob("*.yaml"))
