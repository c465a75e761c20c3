"""Debian's packages that the builds need."""

from __future__ import annotations

import os
import shutil
import subprocess

from semipd_images.errors import ImagesError

PROGRAMS = ("buildah", "debootstrap")  # each in the package of its name


def ensure() -> None:
    """Installs what is missing. Raises: ImagesError for a user who is not root: debootstrap makes devices."""
    if os.geteuid() != 0:
        raise ImagesError("images are built as root: debootstrap makes devices")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ImagesError(f"missing programs: {' '.join(missing)}")
    _apt_get("update")
    _apt_get("install", "--yes", "--no-install-recommends", *missing)


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", "--quiet", *arguments]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise ImagesError(f"apt-get {' '.join(arguments)} failed:\n{done.stdout}")
