"""`python -m semipd_engine.memory --config engine.json`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import msgspec

from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.errors import InvalidSpec
from semipd_engine.memory import server
from semipd_engine.memory.loading import prepare
from semipd_shell import agent_watch, channel, log
from semipd_shell.files import write_atomically

EXIT_INVALID_SPEC = 2


class _Terminated(Exception):
    """SIGTERM: ends loading as well as serving."""


def _terminate(_signal: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def main() -> int:
    parser = argparse.ArgumentParser(prog="semipd-memory")
    parser.add_argument("--config", required=True, type=Path)
    config = msgspec.json.decode(parser.parse_args().config.read_bytes(), type=EngineConfig)
    log.configure(f"{config.engine_id}-memory")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return run(config)
    except _Terminated:
        log.logger(__name__).info("memory server stopped")
        return 0
    finally:
        Path(config.memory_socket).unlink(missing_ok=True)


def run(config: EngineConfig) -> int:
    """The exit code: 0, or EXIT_INVALID_SPEC with the reason in `error.json`."""
    logger = log.logger(__name__)
    try:
        arenas = prepare(config, logger)
    except InvalidSpec as error:
        logger.error("invalid spec", path=error.path, given=str(error.given), allowed=error.allowed)
        spec_error = SpecError(path=error.path, given=str(error.given), allowed=error.allowed)
        write_atomically(Path(config.error_file), msgspec.json.encode(spec_error))
        return EXIT_INVALID_SPEC
    with channel.listen(config.memory_socket) as listener:
        watch = agent_watch.OrphanWatch(config.agent_lock)
        server.serve(listener, arenas.manifest, arenas.fds, watch=watch, log=logger)
    return 0


if __name__ == "__main__":
    sys.exit(main())
