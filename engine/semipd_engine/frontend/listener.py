"""HTTP listeners inside a process that handles signals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from semipd_core.errors import InvalidSpec

# Longer than clients and load balancers keep theirs (5 to 60 s): who closes first must be who may send next, or a request
# meets the closing of its connection.
KEEP_ALIVE_S = 75
ACCEPTED_S = 0.2  # for connections that have just been accepted to send their request
BIND_PATIENCE_S = 3.0  # a process that has just died may still hold the port


class Listener(uvicorn.Server):
    """Serves until `should_exit`. Signals are the process's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    def end_after_answers(self) -> None:
        """What is answered now is the last on its connection: a head that has left could not say so.

        So a connection that is idle at the end of a drain's lag has been idle for all of it, longer than most clients keep one.
        """
        for connection in self.server_state.connections:
            cycle = connection.cycle if isinstance(connection, H11Protocol) else None
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new connections from now on, idle ones are closed, the others after their answer."""
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()  # what nobody accepts is refused, not left to be reset
        await asyncio.sleep(ACCEPTED_S)
        await super().shutdown(sockets)

    async def serve_on(self, listening: socket.socket) -> None:
        await self.serve(sockets=[listening])


def build_listener(app: ASGIApp, *, graceful_s: int | None = 5) -> Listener:
    """`graceful_s`: for answers that are open when it is told to exit; None: whoever tells it keeps the time."""
    return Listener(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=graceful_s,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )


def bind_tcp(host: str, port: int) -> socket.socket:
    """Raises: InvalidSpec if the address cannot be had."""
    deadline_s = time.monotonic() + BIND_PATIENCE_S
    while True:
        try:
            return _bound(host, port)
        except OSError as error:
            if time.monotonic() > deadline_s:
                allowed = f"an address that is free: {os.strerror(error.errno or 0)}"
                raise InvalidSpec("port", f"{host}:{port}", allowed) from error
            time.sleep(0.1)


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock
