"""Maps the arenas of a memory server into this process."""

from __future__ import annotations

import array
import mmap
import os
import socket
from dataclasses import dataclass

import msgspec

from semipd_core.errors import NotReadyYet
from semipd_engine.memory.manifest import CONTROL_BYTES, Manifest

NUM_FDS = 3  # weights, kv, control
ANSWER_TIMEOUT_S = 30.0
_RETRY_AFTER_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    manifest: Manifest
    weights: mmap.mmap  # read-only
    kv: mmap.mmap
    control: mmap.mmap
    control_fd: int  # the arbiter's record locks are taken on it

    def close(self) -> None:
        """Raises: BufferError while something still looks into the mappings."""
        for mapping in (self.weights, self.kv, self.control):
            mapping.close()
        os.close(self.control_fd)


def attach(path: str) -> Attachment:
    """Map the arenas of the memory server that listens at `path`.

    Raises: NotReadyYet if none listens there or it goes away before it has answered.
    """
    try:
        line, fds = _ask(path)
    except OSError as error:
        raise NotReadyYet(f"no memory server at {path}: {error}", _RETRY_AFTER_S) from error
    weights_fd, kv_fd, control_fd = fds
    manifest = msgspec.json.decode(line, type=Manifest)
    try:
        return Attachment(
            manifest=manifest,
            weights=mmap.mmap(weights_fd, manifest.weights_bytes, prot=mmap.PROT_READ),
            kv=mmap.mmap(kv_fd, manifest.kv_bytes),
            control=mmap.mmap(control_fd, CONTROL_BYTES),
            control_fd=control_fd,
        )
    finally:
        os.close(weights_fd)
        os.close(kv_fd)


def _ask(path: str) -> tuple[bytes, list[int]]:
    """The manifest's line and the descriptors, in the order of NUM_FDS."""
    chunks: list[bytes] = []
    fds: array.array[int] = array.array("i")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.connect(path)
        while not chunks or not chunks[-1].endswith(b"\n"):
            data, ancillary, _flags, _address = sock.recvmsg(1 << 16, socket.CMSG_LEN(NUM_FDS * fds.itemsize))
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            if not data:
                _close_all(fds)
                raise ConnectionResetError("the memory server went away")
            chunks.append(data)
    if len(fds) != NUM_FDS:
        _close_all(fds)
        raise ConnectionResetError(f"{len(fds)} descriptors instead of {NUM_FDS}")
    for fd in fds:
        os.set_inheritable(fd, False)
    return b"".join(chunks), list(fds)


def _close_all(fds: array.array[int]) -> None:
    for fd in fds:
        os.close(fd)
