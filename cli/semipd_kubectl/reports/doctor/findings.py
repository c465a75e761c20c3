"""What `doctor` found. An error stands in the place of what could not be read: a check says so, and the others go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from semipd_core.telemetry import Wire
from semipd_kubectl.errors import ApiError
from semipd_kubectl.observe.objects import Fleet

Object = Mapping[str, Any]
OPERATOR = "semipd-operator"  # name of the Deployment, its account and its Lease
OPERATOR_NAMESPACE = "semipd-system"
WATCH_NAMESPACE = (
    "SEMIPD_OPERATOR_WATCH_NAMESPACE"  # of the operator's environment; absent: the whole cluster
)
CLUSTER_SCOPED = frozenset({"semipdclasses"})  # plurals, of what anybody needs
CRDS = ("semipdclasses.semipd.io", "semipdpartitions.semipd.io", "semipdservices.semipd.io")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing that somebody must be allowed to do. `group` is "" for the core."""

    verb: str
    group: str
    resource: str
    sub: str = ""

    def place(self, namespace: str | None) -> str | None:
        """Where to ask for it, for one who needs it in `namespace` (None: everywhere)."""
        return None if self.resource in CLUSTER_SCOPED else namespace

    def __str__(self) -> str:
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}{'/' if self.sub else ''}{self.sub}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """`now_s`: unix time by the API server's clock. Reviews: whether each need is met."""

    now_s: float
    namespace: str | None  # whose services were looked at; None: all
    operator_namespace: str = OPERATOR_NAMESPACE
    version: Object | ApiError
    crds: Mapping[str, Object | ApiError]
    deployment: Object | ApiError
    lease: Object | ApiError
    classes: Sequence[Object] | ApiError
    caller: Mapping[Need, bool] | ApiError
    operator: Mapping[Need, bool] | ApiError
    policies: Sequence[Object] | ApiError
    bindings: Sequence[Object] | ApiError
    nodes: Sequence[Object] | ApiError
    pods: Sequence[Object] | ApiError  # of the whole cluster
    runtime_classes: Sequence[Object] | ApiError
    fleet: Fleet | ApiError

    @property
    def watched(self) -> str | None:
        return watched_namespace(self.deployment, self.operator_namespace)


class Verdict(StrEnum):
    PASS = "Pass"  # noqa: S105 - no password
    WARN = "Warn"
    FAIL = "Fail"
    UNKNOWN = "Unknown"  # the caller may not read it


class Check(Wire, frozen=True, kw_only=True):
    """`remedy` is empty where there is nothing to do."""

    name: str
    verdict: str
    message: str
    remedy: str = ""


def passed(name: str, message: str) -> Check:
    return Check(name=name, verdict=Verdict.PASS.value, message=message)


def warned(name: str, message: str, remedy: str) -> Check:
    return Check(name=name, verdict=Verdict.WARN.value, message=message, remedy=remedy)


def failed(name: str, message: str, remedy: str) -> Check:
    return Check(name=name, verdict=Verdict.FAIL.value, message=message, remedy=remedy)


def unknown(name: str, error: ApiError) -> Check:
    remedy = "let somebody with more rights run doctor, or ask for the right to read it"
    return Check(name=name, verdict=Verdict.UNKNOWN.value, message=str(error), remedy=remedy)


def condition(found: Object, kind: str) -> Mapping[str, str]:
    conditions = (found.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind), {})


def watched_namespace(deployment: Object | ApiError, own: str) -> str | None:
    """The one that an operator of `deployment`, in the namespace `own`, serves; None: all, or not known."""
    if isinstance(deployment, ApiError):
        return None
    containers = deployment["spec"].get("template", {}).get("spec", {}).get("containers") or []
    variables = [each for container in containers for each in container.get("env") or []]
    given: Object = next((each for each in variables if each["name"] == WATCH_NAMESPACE), {})
    field = ((given.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
    return own if field == "metadata.namespace" else given.get("value") or None
