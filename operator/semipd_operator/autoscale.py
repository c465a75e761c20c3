"""Sets the number of replicas that the plan asks for, written down first; and what the API server has refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from semipd_core.api import codec
from semipd_core.api.service import SemiPDService, ServiceStatus
from semipd_operator.apply.applier import Applier, ScaleRefused
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.scaling import Refusal, Scaling, refused, with_scaling
from semipd_shell import log
from semipd_shell.informer import Key

REFUSED_FOR_S = 300.0  # the same number is not tried again for so long

_log = log.logger(__name__)

# Of the service's key, its status and the resourceVersion that it must still have: the one after it.
StatusWrite = Callable[[Key, Manifest, str | None], Awaitable[str]]


class Scaler:
    """`now`: in UTC."""

    def __init__(self, applier: Applier, write_status: StatusWrite, now: Callable[[], datetime]) -> None:
        self._applier, self._write_status, self._now = applier, write_status, now
        self._refusals: dict[Key, tuple[Refusal, float]] = {}  # until when, unix time

    def refusal(self, key: Key) -> Refusal | None:
        found, until_s = self._refusals.get(key, (None, 0.0))
        return found if self._now().timestamp() < until_s else None

    def forget(self, key: Key) -> None:
        self._refusals.pop(key, None)

    async def scale(
        self, key: Key, service: SemiPDService, status: ServiceStatus, scaling: Scaling
    ) -> ServiceStatus:
        """The status that was written: first, and only if the service is still the one that was decided about.

        Raises: Fenced, ApiError (409: it is another one by now), httpx2.HTTPError.
        """
        assert scaling.replicas is not None
        record = scaling.records[0]
        version = await self._write_status(key, codec.encode(status), service.metadata.resource_version)
        try:
            await self._applier.scale(key.name, key.namespace, version, scaling.replicas)
        except ScaleRefused as error:
            refusal = Refusal(replicas=scaling.replicas, message=str(error))
            self._refusals[key] = (refusal, self._now().timestamp() + REFUSED_FOR_S)
            status = with_scaling(status, refused(scaling, refusal), record.time)
            await self._write_status(key, codec.encode(status), None)
            return status
        _log.info(
            "scales", service="/".join(key), to=scaling.replicas, reason=record.reason, message=record.message
        )
        return status
