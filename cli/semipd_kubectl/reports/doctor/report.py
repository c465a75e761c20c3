"""All checks, in the order in which what fails would explain what follows."""

from __future__ import annotations

from collections.abc import Iterator

from semipd_core.telemetry import Wire
from semipd_kubectl.errors import ApiError
from semipd_kubectl.reports.conditions import find_blocking
from semipd_kubectl.reports.doctor import access, gpus, installation
from semipd_kubectl.reports.doctor.findings import Check, Findings, Verdict, failed, passed, unknown, warned


class DoctorReport(Wire, frozen=True, kw_only=True):
    """`healthy`: no check fails."""

    healthy: bool
    checks: list[Check]


def build_doctor(found: Findings) -> DoctorReport:
    checks = list(_checks(found))
    return DoctorReport(healthy=all(check.verdict != Verdict.FAIL.value for check in checks), checks=checks)


def _checks(found: Findings) -> Iterator[Check]:
    yield installation.check_version(found)
    yield from installation.check_crds(found)
    yield installation.check_operator(found)
    yield installation.check_lease(found)
    yield access.check_operator_access(found)
    yield from installation.check_policies(found)
    yield installation.check_classes(found)
    yield from access.check_caller(found)
    yield gpus.check_gpus(found)
    yield from gpus.check_sharing(found)
    yield gpus.check_runtime_class(found)
    yield from _check_services(found)


def _check_services(found: Findings) -> Iterator[Check]:
    """A missed SLO alone is a reason to look, not a fault of the installation."""
    if isinstance(found.fleet, ApiError):
        yield unknown("services", found.fleet)
        return
    bad = 0
    for view in found.fleet.services:
        name = f"service {view.namespace}/{view.name}"
        conditions = view.service.status.conditions if view.service.status else ()
        blocking = find_blocking(conditions)
        if not conditions:
            bad += 1
            yield failed(name, "no operator has looked at it yet", "see the operator's checks above")
        elif blocking:
            bad += 1
            message = "; ".join(
                f"{each.type} {each.reason}: {each.message}".rstrip(": ") for each in blocking
            )
            say = warned if all(each.type == "SLOMet" for each in blocking) else failed
            yield say(name, message, f"kubectl semipd explain {view.name} -n {view.namespace}")
    for problem in found.fleet.unreadable:
        bad += 1
        yield failed("services", problem, "install the plugin of the operator's release")
    if not bad:
        yield passed("services", f"none of {len(found.fleet.services)} is blocked")
