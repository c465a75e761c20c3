"""Events, with series: the same thing said again within WINDOW_S counts up the event that is there.

kopf makes a new object for each event, and would fill etcd with a service that flaps.
Source: https://github.com/kubernetes/enhancements/tree/master/keps/sig-instrumentation/383-new-event-api-ga-graduation.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lightkube import ApiError, AsyncClient
from lightkube.types import PatchType

from semipd_core.api.fields import API_VERSION
from semipd_core.api.service import SemiPDService
from semipd_operator.kinds import EVENT
from semipd_operator.plan.transitions import Transition
from semipd_shell import log
from semipd_shell.api_client import FAILURES, describe

WINDOW_S = 300.0
CONTROLLER = "semipd.io/operator"
MAX_NOTE = 1024
NOT_FOUND = 404

_log = log.logger(__name__)


@dataclass(slots=True)
class Series:
    name: str
    last_s: float
    count: int = 1


class Recorder:
    """What cannot be written is logged and let go: an event is no state."""

    def __init__(self, client: AsyncClient, instance: str, now: Callable[[], datetime]) -> None:
        self._client = client
        self._instance = instance
        self._now = now
        self._series: dict[tuple[str, str, str], Series] = {}

    async def record(self, service: SemiPDService, transition: Transition) -> None:
        now = self._now()
        key = (service.metadata.uid or "", transition.reason, transition.detail)
        series = self._series.get(key)
        is_open = series is not None and now.timestamp() - series.last_s <= WINDOW_S
        try:
            if series is None or not is_open or not await self._count_up(service, series, now):
                self._series[key] = await self._create(service, transition, now)
        except FAILURES as error:
            _log.warning("event not written", reason=transition.reason, problem=describe(error))
        self._drop_old(now)

    async def _create(self, service: SemiPDService, transition: Transition, now: datetime) -> Series:
        metadata = service.metadata
        name = f"{metadata.name}.{uuid.uuid4().hex[:16]}"
        event: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata.namespace},
            "eventTime": _micro_time(now),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "action": "Reconcile",
            "reason": transition.reason,
            "type": "Warning" if transition.is_warning else "Normal",
            "note": transition.note[:MAX_NOTE],
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": "SemiPDService",
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
            },
        }
        await self._client.create(EVENT(event))
        return Series(name=name, last_s=now.timestamp())

    async def _count_up(self, service: SemiPDService, series: Series, now: datetime) -> bool:
        """False: the event is gone."""
        series.count += 1
        series.last_s = now.timestamp()
        patch = {"series": {"count": series.count, "lastObservedTime": _micro_time(now)}}
        try:
            await self._client.patch(
                EVENT, series.name, patch, namespace=service.metadata.namespace, patch_type=PatchType.MERGE
            )
        except ApiError as error:
            if error.status.code != NOT_FOUND:
                raise
            return False
        return True

    def _drop_old(self, now: datetime) -> None:
        old = [key for key, series in self._series.items() if now.timestamp() - series.last_s > WINDOW_S]
        for key in old:
            del self._series[key]


def _micro_time(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
