"""Waits for Xids in a thread of its own: NVML's wait blocks, and may do so for ever where a driver hangs.

Source: NVML API reference, "Event Handling Methods".
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from semipd_agent.device.nvml_calls import GpuLost, ask, is_lost, is_timeout, session
from semipd_core.errors import DeviceError
from semipd_shell import log

WAIT_MS = 1000
RETRY_S = 5.0

_log = log.logger(__name__)


class XidEvents:
    """`on_xid(uuid, xid)` is called in the thread; the UUID is "" where the driver does not tell which GPU it was.

    A wait that fails ends the NVML session; the next one begins RETRY_S later, so that a GPU that comes back is seen.
    The next one after `renew` begins at once, so that no Xid falls between the two.
    """

    def __init__(self, nvml: Any, on_xid: Callable[[str, int], None], *, retry_s: float = RETRY_S) -> None:
        self._nvml = nvml
        self._on_xid = on_xid
        self._retry_s = retry_s
        self._stopped = threading.Event()
        self._renewed = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="xid-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def renew(self) -> None:
        """End the NVML session after the wait under way: while one is open, NVML does not see that a GPU is back."""
        self._renewed.set()

    def stop(self, timeout_s: float = 2 * WAIT_MS / 1000) -> None:
        """Waits for the thread no longer than `timeout_s`: a hung driver does not hold the agent."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._renewed.clear()  # before the session: one that is asked for from here on ends it
            try:
                with session(self._nvml):
                    self._wait_for_events()
            except (DeviceError, self._nvml.NVMLError, AttributeError) as error:
                self._say(f"{error}")
            if not self._renewed.is_set():
                self._stopped.wait(self._retry_s)

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("xids not watched", problem=problem)
        self._problem = problem

    def _wait_for_events(self) -> None:
        """Until stopped. Raises: GpuLost, nvml.NVMLError."""
        nvml = self._nvml
        events = nvml.nvmlEventSetCreate()
        try:
            uuid_by_handle = self._register(events)
            if not uuid_by_handle:
                self._say("no GPU here reports Xids")
                return
            self._problem = None
            while not (self._stopped.is_set() or self._renewed.is_set()):
                if (event := self._next(events)) is not None:
                    self._on_xid(self._uuid(event.device, uuid_by_handle), int(event.eventData))
        finally:
            ask(nvml, "nvmlEventSetFree", events)

    def _register(self, events: Any) -> dict[object, str]:
        """Those GPUs that report Xids; a lost one takes none of the others along. Raises: GpuLost, nvml.NVMLError."""
        found: dict[object, str] = {}
        failure: Exception | None = None
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                found |= self._register_one(index, events)
            except (GpuLost, self._nvml.NVMLError) as error:
                if not (isinstance(error, GpuLost) or is_lost(error)):
                    raise
                failure = error
        if failure is not None and not found:
            raise failure
        return found

    def _register_one(self, index: int, events: Any) -> dict[object, str]:
        """Empty if it reports none. Raises: GpuLost, nvml.NVMLError."""
        nvml = self._nvml
        wanted = nvml.nvmlEventTypeXidCriticalError
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if not (ask(nvml, "nvmlDeviceGetSupportedEventTypes", handle) or 0) & wanted:
            return {}
        nvml.nvmlDeviceRegisterEvents(handle, wanted, events)
        return {_key(handle): nvml.nvmlDeviceGetUUID(handle)}

    def _next(self, events: Any) -> Any | None:
        try:
            return self._nvml.nvmlEventSetWait_v2(events, WAIT_MS)
        except self._nvml.NVMLError as error:
            if is_timeout(error):
                return None
            raise

    def _uuid(self, handle: Any, uuid_by_handle: dict[object, str]) -> str:
        """A GPU that is lost no longer tells its UUID, but its handle is the one that was registered."""
        if (known := uuid_by_handle.get(_key(handle))) is not None:
            return known
        return next(iter(uuid_by_handle.values())) if len(uuid_by_handle) == 1 else ""


def _key(handle: Any) -> object:
    """NVML's handles are pointers, and equal ones are not equal objects."""
    return ctypes.cast(handle, ctypes.c_void_p).value
