"""`python -m semipd_engine.frontend --config engine.json`: wires a front end and ends it cleanly."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.errors import InvalidSpec
from semipd_engine.frontend import served_model
from semipd_engine.frontend.coordinator_link import CoordinatorLink
from semipd_engine.frontend.front_end import FrontEnd
from semipd_engine.frontend.http_app import build_app
from semipd_engine.frontend.listener import Listener, bind_tcp, build_listener
from semipd_shell import channel, log
from semipd_shell.agent_watch import OrphanWatch
from semipd_shell.files import write_atomically

_log = log.logger(__name__)

TICK_S = 0.5
CUT_AFTER_S = 2.0  # from SIGTERM; its SIGKILL follows 5 s after
FLUSH_S = 2.0  # for the last bytes of answers to leave


def main(argv: list[str] | None = None) -> int:
    """0 after SIGTERM, or without an agent; 2 with `error.json` written if the user must change something."""
    parser = argparse.ArgumentParser(prog="semipd_engine.frontend", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="engine.json")
    config = msgspec.json.decode(parser.parse_args(argv).config.read_bytes(), type=EngineConfig)
    log.configure("frontend")
    try:
        uvloop.run(run(config))
    except InvalidSpec as error:
        _log.error("cannot start", error=str(error))
        spec_error = SpecError(path=error.path, given=str(error.given), allowed=error.allowed)
        write_atomically(Path(config.error_file), msgspec.json.encode(spec_error))
        return 2
    return 0


async def run(config: EngineConfig) -> None:
    """Serve until SIGTERM and all open requests are finished, or until there has been no agent for a while."""
    front_end = FrontEnd(config=config, link=CoordinatorLink(config.coordinator_socket))
    internal = build_listener(build_app(front_end, internal=True), graceful_s=None)
    public = build_listener(build_app(front_end, internal=False), graceful_s=None)
    front_end.on_drain = public.end_after_answers
    listeners, sockets = [internal], []
    if config.port is not None:
        listeners.append(public)
        sockets.append(bind_tcp(config.host or "127.0.0.1", config.port))
    sockets.insert(0, channel.listen(config.front_socket))
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _begin_drain, front_end, ending)
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = [
                tasks.create_task(one.serve_on(sock)) for one, sock in zip(listeners, sockets, strict=True)
            ]
            background = [
                tasks.create_task(_load_model(front_end)),
                tasks.create_task(front_end.link.run(front_end.requests)),
                tasks.create_task(_tick(front_end, public, ending)),
            ]
            await ending.wait()
            public.should_exit = True
            await _until_idle(front_end)
            internal.should_exit = True
            await asyncio.wait(serving, timeout=FLUSH_S)
            for listener in listeners:
                listener.force_exit = True
            await asyncio.wait(serving)
            for task in background:
                task.cancel()
    finally:
        Path(config.front_socket).unlink(missing_ok=True)


def _begin_drain(front_end: FrontEnd, ending: asyncio.Event) -> None:
    front_end.drain()
    ending.set()


async def _until_idle(front_end: FrontEnd) -> None:
    """Until the last open request is finished; what takes longer is told that it is cut.

    The agent sends SIGTERM at the end of its drain, so there is little time left.
    """
    _log.info("draining", open_requests=front_end.num_in_flight)
    cut_s = front_end.clock.monotonic_s() + CUT_AFTER_S
    while front_end.num_in_flight and front_end.draining:
        if front_end.clock.monotonic_s() > cut_s:
            front_end.cut()
        await asyncio.sleep(0.05)


async def _load_model(front_end: FrontEnd) -> None:
    front_end.model = await served_model.wait_for(front_end.config)
    _log.info("model known", context_tokens=front_end.model.context_tokens)


async def _tick(front_end: FrontEnd, public: Listener, ending: asyncio.Event) -> None:
    """Judge open requests; close the public listener after the lag of a drain; stop when orphaned.

    A listener that is told to exit takes no connection, closes idle ones, and the others after their answer.
    """
    watch = OrphanWatch(front_end.config.agent_lock)
    while True:
        await asyncio.sleep(TICK_S)
        front_end.requests.check_misses()
        public.should_exit = public.should_exit or front_end.is_closed
        if watch.is_orphaned(front_end.clock.monotonic_s()):
            _log.error("no agent: stopping")
            ending.set()
            return


if __name__ == "__main__":
    sys.exit(main())
