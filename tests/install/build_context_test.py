"""Every builder of images sees the same few files, by whichever name it looks for what to leave out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_docker_leaves_out_what_buildah_does() -> None:
    assert (ROOT / ".dockerignore").is_symlink()
    assert (ROOT / ".dockerignore").resolve() == (ROOT / ".containerignore").resolve()


@pytest.mark.parametrize("page", ["docs/install.md", "e2e/images/README.md"])
def test_docker_is_told_where_the_stages_are(page: str) -> None:
    """By itself it looks for a Dockerfile."""
    stages = set(re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE))
    commands = re.findall(r"`docker build ([^`]*)`", (ROOT / page).read_text())
    assert commands
    for command in commands:
        assert "--file Containerfile" in command
        assert set(re.findall(r"--target (\S+)", command)) <= stages
