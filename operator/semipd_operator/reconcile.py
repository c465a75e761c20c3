"""One turn for one service: observe, plan, apply. Any event, of the service or of a child, ends here, and so does a resync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lightkube import ApiError

from semipd_core.api import codec
from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType, set_condition
from semipd_core.api.service import RolloutStatus, SemiPDService, ServiceStatus
from semipd_core.errors import InvalidSpec
from semipd_operator.apply.applier import Applier, FieldOwned
from semipd_operator.apply.recorder import Recorder
from semipd_operator.autoscale import Scaler
from semipd_operator.looped import Looped
from semipd_operator.observe.census import Census
from semipd_operator.observe.revisions import Revisions
from semipd_operator.observe.world import World
from semipd_operator.plan.class_choice import choose_class
from semipd_operator.plan.guard_rails import gpus_per_pod
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.partitions import is_asked
from semipd_operator.plan.plan import Admission, Installation, Plan, admit, asks_for_more, build_plan
from semipd_operator.plan.template_trial import Rollout
from semipd_operator.plan.transitions import find_transitions
from semipd_operator.plan.trial_status import recorded_rollout
from semipd_operator.rounds import Rounds
from semipd_shell import log
from semipd_shell.informer import Key

BUSY = (429, 503)

_log = log.logger(__name__)


class Reconciler:
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
    ) -> None:
        self._world, self._applier, self._rounds, self._revisions = world, applier, rounds, revisions
        self._installation = installation
        self._recorder = recorder
        self._census = census
        self._now = now
        self._scaler = Scaler(applier, now)

    async def reconcile(self, key: Key) -> None:
        """Raises: Fenced, ApiError, httpx2.HTTPError: to be tried again."""
        found = self._world.services.get(key)
        if found is None or "deletionTimestamp" in found["metadata"]:
            self._rounds.forget(key)
            self._scaler.forget(key)
            self._revisions.forget(key)
            return
        try:
            observed = self._world.observe(key)
            admission = admit(
                observed, self._world.classes.values(), self._installation, self._others_gpus(key, observed)
            )
            looped = self._follow(key, observed, admission)
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
        conflicts, refusals = [], []
        for manifest in plan.children:
            name = (manifest["kind"], manifest["metadata"]["name"])
            try:
                await self._applier.apply(manifest, children.get(name))
            except FieldOwned as error:
                conflicts.append(str(error))
            except ApiError as error:  # of this child alone, unless the server has no time for any
                if error.status.code in BUSY:
                    raise
                refusals.append(error)
        if refusals:
            raise refusals[0]
        if plan.children:
            for kind, child in children.keys() - wanted:
                await self._applier.delete(kind, key.namespace, child)
        if plan.seeds_replicas:
            metadata = observed.service.metadata
            await self._applier.seed_replicas(key.name, key.namespace, metadata.resource_version)
        # The status first: it says which pods try a split and what the others keep, should this operator die in between.
        await self._apply_status(key, observed.service, plan, conflicts)
        for manifest in plan.partitions:
            await self._apply_partition(observed, manifest)

    async def _note_rollout(self, key: Key, observed: Observed, plan: Plan) -> Observed:
        """Before any pod is replaced: another operator goes on from there. The service as it is after that."""
        service, status = observed.service, observed.service.status or ServiceStatus()
        if _step_of(status.rollout) == _step_of(plan.status.rollout):
            return observed
        said = codec.encode(replace(status, rollout=plan.status.rollout))
        version = await self._applier.apply_status(
            key.name, key.namespace, said, service.metadata.resource_version
        )
        metadata = replace(service.metadata, resource_version=version)
        return replace(observed, service=replace(service, metadata=metadata))

    async def _apply_partition(self, observed: Observed, manifest: dict[str, Any]) -> None:
        partition = observed.partitions.get(manifest["metadata"]["name"])
        if partition is None or not is_asked(partition.spec, manifest["spec"]):
            await self._applier.apply_partition(manifest)

    async def _apply_status(self, key: Key, service: SemiPDService, plan: Plan, conflicts: list[str]) -> None:
        status = plan.status
        if conflicts:
            condition = Condition(
                type=ConditionType.DEGRADED,
                status=ConditionStatus.TRUE,
                reason="FieldOwned",
                message="; ".join(sorted(conflicts))[:1024],
                observed_generation=service.metadata.generation,
            )
            status = replace(status, conditions=set_condition(status.conditions, condition, self._time()))
        encoded = codec.encode(status)
        if encoded != self._world.services.get(key, {}).get("status"):
            if plan.scaling is not None and plan.scaling.replicas is not None:
                status = await self._scaler.scale(key, service, status, plan.scaling)
            else:  # records are taken over from what was seen: where that is not the last word, they would be lost
                version = None if plan.scaling is None else service.metadata.resource_version
                await self._applier.apply_status(key.name, key.namespace, encoded, version)
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
        await self._applier.apply_status(key.name, key.namespace, status)

    def _others_gpus(self, key: Key, observed: Observed) -> int:
        """As deployed, of the other services of the same class in the namespace."""
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
            workload = self._world.workload(other, service)
            if choice.name == own.name and workload is not None:
                total += gpus_per_pod(service.spec, choice.spec) * workload.desired
        return total

    def _time(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _step_of(rollout: RolloutStatus | None) -> tuple[str, str, str] | None:
    return (rollout.template, rollout.base, rollout.stage) if rollout is not None else None
