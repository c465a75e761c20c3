"""Asks a memory server for its arenas, and maps what lies in host memory into this process."""

from __future__ import annotations

import array
import mmap
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from semipd_core.errors import DeviceError, NotReadyYet
from semipd_engine.memory.manifest import CONTROL_BYTES, DESCRIPTORS, Manifest, Transport

ANSWER_TIMEOUT_S = 30.0
_FDS_MAX = max(map(len, DESCRIPTORS.values()))
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
    """Map the arenas of the memory server that listens at `path`, which hold host memory.

    Raises: NotReadyYet if none listens there or it goes away before it has answered, DeviceError if they are a GPU's.
    """
    manifest, fds = ask(path)
    if manifest.transport is not Transport.MEMFD:
        close_all(fds.values())
        raise DeviceError(f"arenas of a GPU: transport: got {manifest.transport}, allowed: {Transport.MEMFD}")
    try:
        return Attachment(
            manifest=manifest,
            weights=mmap.mmap(fds["weights"], manifest.weights_bytes, prot=mmap.PROT_READ),
            kv=mmap.mmap(fds["kv"], manifest.kv_bytes),
            control=mmap.mmap(fds["control"], CONTROL_BYTES),
            control_fd=fds["control"],
        )
    finally:
        close_all((fds["weights"], fds["kv"]))


def attach_control(path: str) -> tuple[Manifest, mmap.mmap]:
    """The manifest and the control page alone, wherever the arenas are.

    Raises: NotReadyYet.
    """
    manifest, fds = ask(path)
    try:
        return manifest, mmap.mmap(fds["control"], CONTROL_BYTES)
    finally:
        close_all(fds.values())


def ask(path: str) -> tuple[Manifest, dict[str, int]]:
    """The manifest, and the descriptors that `DESCRIPTORS` names for its transport: the caller's to close.

    Raises: NotReadyYet.
    """
    try:
        line, fds = _receive(path)
    except OSError as error:
        raise NotReadyYet(f"no memory server at {path}: {error}", _RETRY_AFTER_S) from error
    manifest = msgspec.json.decode(line, type=Manifest)
    names = DESCRIPTORS[manifest.transport]
    if len(fds) != len(names):
        close_all(fds)
        message = f"the memory server at {path} sent {len(fds)} descriptors instead of {len(names)}"
        raise NotReadyYet(message, _RETRY_AFTER_S)
    return manifest, dict(zip(names, fds, strict=True))


def _receive(path: str) -> tuple[bytes, list[int]]:
    chunks: list[bytes] = []
    fds: array.array[int] = array.array("i")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.connect(path)
        while not chunks or not chunks[-1].endswith(b"\n"):
            data, ancillary, _flags, _address = sock.recvmsg(
                1 << 16, socket.CMSG_LEN(_FDS_MAX * fds.itemsize)
            )
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            if not data:
                close_all(fds)
                raise ConnectionResetError("the memory server went away")
            chunks.append(data)
    for fd in fds:
        os.set_inheritable(fd, False)
    return b"".join(chunks), list(fds)


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
