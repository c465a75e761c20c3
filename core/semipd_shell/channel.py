"""Messages over unix stream sockets, for processes that block and for asyncio.

Frames are those of `multiprocessing.connection` (a 4-byte big-endian length, then the bytes), so that blocking processes use
the standard library's Connection as it is. The end of a connection is how the death of a peer is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from multiprocessing.connection import Connection
from pathlib import Path

from semipd_core import messages

SEND_TIMEOUT_S = 5.0  # a peer that reads nothing for this long counts as gone


class Channel:
    """A blocking message channel.

    Raises: EOFError from `receive` and OSError from `send` once the peer is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.setsockopt(
            socket.SOL_SOCKET,
            socket.SO_SNDTIMEO,
            struct.pack("ll", int(SEND_TIMEOUT_S), 0),
        )
        self._connection = Connection(sock.detach())

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, message: messages.Message) -> None:
        self._connection.send_bytes(messages.encode(message))

    def receive(self) -> messages.AnyMessage:
        try:
            return messages.decode(self._connection.recv_bytes())
        except OSError as error:  # reset, or ended inside a message
            raise EOFError from error

    def has_message(self, timeout_s: float = 0.0) -> bool:
        """Whether `receive` would return (or raise EOFError) within `timeout_s`."""
        return self._connection.poll(timeout_s)

    def close(self) -> None:
        self._connection.close()


def connect(path: str) -> Channel:
    """Raises: OSError if nothing listens at `path`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return Channel(sock)


def listen(path: str) -> socket.socket:
    """Listen at `path`, in place of whatever a dead process left there."""
    Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(64)
    return sock


class AsyncChannel:
    """The same channel for asyncio.

    Raises: EOFError from `receive`, OSError from `send`, once the peer is gone.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, message: messages.Message) -> None:
        data = messages.encode(message)
        self._writer.write(struct.pack("!i", len(data)) + data)
        await self._writer.drain()

    async def receive(self) -> messages.AnyMessage:
        try:
            (size,) = struct.unpack("!i", await self._reader.readexactly(4))
            return messages.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EOFError from error

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def connect_async(path: str) -> AsyncChannel:
    """Raises: OSError if nothing listens at `path`."""
    return AsyncChannel(*await asyncio.open_unix_connection(path))
