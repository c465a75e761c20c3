"""What the benchmark sees of the fleet through the API server, as any client would."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from lightkube import AsyncClient

from semipd_bench.scale.fleet import Fleet, PodName, namespace_of, pod_name
from semipd_operator.kinds import PARTITION, SERVICE
from semipd_shell.informer import Informer, Key, Object


class Watcher:
    """`services` and `partitions` hold what counts of each object."""

    def __init__(self, client: AsyncClient, fleet: Fleet) -> None:
        self._fleet = fleet
        self._changed = asyncio.Event()
        self._services = Informer(client, SERVICE, self._note, keep=_keep_service)
        self._partitions = Informer(client, PARTITION, self._note, keep=_keep_partition)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._services.run())
            tasks.create_task(self._partitions.run())

    def _note(self, *_: object) -> None:
        self._changed.set()

    async def wait(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came to be so in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not is_so():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # --- what is so -------------------------------------------------------------------------------------------

    def all_observed(self) -> bool:
        return self._count(lambda each: each["observed"]) == self._fleet.services

    def all_ready(self) -> bool:
        return self._count(lambda each: each["conditions"].get("Ready") == "AllReady") == self._fleet.services

    def all_have_partitions(self) -> bool:
        return len(self._partitions.objects) == self._fleet.pods

    def targets_of(self, service: int) -> list[tuple[int, int]]:
        """What the partitions of its pods ask for: prefill, decode percent."""
        pods = (PodName(service, replica) for replica in range(self._fleet.pods_per_service))
        found = (self._partitions.objects.get(Key(namespace_of(service), pod_name(pod))) for pod in pods)
        return [each["target"] for each in found if each is not None]

    def said(self, condition: str) -> dict[str, int]:
        """How many services give which reason for it."""
        return dict(
            Counter(each["conditions"].get(condition, "-") for each in self._services.objects.values())
        )

    def _count(self, is_so: Callable[[Any], bool]) -> int:
        return sum(map(is_so, self._services.objects.values()))


def _keep_service(found: Object) -> Object:
    metadata, status = found["metadata"], found.get("status", {})
    return {
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "observed": status.get("observedGeneration") == metadata["generation"],
        "conditions": {each["type"]: each["reason"] for each in status.get("conditions", [])},
    }


def _keep_partition(found: Object) -> Object:
    target = found["spec"]["target"]
    return {
        "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
        "target": (target["prefillPercent"], target["decodePercent"]),
    }
