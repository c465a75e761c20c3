"""Shared memory without a name: memfds that live as long as a process holds or maps them."""

from __future__ import annotations

import fcntl
import mmap
import os

F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; not in `fcntl` of every Python
_FIXED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Arena:
    """A memfd of fixed size, mapped shared and writable."""

    def __init__(self, name: str, num_bytes: int) -> None:
        """Raises: OSError if the kernel gives no memory."""
        self.num_bytes = num_bytes
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, num_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _FIXED_SIZE)

    def map(self) -> mmap.mmap:
        return mmap.mmap(self.fd, self.num_bytes)

    def seal_contents(self) -> int:
        """Nobody writes from here on, the owner included; needs every writable mapping closed. Returns a read-only fd.

        A kernel without such seals still hands out a descriptor that cannot be mapped writable.
        """
        for seals in (fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL, F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL):
            try:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
                break
            except OSError:
                continue
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)
