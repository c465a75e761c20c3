"""`python -m semipd_engine.proxy --config proxy.json`: wires the proxy and ends it cleanly."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from semipd_core.engine_config import SpecError
from semipd_core.errors import InvalidSpec
from semipd_core.proxy_config import ProxyConfig
from semipd_engine.frontend.listener import Listener, bind_tcp, build_listener
from semipd_engine.proxy import readiness
from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.forwarding import Forwarder
from semipd_engine.proxy.http_app import ProxyApp
from semipd_engine.proxy.metrics import Metrics
from semipd_engine.proxy.upstreams import Upstream
from semipd_shell import log
from semipd_shell.agent_watch import OrphanWatch
from semipd_shell.files import write_atomically

_log = log.logger(__name__)

TICK_S = 0.5


def main(argv: list[str] | None = None) -> int:
    """0 after SIGTERM, or without an agent; 2 with the error file written if the user must change something."""
    parser = argparse.ArgumentParser(prog="semipd_engine.proxy", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="proxy.json")
    config = msgspec.json.decode(parser.parse_args(argv).config.read_bytes(), type=ProxyConfig)
    log.configure("proxy")
    try:
        uvloop.run(run(config))
    except InvalidSpec as error:
        _log.error("cannot start", error=str(error))
        spec_error = SpecError(path=error.path, given=str(error.given), allowed=error.allowed)
        write_atomically(Path(config.error_file), msgspec.json.encode(spec_error))
        return 2
    return 0


async def run(config: ProxyConfig) -> None:
    """Serve until SIGTERM and all open requests are finished, or until there has been no agent for a while."""
    upstreams = [Upstream(index=index, socket_path=path) for index, path in enumerate(config.upstreams)]
    connections = Connections(upstreams)
    metrics = Metrics()
    app = ProxyApp(upstreams=upstreams, forwarder=Forwarder(upstreams, connections, metrics), metrics=metrics)
    listener = build_listener(app)
    listening = bind_tcp(config.host, config.port)
    _log.info("listening", host=config.host, port=listening.getsockname()[1])
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _begin_drain, app, ending)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(listener.serve_on(listening))
        background = [
            tasks.create_task(readiness.watch(upstreams, connections)),
            tasks.create_task(_watch_agent(config.agent_lock, ending)),
        ]
        await ending.wait()
        await _end(app, listener)
        await asyncio.wait({serving})
        for task in background:
            task.cancel()
    await connections.close()


def _begin_drain(app: ProxyApp, ending: asyncio.Event) -> None:
    app.draining = True
    ending.set()


async def _end(app: ProxyApp, listener: Listener) -> None:
    """Listen until the last open request is finished, so that new ones are told 503; the supervisor keeps the deadline."""
    _log.info("draining", open_requests=app.num_in_flight)
    while app.num_in_flight and app.draining:
        await asyncio.sleep(0.05)
    listener.should_exit = True


async def _watch_agent(lock_path: str, ending: asyncio.Event) -> None:
    watch = OrphanWatch(lock_path)
    while not watch.is_orphaned(time.monotonic()):
        await asyncio.sleep(TICK_S)
    _log.error("no agent: stopping")
    ending.set()


if __name__ == "__main__":
    sys.exit(main())
