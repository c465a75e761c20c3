"""One turn for one service: observe, plan, apply. Any event, of the service or of a child, ends here, and so does a resync."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from semipd_core.api import codec
from semipd_core.api.conditions import set_condition
from semipd_core.api.service import RolloutStatus, SemiPDService, ServiceStatus
from semipd_core.errors import InvalidSpec
from semipd_operator.admitted import AdmittedPods
from semipd_operator.apply.applier import Applier
from semipd_operator.apply.attempts import Failure, attempt, degraded_by
from semipd_operator.apply.recorder import Recorder
from semipd_operator.autoscale import Scaler
from semipd_operator.looped import Looped
from semipd_operator.observe.census import Census
from semipd_operator.observe.child import ChildView
from semipd_operator.observe.revisions import Revisions
from semipd_operator.observe.world import ChildName, World
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.partitions import is_asked
from semipd_operator.plan.plan import Admission, Installation, Plan, admit, build_plan
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.template_trial import Rollout
from semipd_operator.plan.transitions import find_transitions
from semipd_operator.plan.trial_status import recorded_rollout
from semipd_operator.rounds import Rounds
from semipd_shell import log
from semipd_shell.informer import Key

WORKLOADS = ("Deployment", "DaemonSet")

_log = log.logger(__name__)


class Reconciler:
    """`on_room`: as for AdmittedPods."""

    def __init__(
        self,
        world: World,
        applier: Applier,
        rounds: Rounds,
        installation: Installation,
        recorder: Recorder,
        revisions: Revisions,
        census: Census,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_room: Callable[[Key], None] = lambda _key: None,
    ) -> None:
        self._world, self._applier, self._rounds, self._revisions = world, applier, rounds, revisions
        self._installation = installation
        self._recorder = recorder
        self._census = census
        self._now = now
        self._scaler = Scaler(applier, self._write_status, now)
        self._admitted = AdmittedPods(world, on_room)
        self._not_asked: dict[Key, list[Failure]] = {}  # partitions that the last turn could not write

    def take_kinds(self, optional_kinds: Collection[str]) -> None:
        """Of other projects: those that the cluster has from now on."""
        self._installation = replace(self._installation, optional_kinds=optional_kinds)

    def begin_anew(self) -> None:
        """With the lead: another may have led meanwhile; loops take up what the partitions ask for."""
        self._rounds.services.clear()
        self._admitted.clear()

    async def reconcile(self, key: Key) -> None:
        """Raises: Fenced, FieldOwned, ApiError, httpx2.HTTPError: to be tried again."""
        found = self._world.services.get(key)
        if found is None or "deletionTimestamp" in found["metadata"]:
            self._rounds.forget(key)
            self._scaler.forget(key)
            self._revisions.forget(key)
            self._admitted.forget(key)
            self._not_asked.pop(key, None)
            return
        try:
            observed = self._world.observe(key)
            admission = admit(
                observed,
                self._world.classes.values(),
                self._installation,
                self._admitted.others_gpus(key, observed),
            )
            looped = self._follow(key, observed, admission)
            if admission.effective is not None:
                self._admitted.note(key, observed)
            else:
                self._admitted.note_refused(key, observed)
        except InvalidSpec as error:
            await self._refuse(key, error)
            return
        rollout = looped.rollout if looped else recorded_rollout(observed)
        kept = await self._kept_template(key, rollout, observed)
        plan = build_plan(
            observed,
            admission,
            self._installation,
            wish=looped.wish if looped else None,
            loop=looped.loop if looped else None,
            scale_refusal=self._scaler.refusal(key),
            now=self._time(),
            canaries=looped.canaries if looped else {},
            rollout=rollout,
            kept=kept,
        )
        await self._apply(key, observed, plan)

    def _follow(self, key: Key, observed: Observed, admission: Admission) -> Looped | None:
        """A service that its class refuses keeps the loop that it had."""
        if admission.effective is None:
            return self._rounds.services.get(key)
        return self._rounds.follow(key, admission, observed)

    async def _kept_template(self, key: Key, rollout: Rollout, observed: Observed) -> dict[str, Any] | None:
        """What all pods are to run after a roll-back. Raises: ApiError, httpx2.HTTPError, RevisionGone."""
        if rollout.refusal is None:
            self._revisions.forget(key)
            return None
        base = next((each for each in observed.revisions if each.template == rollout.refusal.base), None)
        return await self._revisions.template(key, base) if base is not None else None

    async def _apply(self, key: Key, observed: Observed, plan: Plan) -> None:
        children = self._world.children(key)
        wanted = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in plan.children}
        if wanted - children.keys() and not await self._census.is_there(key):
            return
        observed = await self._note_rollout(key, observed, plan)
        failures = await self._apply_children(key, plan, children)
        if plan.seeded_replicas is not None:
            version = observed.service.metadata.resource_version
            await self._applier.seed_replicas(key.name, key.namespace, version, plan.seeded_replicas)
        unasked = [each for each in plan.partitions if not _is_asked(observed, each)]
        names = {_partition_name(each) for each in unasked}
        known = [each for each in self._not_asked.get(key, ()) if each.what in names]
        # The status first: it says which pods try a split and what the others keep, should this operator die in between.
        await self._apply_status(key, observed.service, plan, [*failures, *known])
        self._not_asked[key] = await self._apply_partitions(unasked)
        to_retry = [each for each in failures if not each.is_left] + self._not_asked[key]
        if to_retry:
            raise to_retry[0].error

    async def _apply_children(
        self, key: Key, plan: Plan, children: Mapping[ChildName, ChildView]
    ) -> list[Failure]:
        """A workload that is no longer wanted stays while one of the others is refused: maybe the one in its place.

        Where a name is taken nothing goes on: what comes after would lean on an object that is somebody else's.
        """
        failures = []
        for manifest in plan.children:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            write = self._applier.apply(manifest, children.get((kind, name)))
            failure = await attempt(f"{kind} {name}", write)
            if failure is not None and failure.is_name_taken:
                return [failure]
            failures.append(failure)
        is_refused = any(each is not None and not each.is_left for each in failures)
        wanted = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in plan.children}
        for kind, name in children.keys() - wanted if plan.children else ():
            if not (is_refused and kind in WORKLOADS):
                failures.append(
                    await attempt(f"{kind} {name}", self._applier.delete(kind, key.namespace, name))
                )
        return [each for each in failures if each is not None]

    async def _apply_partitions(self, manifests: list[Manifest]) -> list[Failure]:
        failures = [
            await attempt(_partition_name(each), self._applier.apply_partition(each)) for each in manifests
        ]
        return [each for each in failures if each is not None]

    async def _note_rollout(self, key: Key, observed: Observed, plan: Plan) -> Observed:
        """Before any pod is replaced: another operator goes on from there. The service as it is after that."""
        service, status = observed.service, observed.service.status or ServiceStatus()
        if _step_of(status.rollout) == _step_of(plan.status.rollout):
            return observed
        said = codec.encode(replace(status, rollout=plan.status.rollout))
        version = await self._write_status(key, said, service.metadata.resource_version)
        metadata = replace(service.metadata, resource_version=version)
        return replace(observed, service=replace(service, metadata=metadata))

    async def _apply_status(
        self, key: Key, service: SemiPDService, plan: Plan, failures: list[Failure]
    ) -> None:
        status = plan.status
        condition = degraded_by(failures, service.metadata.generation)
        if condition is not None:
            status = replace(status, conditions=set_condition(status.conditions, condition, self._time()))
        encoded = codec.encode(status)
        if encoded != self._world.services.get(key, {}).get("status"):
            if plan.scaling is not None and plan.scaling.replicas is not None:
                status = await self._scaler.scale(key, service, status, plan.scaling)
            else:  # records are taken over from what was seen: where that is not the last word, they would be lost
                version = None if plan.scaling is None else service.metadata.resource_version
                await self._write_status(key, encoded, version)
            for transition in find_transitions(service.status, status):
                await self._recorder.record(service, transition)

    async def _refuse(self, key: Key, error: InvalidSpec) -> None:
        """Of what the API server let through: an object older than its schema, or bounds without a legal split."""
        found = self._world.services[key]
        status = dict(found.get("status") or {})
        refused = {
            "type": "Ready",
            "status": "False",
            "reason": "InvalidSpec",
            "message": str(error)[:1024],
            "observedGeneration": found["metadata"].get("generation", 0),
        }
        others = [condition for condition in status.get("conditions", []) if condition["type"] != "Ready"]
        old: dict[str, Any] = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
        if {**old, "lastTransitionTime": None} == {**refused, "lastTransitionTime": None}:
            return
        since = old["lastTransitionTime"] if old.get("status") == "False" else self._time()
        status["conditions"] = [{**refused, "lastTransitionTime": since}, *others]
        await self._write_status(key, status, None)

    async def _write_status(self, key: Key, status: Manifest, version: str | None) -> str:
        """As `Applier.apply_status`; the resourceVersion after it."""
        before = self._world.services.get(key)
        written = await self._applier.apply_status(key.name, key.namespace, status, version)
        self._world.note_written(key, before, written)
        after: str = written["metadata"]["resourceVersion"]
        return after

    def _time(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _step_of(rollout: RolloutStatus | None) -> tuple[str, str, str] | None:
    return (rollout.template, rollout.base, rollout.stage) if rollout is not None else None


def _is_asked(observed: Observed, manifest: Manifest) -> bool:
    partition = observed.partitions.get(manifest["metadata"]["name"])
    return partition is not None and is_asked(partition.spec, manifest["spec"])


def _partition_name(manifest: Manifest) -> str:
    return f"SemiPDPartition {manifest['metadata']['name']}"
