"""Who may do what: the caller as a model owner, and the operator's account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from semipd_core.api.fields import GROUP
from semipd_kubectl.api.failures import INSTALL, INSTALL_NAMESPACED
from semipd_kubectl.errors import ApiError, NotThere
from semipd_kubectl.reports.doctor.findings import (
    OPERATOR,
    Check,
    Findings,
    Need,
    failed,
    passed,
    unknown,
    warned,
)


def _needs(verbs: str, group: str, *resources: str) -> tuple[Need, ...]:
    """`resources` with their subresources, as `pods/log`."""
    return tuple(
        Need(verb=verb, group=group, resource=resource.partition("/")[0], sub=resource.partition("/")[2])
        for resource in resources
        for verb in verbs.split()
    )


OWNER_NEEDS = (
    *_needs("get list watch create patch delete", GROUP, "semipdservices"),
    *_needs("get list", GROUP, "semipdpartitions"),
    *_needs("get list", "", "pods"),
)
# Without them a column or a command is missing, and nothing else.
OWNER_WISHES = (
    *_needs("get", "", "pods/log", "pods/proxy"),
    *_needs("list", GROUP, "semipdclasses"),
)
WISH_USES = {
    "pods/log": "`logs`",
    "pods/proxy": "live figures in `top` and `explain`",
    "semipdclasses/": "bounds and limits of the class in `explain` and `pin`",
}
CHILD_VERBS = "list watch create patch delete"
OPERATOR_NEEDS = (
    *_needs("list watch", GROUP, "semipdservices", "semipdclasses"),
    *_needs("patch", GROUP, "semipdservices", "semipdservices/status", "semipdservices/scale"),
    *_needs("patch", GROUP, "semipdclasses/status"),
    *_needs("get list watch create patch", GROUP, "semipdpartitions"),
    *_needs("patch", GROUP, "semipdpartitions/status"),
    *_needs("list watch", "", "pods"),
    *_needs(CHILD_VERBS, "", "services", "serviceaccounts"),
    *_needs(CHILD_VERBS, "apps", "deployments", "daemonsets"),
    *_needs("list watch", "apps", "replicasets"),
    *_needs(CHILD_VERBS, "policy", "poddisruptionbudgets"),
    *_needs(CHILD_VERBS, "networking.k8s.io", "networkpolicies"),
    *_needs(CHILD_VERBS, "rbac.authorization.k8s.io", "roles", "rolebindings"),
    *_needs("list watch", "discovery.k8s.io", "endpointslices"),
    *_needs("create patch", "events.k8s.io", "events"),
)
_COUNTS_OF_CLASSES = _needs("patch", GROUP, "semipdclasses/status")


def operator_needs(watched: str | None) -> tuple[Need, ...]:
    """`watched`: the one namespace that it serves. Such an operator writes no class's status; None: all namespaces."""
    if watched is None:
        return OPERATOR_NEEDS
    return tuple(need for need in OPERATOR_NEEDS if need not in _COUNTS_OF_CLASSES)


def check_caller(found: Findings) -> Iterator[Check]:
    name = "your rights"
    if isinstance(found.caller, ApiError):
        yield unknown(name, found.caller)
        return
    missing = _missing(found.caller, OWNER_NEEDS)
    where = "all namespaces" if found.namespace is None else f"namespace {found.namespace}"
    if missing:
        yield failed(
            name,
            f"in {where} you may not {_some(missing)}",
            "ask for the role `edit`, which the roles semipd-edit and semipd-view are aggregated into",
        )
    else:
        yield passed(name, f"you may own services in {where}")
    yield from _check_wishes(found.caller)


def _check_wishes(reviews: Mapping[Need, bool]) -> Iterator[Check]:
    missing = _missing(reviews, OWNER_WISHES)
    if missing:
        without = [WISH_USES[f"{need.resource}/{need.sub}"] for need in missing]
        yield warned(
            "rights for looking",
            f"you may not {_some(missing)}: without it there is no {', no '.join(without)}",
            "ask for them: docs/kubectl.md has the role",
        )


def check_operator_access(found: Findings) -> Check:
    name = "operator's rights"
    if isinstance(found.operator, ApiError):
        return unknown(name, found.operator)
    if isinstance(found.deployment, ApiError) and not isinstance(found.deployment, NotThere):
        return unknown(name, found.deployment)  # it says where the rights are needed
    needs, where = operator_needs(found.watched), ""
    if found.watched is not None:
        where = f" in namespace {found.watched}"
    missing = _missing(found.operator, needs)
    if missing:
        remedy = INSTALL if found.watched is None else INSTALL_NAMESPACED
        return failed(name, f"{OPERATOR} may not {_some(missing)}{where}", remedy)
    return passed(name, f"{OPERATOR} may do all {len(needs)} things that it does{where}")


def _missing(reviews: Mapping[Need, bool], needs: tuple[Need, ...]) -> list[Need]:
    return [need for need in needs if not reviews.get(need, False)]


def _some(needs: list[Need], shown: int = 4) -> str:
    rest = len(needs) - shown
    return ", ".join(str(need) for need in needs[:shown]) + (f" and {rest} more" if rest > 0 else "")
