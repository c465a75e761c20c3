"""Everything that `doctor` looks at, read at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from semipd_kubectl.api import paths
from semipd_kubectl.api.connection import POOL_SIZE, Connection
from semipd_kubectl.errors import ApiError
from semipd_kubectl.observe.objects import build_fleet
from semipd_kubectl.observe.threads import request_threads
from semipd_kubectl.reports.doctor.access import OWNER_NEEDS, OWNER_WISHES, operator_needs
from semipd_kubectl.reports.doctor.findings import CRDS, OPERATOR, Findings, Need, watched_namespace

_T = TypeVar("_T")


def observe_installation(api: Connection, namespace: str | None, operator_namespace: str) -> Findings:
    """`namespace`: whose services; None: all. Raises: ApiError if the API server does not answer at all."""
    version = api.get(paths.VERSION)
    with request_threads(POOL_SIZE // 2) as threads:

        def later(read: Callable[..., _T], *arguments: object) -> Callable[[], _T | ApiError]:
            future = threads.submit(read, *arguments)
            return lambda: _result(future.result)

        crds = {name: later(api.get, paths.CRDS.path(name=name)) for name in CRDS}
        deployment = later(api.get, paths.DEPLOYMENTS.path(operator_namespace, OPERATOR))
        lease = later(api.get, paths.LEASES.path(operator_namespace, OPERATOR))
        classes = later(api.list, paths.CLASSES.path())
        policies = later(api.list, paths.POLICIES.path())
        bindings = later(api.list, paths.POLICY_BINDINGS.path())
        nodes = later(api.list, paths.NODES.path())
        pods = later(api.list, paths.PODS.path())
        runtime_classes = later(api.list, paths.RUNTIME_CLASSES.path())
        services = later(api.list, paths.SERVICES.path(namespace))
        account = f"system:serviceaccount:{operator_namespace}:{OPERATOR}"
        caller = {need: later(_may, api, need, namespace, None) for need in (*OWNER_NEEDS, *OWNER_WISHES)}
        found_deployment = deployment()
        watched = watched_namespace(found_deployment, operator_namespace)
        operator = {need: later(_may, api, need, watched, account) for need in operator_needs(watched)}
        found_classes, found_services = classes(), services()
        return Findings(
            now_s=api.now_s(),
            namespace=namespace,
            operator_namespace=operator_namespace,
            version=version,
            crds={name: read() for name, read in crds.items()},
            deployment=found_deployment,
            lease=lease(),
            classes=found_classes,
            caller=_all_or_error(caller),
            operator=_all_or_error(operator),
            policies=policies(),
            bindings=bindings(),
            nodes=nodes(),
            pods=pods(),
            runtime_classes=runtime_classes(),
            fleet=found_services
            if isinstance(found_services, ApiError)
            else build_fleet(
                found_services, [], [], None if isinstance(found_classes, ApiError) else found_classes
            ),
        )


def _may(api: Connection, need: Need, namespace: str | None, user: str | None) -> bool:
    """`namespace` None: everywhere. `user` None: the caller. Raises: ApiError."""
    attributes = {"verb": need.verb, "group": need.group, "resource": need.resource}
    if need.sub:
        attributes["subresource"] = need.sub
    if (place := need.place(namespace)) is not None:
        attributes["namespace"] = place
    spec: dict[str, object] = {"resourceAttributes": attributes}
    if user is not None:
        spec |= {"user": user, "groups": ["system:serviceaccounts", "system:authenticated"]}
    kind = paths.SELF_REVIEWS if user is None else paths.REVIEWS
    review = {
        "apiVersion": kind.group_version,
        "kind": "SelfSubjectAccessReview" if user is None else "SubjectAccessReview",
        "spec": spec,
    }
    return bool(api.create(kind.path(), review)["status"].get("allowed"))


def _result(read: Callable[[], _T]) -> _T | ApiError:
    try:
        return read()
    except ApiError as error:
        return error


def _all_or_error(
    reviews: Mapping[Need, Callable[[], bool | ApiError]],
) -> Mapping[Need, bool] | ApiError:
    found: dict[Need, bool] = {}
    for need, read in reviews.items():
        answer = read()
        if isinstance(answer, ApiError):
            return answer
        found[need] = answer
    return found
