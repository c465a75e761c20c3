"""Debian's packages that the builds need."""

from __future__ import annotations

import os

from semipd_cluster import packages
from semipd_cluster.errors import ClusterError
from semipd_images.errors import ImagesError

NEEDED = ("buildah", "debootstrap")


def ensure() -> None:
    """Installs what is missing. Raises: ImagesError for a user who is not root: debootstrap makes devices."""
    if os.geteuid() != 0:
        raise ImagesError("images are built as root: debootstrap makes devices")
    try:
        packages.ensure(NEEDED)
    except ClusterError as error:
        raise ImagesError(str(error)) from error
