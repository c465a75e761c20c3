"""How many GPUs do the others hold? As deployed, or as they have been let deploy and have not yet: turns run side by side."""

from __future__ import annotations

from collections.abc import Callable

from semipd_core.errors import InvalidSpec
from semipd_operator.observe.world import World
from semipd_operator.plan.class_choice import choose_class
from semipd_operator.plan.guard_rails import gpus_per_pod
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.plan import asks_for_more, pods_wanted
from semipd_shell.informer import Key


class AdmittedPods:
    """Noted in the same step of the event loop as they are judged, so that no two services get the same GPUs.

    `on_room` is called with each service that its class refuses when another one of its namespace holds less.
    """

    def __init__(self, world: World, on_room: Callable[[Key], None] = lambda _key: None) -> None:
        self._world = world
        self._on_room = on_room
        self._pods: dict[Key, int] = {}
        self._held: dict[Key, int] = {}  # as of the last turn
        self._refused: set[Key] = set()

    def note(self, key: Key, observed: Observed) -> None:
        """Its class admits what the service asks for."""
        self._pods[key] = pods_wanted(observed)
        self._refused.discard(key)
        self._note_held(key, self._holds(key, observed))

    def note_refused(self, key: Key, observed: Observed) -> None:
        """By its class: for a budget, maybe."""
        self._refused.add(key)
        self._note_held(key, self._holds(key, observed))

    def forget(self, key: Key) -> None:
        self._pods.pop(key, None)
        self._refused.discard(key)
        self._note_held(key, 0)

    def _holds(self, key: Key, observed: Observed) -> int:
        deployed = observed.workload.desired if observed.workload is not None else 0
        return max(deployed, self._pods.get(key, 0))

    def _note_held(self, key: Key, pods: int) -> None:
        before = self._held.pop(key, 0)
        if pods:
            self._held[key] = pods
        if pods < before:
            for each in [each for each in self._refused if each.namespace == key.namespace and each != key]:
                self._on_room(each)

    def clear(self) -> None:
        """Another operator may have admitted others meanwhile."""
        self._pods.clear()

    def others_gpus(self, key: Key, observed: Observed) -> int:
        """Of the other services of the same class in the namespace; 0 where they do not matter."""
        classes = list(self._world.classes.values())
        own = choose_class(observed.service, classes)
        if own.spec.gpu_budget is None or not (asks_for_more(observed) or observed.service.spec.autoscale):
            return 0
        total = 0
        for other in [
            each for each in self._world.services if each.namespace == key.namespace and each != key
        ]:
            try:
                service = self._world.service(other)
            except InvalidSpec:
                continue
            choice = choose_class(service, classes)
            if choice.name == own.name:
                workload = self._world.workload(other, service)
                deployed = workload.desired if workload is not None else 0
                total += gpus_per_pod(service.spec, choice.spec) * max(deployed, self._pods.get(other, 0))
        return total
