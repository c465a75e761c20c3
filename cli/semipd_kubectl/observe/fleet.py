"""Services with their pods, partitions and classes, as the API server has them now."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from semipd_kubectl.api.connection import Connection, Object
from semipd_kubectl.api.paths import CLASSES, PARTITIONS, PODS, SERVICES
from semipd_kubectl.errors import ApiError, Forbidden, NotThere
from semipd_kubectl.observe.objects import ENGINES, SERVICE_LABEL, Fleet, ServiceView, build_fleet
from semipd_kubectl.observe.threads import request_threads

_Rest = tuple[Future[list[Object]], Future[list[Object]], Future[list[Object] | None]]


def observe_fleet(api: Connection, namespace: str | None) -> Fleet:
    """`namespace` None: all. Raises: ApiError."""
    with request_threads(4) as threads:
        services = threads.submit(api.list, SERVICES.path(namespace))
        rest = _submit_rest(threads, api, namespace, SERVICE_LABEL)
        return build_fleet(services.result(), *_results(rest))


def observe_service(api: Connection, namespace: str, name: str) -> ServiceView:
    """Raises: ApiError; NotThere names the services that are there."""
    with request_threads(4) as threads:
        service = threads.submit(_get_service, api, namespace, name)
        rest = _submit_rest(threads, api, namespace, f"{SERVICE_LABEL}={name}")
        found = service.result()
        fleet = build_fleet([found], *_results(rest))
    if fleet.unreadable:
        raise ApiError(f"{fleet.unreadable[0]} (is this plugin older than the CRDs?)")
    return fleet.services[0]


def _results(rest: _Rest) -> tuple[list[Object], list[Object], list[Object] | None]:
    pods, partitions, classes = rest
    return pods.result(), partitions.result(), classes.result()


def _submit_rest(threads: ThreadPoolExecutor, api: Connection, namespace: str | None, label: str) -> _Rest:
    query = {"labelSelector": f"{ENGINES},{label}"}
    return (
        threads.submit(api.list, PODS.path(namespace), query),
        threads.submit(api.list, PARTITIONS.path(namespace), query),
        threads.submit(_classes, api),
    )


def _classes(api: Connection) -> list[Object] | None:
    """None where the caller may not read them: they are cluster-wide, and a model owner may be bound to one namespace."""
    try:
        return api.list(CLASSES.path())
    except Forbidden:
        return None


def _get_service(api: Connection, namespace: str, name: str) -> Object:
    try:
        return api.get(SERVICES.path(namespace, name))
    except NotThere as error:
        raise NotThere(
            f"no service {name!r} in namespace {namespace}; {_there(api, namespace)}", error.code
        ) from None


def _there(api: Connection, namespace: str) -> str:
    try:
        names = sorted(found["metadata"]["name"] for found in api.list(SERVICES.path(namespace)))
        if names:
            return f"there are: {', '.join(names)}"
        everywhere = sorted(
            f"{found['metadata']['namespace']}/{found['metadata']['name']}"
            for found in api.list(SERVICES.path())
        )
    except ApiError:
        return "the others may not be listed"
    return f"elsewhere there are: {', '.join(everywhere)}" if everywhere else "there is none in the cluster"
