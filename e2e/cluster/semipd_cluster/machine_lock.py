"""One cluster for each machine: its addresses and control groups are fixed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semipd_cluster.errors import ClusterError

LOCK = Path("/run/semipd-cluster.lock")


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    directory: Path


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Raises: ClusterError while another process holds it."""
    with LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                "a cluster runs on this machine already; `make cluster-down` ends it"
            ) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "directory": str(directory)}))
        lock.flush()
        yield
        lock.truncate(0)


def find_holder() -> Holder | None:
    """The process that runs a cluster now."""
    return _read() if LOCK.exists() and _is_held() else None


def find_killed() -> Holder | None:
    """The process that ran the last cluster, and ended without taking it down."""
    return _read() if LOCK.exists() and not _is_held() else None


def _is_held() -> bool:
    with LOCK.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read() -> Holder | None:
    text = LOCK.read_text()
    if not text:
        return None
    fields = json.loads(text)
    return Holder(fields["pid"], Path(fields["directory"]))
