"""What each class's status says: who follows it, the GPUs that they hold, and whether it can be used as it stands."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_objects import NOW, service, service_class
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.api import codec
from semipd_core.api.service_class import DEFAULT_CLASS_ANNOTATION, ClassStatus
from semipd_operator.plan.class_choice import choose_class
from semipd_operator.plan.class_status import Deployed, plan_class_statuses
from semipd_operator.plan.observed_class import ClassView, holds_otherwise, view_class

LATER = "2026-11-21T13:00:00Z"
GPUS = {"device": "CUDA", "gpusPerEngine": 2}


def found(name: str, *, default: bool = False, created: str = "01", **spec: Any) -> dict[str, Any]:
    """A class as the API server has it; `created`: the day."""
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDClass",
        "metadata": {
            "name": name,
            "generation": 3,
            "creationTimestamp": f"2026-01-{created}T00:00:00Z",
            "annotations": {DEFAULT_CLASS_ANNOTATION: "true"} if default else {},
        },
        "spec": spec,
    }


def view(name: str, **changes: Any) -> ClassView:
    return view_class(found(name, **changes), None)


def deployed(pods: int = 1, **spec: Any) -> Deployed:
    return Deployed(service=service(**spec), pods=pods)


def named(name: str, pods: int = 1, **resources: Any) -> Deployed:
    return deployed(pods, classRef={"name": name}, resources=resources)


def ready(status: ClassStatus) -> tuple[str, str, str]:
    (condition,) = status.conditions
    return condition.status.value, condition.reason, condition.message


@pytest.mark.parametrize(
    ("services", "counts"),
    [
        pytest.param([], {"gold": (0, 0), "standard": (0, 0)}, id="nobody follows any"),
        pytest.param(
            [named("gold", 3, **GPUS), named("gold", 1, device="CUDA", enginesPerPod=2)],
            {"gold": (2, 8), "standard": (0, 0)},
            id="pods times engines times GPUs",
        ),
        pytest.param(
            [deployed(2), deployed(1), named("gold", 1)],
            {"gold": (1, 1), "standard": (2, 3)},
            id="who names none follows the default one",
        ),
        pytest.param(
            [named("gold", 3, device="CPU")], {"gold": (1, 0), "standard": (0, 0)}, id="a CPU is no GPU"
        ),
        pytest.param(
            [named("bronze", 3)], {"gold": (0, 0), "standard": (0, 0)}, id="a class that is not there"
        ),
        pytest.param([named("gold", 0)], {"gold": (1, 0), "standard": (0, 0)}, id="nothing deployed yet"),
        pytest.param(
            [deployed(2, classRef={"name": "gold"}, partition={"isolation": "Unified"})],
            {"gold": (1, 2), "standard": (0, 0)},
            id="who is refused keeps its GPUs",
        ),
    ],
)
def test_services_and_gpus(services: list[Deployed], counts: dict[str, tuple[int, int]]) -> None:
    views = [view("gold", allowedIsolations=["MPS"]), view("standard", default=True)]
    statuses = plan_class_statuses(views, services, NOW)
    assert {name: (each.services, each.gpus_in_use) for name, each in statuses.items()} == counts


def test_of_a_class_for_cpus_services_that_leave_the_device_open_hold_no_gpu() -> None:
    (status,) = plan_class_statuses([view("cpu", default=True, device="CPU")], [deployed(4)], NOW).values()
    assert (status.device, status.services, status.gpus_in_use) == ("CPU", 1, 0)


def test_the_device_that_the_spec_leaves_open_is_said() -> None:
    assert plan_class_statuses([view("plain")], [], NOW)["plain"].device == "CUDA"


YOUNGEST = (
    "services that name no class follow young, the youngest of those marked as default "
    "(of equally old ones the first by name): "
)
BUDGET_OF_LESS_THAN_NOTHING = "spec.gpuBudget: got -1, allowed: an integer 0..100000"


@pytest.mark.parametrize(
    ("views", "said"),
    [
        pytest.param(
            [view("plain")],
            {"plain": ("True", "Accepted", "services that name it follow it")},
            id="one that is named",
        ),
        pytest.param(
            [view("plain"), view("standard", default=True)],
            {
                "plain": ("True", "Accepted", "services that name it follow it"),
                "standard": ("True", "Accepted", "services that name it or no class follow it"),
            },
            id="the default one",
        ),
        pytest.param(
            [view("old", default=True), view("young", default=True, created="02")],
            {
                "old": (
                    "False",
                    "AnotherDefault",
                    f"only services that name it follow it; {YOUNGEST}old, young",
                ),
                "young": ("True", "Accepted", f"{YOUNGEST}old, young"),
            },
            id="of two default ones the youngest",
        ),
        pytest.param(
            [view("zebra", default=True), view("young", default=True)],
            {
                "young": ("True", "Accepted", f"{YOUNGEST}young, zebra"),
                "zebra": (
                    "False",
                    "AnotherDefault",
                    f"only services that name it follow it; {YOUNGEST}young, zebra",
                ),
            },
            id="of equally old ones the first by name",
        ),
        pytest.param(
            [view("odd", default=True, gpuBudget=-1), view("young", default=True)],
            {
                "odd": (
                    "False",
                    "InvalidSpec",
                    f"{BUDGET_OF_LESS_THAN_NOTHING}; services that name it are refused until it can be read",
                ),
                "young": ("True", "Accepted", "services that name it or no class follow it"),
            },
            id="one that cannot be read claims nothing",
        ),
    ],
)
def test_whether_a_class_can_be_used(views: list[ClassView], said: dict[str, tuple[str, str, str]]) -> None:
    statuses = plan_class_statuses(views, [], NOW)
    assert {name: ready(status) for name, status in statuses.items()} == said
    assert all(each.observed_generation == 3 for each in statuses.values())
    assert all(each.conditions[0].observed_generation == 3 for each in statuses.values())


def test_a_class_that_cannot_be_read_any_more_holds_as_it_was() -> None:
    before = view("gold", device="CPU")
    broken = view_class(found("gold", device="CUDA", gpuBudget=-1), before)
    assert not holds_otherwise(before, broken)
    status = plan_class_statuses([broken], [named("gold", 2)], NOW)["gold"]
    assert (status.device, status.services, status.gpus_in_use) == ("CPU", 1, 0)
    assert ready(status)[1:] == (
        "InvalidSpec",
        f"{BUDGET_OF_LESS_THAN_NOTHING}; the last form that was read holds until the operator restarts",
    )


def test_what_those_hold_who_follow_a_class_that_was_never_read_is_not_said() -> None:
    status = plan_class_statuses([view("gold", gpuBudget=-1)], [named("gold", 2)], NOW)["gold"]
    assert (status.device, status.services, status.gpus_in_use) == (None, None, None)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"services": -1}, id="a count below 0"),
        pytest.param({"tenants": 4}, id="a field of another release"),
    ],
)
def test_a_status_that_cannot_be_read_costs_no_guard_rail(status: dict[str, Any]) -> None:
    seen = view_class({**found("gold", gpuBudget=4), "status": status}, None)
    assert (seen.defect, seen.status, seen.written) == (None, None, status)
    assert seen.form is not None
    assert seen.form.spec.gpu_budget == 4


def after(name: str, status: ClassStatus, **changes: Any) -> ClassView:
    """The class as it comes back once its status is written."""
    return view_class({**found(name, **changes), "status": codec.encode(status)}, None)


def test_a_restart_changes_nothing() -> None:
    services = [named("gold", 3), deployed(2)]
    views = [view("gold"), view("standard", default=True)]
    first = plan_class_statuses(views, services, NOW)
    views = [after("gold", first["gold"]), after("standard", first["standard"], default=True)]
    assert plan_class_statuses(views, services, LATER) == first
    assert [each.written for each in views] == [codec.encode(status) for status in first.values()]


def test_the_time_of_a_condition_moves_when_it_flips() -> None:
    first = plan_class_statuses([view("old", default=True)], [], NOW)["old"]
    old = after("old", first, default=True)
    assert not holds_otherwise(view("old", default=True), old)
    alone = plan_class_statuses([old], [deployed()], LATER)["old"]
    assert alone.conditions[0].last_transition_time == NOW
    beaten = plan_class_statuses([old, view("young", default=True, created="02")], [], LATER)["old"]
    assert beaten.conditions[0].last_transition_time == LATER


def test_what_somebody_else_says_of_a_class_stays() -> None:
    theirs = {"type": "Audited", "status": "True", "reason": "Reviewed"}
    seen = view_class({**found("gold"), "status": {"conditions": [theirs]}}, None)
    status = plan_class_statuses([seen], [], NOW)["gold"]
    assert [each.type for each in status.conditions] == ["Audited", "Ready"]


@pytest.mark.parametrize(
    ("before", "now", "otherwise"),
    [
        pytest.param(None, view("gold"), True, id="it is new"),
        pytest.param(view("gold"), None, True, id="it is gone"),
        pytest.param(view("gold"), view("gold", gpuBudget=4), True, id="another limit"),
        pytest.param(view("gold"), view("gold", default=True), True, id="it becomes the default"),
        pytest.param(view("gold"), view("gold", created="02"), True, id="it was made anew"),
        pytest.param(None, view("gold", gpuBudget=-1), False, id="it is new and cannot be read"),
    ],
)
def test_when_services_are_looked_at_again(
    before: ClassView | None, now: ClassView | None, otherwise: bool
) -> None:
    assert holds_otherwise(before, now) is otherwise


CLASS_NAMES = st.sampled_from(["gold", "old", "young", "bronze"])
SERVICES = st.builds(
    lambda name, pods, device: deployed(
        pods, resources={"device": device}, **({"classRef": {"name": name}} if name else {})
    ),
    st.none() | CLASS_NAMES,
    st.integers(0, 9),
    st.sampled_from(["Auto", "CUDA", "CPU"]),
)


@given(services=st.lists(SERVICES, max_size=20), marked=st.sets(CLASS_NAMES))
def test_each_service_is_counted_where_its_guard_rails_come_from(
    services: list[Deployed], marked: set[str]
) -> None:
    names = ("gold", "old", "young")
    classes = [service_class(name=name, default=name in marked) for name in names]
    views = [view(name, default=name in marked) for name in names]
    statuses = plan_class_statuses(views, services, NOW)
    for name in names:
        own = [
            each
            for each in services
            if (choice := choose_class(each.service, classes)).name == name and choice.defect is None
        ]
        assert statuses[name].services == len(own)
    not_ready = [name for name, status in statuses.items() if ready(status)[0] != "True"]
    assert len(not_ready) == max(0, len(marked & set(names)) - 1)
