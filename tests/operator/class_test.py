"""Classes: which one holds, what it refuses and in which words, what it changes."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_objects import observed, service, service_class, workload

from semipd_core.api.fields import Device
from semipd_operator.plan.class_choice import choose_class
from semipd_operator.plan.plan import Installation, admit

INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")


@pytest.mark.parametrize(
    ("spec", "classes", "name"),
    [
        pytest.param({}, [], None, id="no class is there: built-in defaults"),
        pytest.param({}, [service_class()], None, id="one is there and none is the default"),
        pytest.param({}, [service_class(default=True)], "standard", id="the default one"),
        pytest.param(
            {},
            [
                service_class(name="old", default=True, created="2026-01-01T00:00:00Z"),
                service_class(name="young", default=True, created="2026-02-01T00:00:00Z"),
            ],
            "young",
            id="of two defaults the youngest",
        ),
        pytest.param(
            {"classRef": {"name": "other"}},
            [service_class(default=True), service_class(name="other")],
            "other",
            id="the one named before the default",
        ),
    ],
)
def test_the_class_that_holds(spec: dict[str, Any], classes: list[Any], name: str | None) -> None:
    choice = choose_class(service(**spec), classes)
    assert (choice.name, choice.defect) == (name, None)


@pytest.mark.parametrize(
    ("spec", "cls", "others_gpus", "message"),
    [
        pytest.param(
            {"classRef": {"name": "gold"}},
            {},
            0,
            "spec.classRef.name: got 'gold', allowed: a SemiPDClass of this cluster (standard)",
            id="a class that is not there",
        ),
        pytest.param(
            {"partition": {"isolation": "Unified"}},
            {"allowedIsolations": ["MPS", "GreenContext"]},
            0,
            "spec.partition.isolation: got 'Unified', allowed: one of Auto, MPS, GreenContext (by the class)",
            id="an isolation that it does not allow",
        ),
        pytest.param(
            {"partition": {"isolation": "GreenContext"}, "resources": {"gpusPerEngine": 2}},
            {"device": "CUDA"},
            0,
            "spec.partition.isolation: got 'GreenContext with gpusPerEngine 2', "
            "allowed: MPS, None or Unified: green contexts serve one GPU in this version",
            id="green contexts on several GPUs",
        ),
        pytest.param(
            {"resources": {"gpusPerEngine": 2}},
            {"allowedIsolations": ["GreenContext"]},
            0,
            "spec.partition.isolation: got 'Auto with gpusPerEngine 2', "
            "allowed: MPS, None or Unified: green contexts serve one GPU in this version",
            id="several GPUs under a class that leaves Auto green contexts alone",
        ),
        pytest.param(
            {"partition": {"bounds": {"prefillMinPercent": 80, "prefillMaxPercent": 100}}},
            {"bounds": {"prefillMinPercent": 20, "prefillMaxPercent": 60}},
            0,
            "spec.partition.bounds.prefillMinPercent: got '80..100', allowed: a part of 20..60 (by the class)",
            id="bounds that have nothing in common with its own",
        ),
        pytest.param(
            {"replicas": 3, "resources": {"gpusPerEngine": 2}},
            {"gpuBudget": 8},
            4,
            "spec.replicas: got '6 GPUs', allowed: at most 4 of the 8 that the class allows in a namespace",
            id="more GPUs than are left of its budget",
        ),
        pytest.param(
            {"placement": "EveryNode"},
            {"gpuBudget": 8},
            0,
            "spec.placement: got 'EveryNode', allowed: Replicas (the class has a gpuBudget)",
            id="as many GPUs as there will be nodes",
        ),
    ],
)
def test_a_service_that_breaks_its_class(
    spec: dict[str, Any], cls: dict[str, Any], others_gpus: int, message: str
) -> None:
    admission = admit(
        observed(service=service(**spec), workload=None),
        [service_class(default=True, **cls)],
        INSTALLATION,
        others_gpus,
    )
    assert admission.effective is None
    assert str(admission.defect) == message


def test_a_budget_that_shrinks_stops_nothing_that_runs() -> None:
    cls = service_class(default=True, gpuBudget=2)
    running = observed(service=service(replicas=4), workload=workload(4))
    assert admit(running, [cls], INSTALLATION, 0).defect is None
    more = observed(service=service(replicas=5), workload=workload(4))
    assert admit(more, [cls], INSTALLATION, 0).defect is not None
    on_every_node = observed(service=service(placement="EveryNode"), workload=workload(4))
    assert admit(on_every_node, [cls], INSTALLATION, 0).defect is None


@pytest.mark.parametrize(
    ("cls", "spec"),
    [
        pytest.param({"device": "CPU"}, {"isolation": "GreenContext"}, id="ranks on a CPU share its cores"),
        pytest.param({"device": "CUDA"}, {"isolation": "MPS"}, id="another isolation"),
        pytest.param({"device": "CUDA"}, {}, id="Auto, which has others to choose from"),
    ],
)
def test_several_gpus_per_engine_are_refused_for_green_contexts_alone(
    cls: dict[str, Any], spec: dict[str, Any]
) -> None:
    chat = service(partition=spec, resources={"gpusPerEngine": 2})
    seen = observed(service=chat, workload=None)
    assert admit(seen, [service_class(default=True, **cls)], INSTALLATION, 0).defect is None


def test_cpu_pods_cost_no_gpus() -> None:
    cls = service_class(default=True, device="CPU", gpuBudget=0)
    for spec in (service(replicas=9), service(placement="EveryNode")):
        assert admit(observed(service=spec, workload=None), [cls], INSTALLATION, 0).defect is None


def test_what_a_class_changes() -> None:
    cls = service_class(
        default=True,
        device="CPU",
        image="mirror/engine:2",
        bounds={
            "prefillMinPercent": 30,
            "prefillMaxPercent": 70,
            "decodeMinPercent": 50,
            "decodeMaxPercent": 90,
        },
        maxSwitchesPerHour=6,
        nodeSelector={"pool": "gpu"},
        runtimeClassName="nvidia",
    )
    spec = service(scheduling={"nodeSelector": {"zone": "a", "pool": "mine"}})
    effective = admit(observed(service=spec), [cls], INSTALLATION, 0).effective
    assert effective is not None
    assert effective.device is Device.CPU
    assert effective.image == "mirror/engine:2"
    assert effective.max_switches_per_hour == 6
    assert effective.spec.scheduling.node_selector == {"zone": "a", "pool": "gpu"}
    assert effective.spec.scheduling.runtime_class_name == "nvidia"
    bounds, initial = effective.spec.partition.bounds, effective.spec.partition.initial_split
    assert (bounds.prefill_min_percent, bounds.prefill_max_percent) == (30, 70)
    assert (initial.prefill_percent, initial.decode_percent) == (70, 90)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param({}, (5, 90, 10, 100), id="a class that says nothing"),
        pytest.param({"prefillMaxPercent": 60}, (5, 60, 10, 100), id="one that says one thing"),
    ],
)
def test_bounds_are_cut_by_what_the_class_says_alone(
    limits: dict[str, int], expected: tuple[int, ...]
) -> None:
    own = {"prefillMinPercent": 5, "prefillMaxPercent": 90, "decodeMinPercent": 10}
    asked = observed(service=service(partition={"bounds": own}))
    effective = admit(asked, [service_class(default=True, bounds=limits)], INSTALLATION, 0).effective
    assert effective is not None
    bounds = effective.spec.partition.bounds
    assert (
        bounds.prefill_min_percent,
        bounds.prefill_max_percent,
        bounds.decode_min_percent,
        bounds.decode_max_percent,
    ) == expected


def test_without_an_image_of_its_class_a_service_gets_that_of_the_operators_release() -> None:
    effective = admit(observed(), [], INSTALLATION, 0).effective
    assert effective is not None
    assert effective.image == "semipd/engine:1"
