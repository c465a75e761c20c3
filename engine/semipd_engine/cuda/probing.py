"""The owner's side of the probe: memory is made, a process with a lane's isolation maps it, and each reads the other."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from semipd_core.errors import DeviceError, SemipdError
from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.owned import OwnedMemory, allocate
from semipd_engine.cuda.probe import LANE_BYTE, OWNER_BYTE, ProbeAnswer, ProbeOrder, expect
from semipd_engine.cuda.transports import Attempt, Step, decide
from semipd_engine.memory.manifest import Transport

PROBE_BYTES = 1 << 20
PROBE_WITHIN_S = 60.0
RETRY_S = 1.0
_STDERR_SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Prober:
    """`environment`: of a lane on this GPU. `command` is run with one ProbeOrder."""

    driver: Driver
    device_index: int
    gpu: str
    command: Sequence[str]
    environment: Mapping[str, str]
    wants_mps: bool

    def attempt(self, transport: Transport) -> Attempt:
        try:
            memory = allocate(transport, self.driver, self.device_index, PROBE_BYTES)
            with contextlib.closing(memory):
                answer = self._share(transport, memory)
        except SemipdError as error:
            return Attempt(transport=transport, error=str(error))
        return Attempt(transport=transport, error=answer.error, is_mps_client=answer.is_mps_client)

    def _share(self, transport: Transport, memory: OwnedMemory) -> ProbeAnswer:
        self.driver.fill(memory.address, OWNER_BYTE, memory.num_bytes)
        offer = memory.offer()
        order = ProbeOrder(
            transport=transport,
            gpu=self.gpu,
            num_bytes=memory.num_bytes,
            fd=offer.fd,
            ipc_handle=offer.ipc_handle,
        )
        answer = self._run(order)
        if answer.error is None:
            expect(self.driver, memory.address, memory.num_bytes, LANE_BYTE)
        return answer

    def _run(self, order: ProbeOrder) -> ProbeAnswer:
        """Raises: SemipdError if the process says nothing that can be read."""
        try:
            done = subprocess.run(
                [*self.command, msgspec.json.encode(order).decode()],
                env=dict(self.environment),
                pass_fds=[] if order.fd is None else [order.fd],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_WITHIN_S,
                check=False,
            )
            return msgspec.json.decode(done.stdout, type=ProbeAnswer)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SemipdError(f"the probe: {error}") from error
        except msgspec.MsgspecError as error:
            said = done.stderr.decode(errors="replace")[-_STDERR_SHOWN:]
            raise SemipdError(f"the probe ended with {done.returncode} and said {said!r}") from error


def choose_transport(
    prober: Prober,
    log: structlog.stdlib.BoundLogger,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Transport:
    """Raises: DeviceError if nothing works, with what was met."""
    attempts: list[Attempt] = []
    started_s = clock()
    while True:
        decision = decide(attempts, wants_mps=prober.wants_mps, waited_s=clock() - started_s)
        log.info("transport", step=decision.step, transport=decision.transport, reason=decision.reason)
        if decision.step is Step.USE:
            return decision.transport
        if decision.step is Step.GIVE_UP:
            raise DeviceError(f"no memory can be shared between processes: {decision.reason}")
        if decision.step is Step.WAIT:
            attempts.pop()
            sleep(RETRY_S)
        attempts.append(prober.attempt(decision.transport))
