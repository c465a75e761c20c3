"""Host memory with an address that the driver can copy from and to."""

from __future__ import annotations

import ctypes
import mmap


class HostBuffer:
    """Zeros at first, in pages of its own; not pinned: the driver copies through pinned pages by itself."""

    def __init__(self, num_bytes: int) -> None:
        """Raises: OSError if the kernel gives no memory."""
        self._mapping = mmap.mmap(-1, num_bytes)
        self.view = memoryview(self._mapping)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))

    def close(self) -> None:
        self.view.release()
        self._mapping.close()
