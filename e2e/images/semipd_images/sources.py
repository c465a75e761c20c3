"""What the images are made of, and the hash of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
CONTAINERFILE, IGNORE_FILE = "Containerfile", ".containerignore"


def source_key(repository: Path = REPOSITORY) -> str:
    """Changes with every file that goes into an image."""
    digest = hashlib.sha256()
    for path in source_files(repository):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(repository)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def source_files(repository: Path) -> list[Path]:
    """The files that the ignore file lets through, and the two that say how images are made."""
    files = {repository / CONTAINERFILE, repository / IGNORE_FILE}
    for line in (repository / IGNORE_FILE).read_text().splitlines():
        if line.startswith("!"):
            files.update(_files_below(repository / line[1:]))
    return sorted(files)


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for each in path.rglob("*"):
        if each.is_file() and "__pycache__" not in each.parts:
            yield each
