"""`python -m semipd_engine.memory --config engine.json`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import structlog

from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.errors import DeviceError, InvalidSpec, NotReadyYet
from semipd_engine.cuda.devices import GpuMissing
from semipd_engine.cuda.driver import CudaError
from semipd_engine.cuda.faults import classify
from semipd_engine.memory import server
from semipd_engine.memory.device_loading import CudaMachine, DeviceArenas, prepare_device
from semipd_engine.memory.loading import Arenas, prepare
from semipd_shell import agent_watch, channel, log
from semipd_shell.files import write_atomically

EXIT_RETRY = 1
EXIT_INVALID_SPEC = 2


class _Terminated(Exception):
    """SIGTERM: ends loading as well as serving."""


def _terminate(_signal: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def main(machine: CudaMachine | None = None) -> int:
    parser = argparse.ArgumentParser(prog="semipd-memory")
    parser.add_argument("--config", required=True, type=Path)
    config = msgspec.json.decode(parser.parse_args().config.read_bytes(), type=EngineConfig)
    log.configure(f"{config.engine_id}-memory")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return run(config, machine or CudaMachine())
    except _Terminated:
        log.logger(__name__).info("memory server stopped")
        return 0
    finally:
        for rank in range(config.num_ranks):
            Path(config.memory_socket_of(rank)).unlink(missing_ok=True)


def run(config: EngineConfig, machine: CudaMachine) -> int:
    """The exit code: 0; EXIT_INVALID_SPEC with the reason in `error.json`; EXIT_RETRY with the problem in `memory-problem`."""
    logger = log.logger(__name__)
    problem_file = Path(config.memory_problem_file)
    try:
        arenas = _prepare_again(config, machine, logger)
    except InvalidSpec as error:
        logger.error("invalid spec", path=error.path, given=str(error.given), allowed=error.allowed)
        problem_file.unlink(missing_ok=True)
        spec_error = SpecError(path=error.path, given=str(error.given), allowed=error.allowed)
        write_atomically(Path(config.error_file), msgspec.json.encode(spec_error))
        return EXIT_INVALID_SPEC
    except (NotReadyYet, DeviceError) as error:
        logger.error("not ready", problem=str(error))
        write_atomically(problem_file, str(error).encode())
        return EXIT_RETRY
    problem_file.unlink(missing_ok=True)
    with ExitStack() as held:
        handouts = {}
        for rank, own in reversed(
            list(enumerate(arenas))
        ):  # where the first rank's socket is, the others are
            held.enter_context(contextlib.closing(own))
            listener = held.enter_context(channel.listen(config.memory_socket_of(rank)))
            handouts[listener] = server.Handout(manifest=own.manifest, fds=own.fds)
        server.serve(handouts, watch=agent_watch.OrphanWatch(config.agent_lock), log=logger)
    return 0


def _prepare_again(
    config: EngineConfig, machine: CudaMachine, logger: structlog.stdlib.BoundLogger
) -> Sequence[Arenas | DeviceArenas]:
    """As `_prepare`; but a GPU that an earlier start has found is lost, not wrongly asked for."""
    has_found_gpu = (Path(config.model_directory) / "model.json").exists()
    try:
        return _prepare(config, machine, logger)
    except GpuMissing as error:
        if not has_found_gpu:
            raise
        raise DeviceError(str(error)) from error


def _prepare(
    config: EngineConfig, machine: CudaMachine, logger: structlog.stdlib.BoundLogger
) -> Sequence[Arenas | DeviceArenas]:
    """Of each rank. Raises: InvalidSpec; DeviceError and NotReadyYet where waiting can help."""
    match config.device:
        case "CPU":
            return prepare(config, logger)
        case "CUDA":
            try:
                return prepare_device(config, machine, logger)
            except CudaError as error:
                gpus = filter(None, (config.gpu_of(rank) for rank in range(config.num_ranks)))
                raise classify(error, " or ".join(gpus) or None) from error
        case _:
            raise InvalidSpec("spec.resources.device", config.device, "CPU or CUDA")


if __name__ == "__main__":
    sys.exit(main())
