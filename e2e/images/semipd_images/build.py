"""Builds an image, and keeps its archive under the hash of what it is made from."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semipd_cluster.build import cache_directory
from semipd_images import packages
from semipd_images.base import base_key, ensure_base
from semipd_images.progress import timed
from semipd_images.sources import CONTAINERFILE, REPOSITORY, source_key
from semipd_images.storage import Storage

TARGETS = ("operator", "engine")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # of the machine: a site may have its own authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An image as `ctr images import` takes it."""

    path: Path
    reference: str


def images_directory() -> Path:
    return cache_directory() / "images"


def archive_of(target: str) -> Archive:
    """Where the image of the present sources lies once it is built."""
    key = f"{source_key()}-{base_key()[:8]}"
    return Archive(
        path=images_directory() / f"{target}-{key}.tar", reference=f"localhost/semipd/{target}:{key}"
    )


def build(target: str) -> Archive:
    """The archive of `target`, built if these sources have none. Raises: ImagesError."""
    archive = archive_of(target)
    with _lock():
        if not archive.path.is_file():
            _build(target, archive)
    return archive


@contextmanager
def _lock() -> Iterator[None]:
    images_directory().mkdir(parents=True, exist_ok=True)
    with (images_directory() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(target: str, archive: Archive) -> None:
    packages.ensure()
    storage = Storage(directory=images_directory())
    storage.prepare()
    base = ensure_base(storage)
    with timed(archive.reference):
        storage.buildah("build", *_options(target, base), "--tag", archive.reference, str(REPOSITORY))
    with timed(str(archive.path)):
        _export(storage, archive)
    storage.remove_others(archive.reference)
    _remove_other_archives(target, archive)


def _options(target: str, base: str) -> list[str]:
    options = ["--layers", "--pull-never", "--network", "host", "--isolation", "chroot", "--target", target]
    options += ["--build-arg", f"BASE={base}", "--build-arg", "COMPILER="]  # the nodes have no GPUs
    options += ["--file", str(REPOSITORY / CONTAINERFILE)]
    if CERTIFICATES.is_file():
        options += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    return options


def _export(storage: Storage, archive: Archive) -> None:
    partial = archive.path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    storage.buildah("push", archive.reference, f"docker-archive:{partial}:{archive.reference}")
    partial.rename(archive.path)


def _remove_other_archives(target: str, archive: Archive) -> None:
    for path in images_directory().glob(f"{target}-*"):
        if path != archive.path:
            path.unlink()
