"""The status of each class: which services follow it, the GPUs that they hold, and whether it can be used as it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType, set_condition
from semipd_core.api.service import SemiPDService
from semipd_core.api.service_class import ClassDevice, ClassStatus, SemiPDClass
from semipd_operator.plan.class_choice import choose_class, default_class, is_default
from semipd_operator.plan.guard_rails import gpus_per_pod
from semipd_operator.plan.observed_class import ClassView

MAX_MESSAGE = 1024


class ClassReason(StrEnum):
    """Why a class is ready or not."""

    ACCEPTED = "Accepted"
    ANOTHER_DEFAULT = "AnotherDefault"
    INVALID_SPEC = "InvalidSpec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A service and how many pods its workload is to have."""

    service: SemiPDService
    pods: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassUse:
    """`services`: those that name each class or get it by default. `gpus`: that their workloads are to hold."""

    services: Counter[str]
    gpus: Counter[str]


def plan_class_statuses(
    views: Iterable[ClassView], deployed: Iterable[Deployed], now: str
) -> dict[str, ClassStatus]:
    """By the class's name. `now` is RFC 3339, for conditions that flip. Equal observations give equal statuses."""
    views = list(views)
    forms = [view.form for view in views if view.form is not None]
    use = count_use(deployed, forms)
    return {view.name: _status(view, use, _ready(view, forms), now) for view in views}


def count_use(deployed: Iterable[Deployed], classes: Iterable[SemiPDClass]) -> ClassUse:
    """A service that its class refuses counts: it follows no other, and keeps the GPUs that it has."""
    forms, services, gpus = list(classes), Counter[str](), Counter[str]()
    for each in deployed:
        choice = choose_class(each.service, forms)
        if choice.name is not None and choice.defect is None:
            services[choice.name] += 1
            gpus[choice.name] += gpus_per_pod(each.service.spec, choice.spec) * each.pods
    return ClassUse(services=services, gpus=gpus)


def _status(view: ClassView, use: ClassUse, ready: Condition, now: str) -> ClassStatus:
    """A class without a form that holds is followed by nobody, and nobody knows what those that name it hold."""
    old = view.status or ClassStatus()
    observed_at = replace(ready, observed_generation=view.generation)
    known = view.form is not None
    return ClassStatus(
        observed_generation=view.generation,
        device=ClassDevice(view.form.spec.device.value) if view.form is not None else None,
        services=use.services[view.name] if known else None,
        gpus_in_use=use.gpus[view.name] if known else None,
        conditions=set_condition(old.conditions, observed_at, now),
    )


def _ready(view: ClassView, forms: list[SemiPDClass]) -> Condition:
    if view.defect is not None:
        holds = "the last form that was read holds until the operator restarts"
        follow = "services that name it are refused until it can be read"
        said = f"{view.defect}; {follow if view.form is None else holds}"
        return _condition(ConditionStatus.FALSE, ClassReason.INVALID_SPEC, said)
    assert view.form is not None
    if not is_default(view.form):
        said = "services that name it follow it"
        return _condition(ConditionStatus.TRUE, ClassReason.ACCEPTED, said)
    marked = sorted(form.metadata.name for form in forms if is_default(form))
    winner = default_class(forms)
    assert winner is not None
    if len(marked) == 1:
        said = "services that name it or no class follow it"
        return _condition(ConditionStatus.TRUE, ClassReason.ACCEPTED, said)
    chosen = (
        f"services that name no class follow {winner.metadata.name}, the youngest of those marked as default"
    )
    said = f"{chosen} (of equally old ones the first by name): {', '.join(marked)}"
    if winner.metadata.name == view.name:
        return _condition(ConditionStatus.TRUE, ClassReason.ACCEPTED, said)
    return _condition(
        ConditionStatus.FALSE, ClassReason.ANOTHER_DEFAULT, f"only services that name it follow it; {said}"
    )


def _condition(status: ConditionStatus, reason: ClassReason, message: str) -> Condition:
    return Condition(type=ConditionType.READY, status=status, reason=reason, message=message[:MAX_MESSAGE])
