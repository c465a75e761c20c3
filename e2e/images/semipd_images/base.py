"""The base image: a small Debian with Python, from the mirror that this machine uses."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from semipd_images.mirror import find_mirror
from semipd_images.progress import timed
from semipd_images.storage import Storage

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LEFT_BY_APT = ("var/cache/apt", "var/lib/apt/lists")
OF_THE_MACHINE = ("etc/hostname", "etc/hosts", "etc/resolv.conf")  # each run mounts its own over these


def base_key() -> str:
    """Changes with this file: what the mirror has in it when is not asked."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def ensure_base(storage: Storage) -> str:
    """The reference of the base image, built if there is none. Raises: ImagesError."""
    reference = f"localhost/semipd/base:{base_key()}"
    if reference not in storage.references():
        with timed(reference):
            _build(storage, reference)
        storage.remove_others(reference)
    return reference


def _build(storage: Storage, reference: str) -> None:
    container = storage.ask("from", "scratch")
    root = Path(storage.ask("mount", container))
    include = ",".join(PACKAGES)
    storage.run(
        ["debootstrap", "--variant=minbase", f"--include={include}", SUITE, str(root), find_mirror(SUITE)],
        {**os.environ, "PATH": PATH},
    )
    _clean(root)
    storage.buildah("config", "--env", f"PATH={PATH}", "--cmd", "python3", container)
    storage.buildah("commit", "--rm", container, reference)


def _clean(root: Path) -> None:
    for name in LEFT_BY_APT:
        shutil.rmtree(root / name)
        (root / name).mkdir()
    for name in OF_THE_MACHINE:
        (root / name).write_text("")
