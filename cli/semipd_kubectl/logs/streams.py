"""Containers of a service and their logs, from the API server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import urllib3

from semipd_kubectl.api.connection import Connection, Object
from semipd_kubectl.api.paths import PODS
from semipd_kubectl.errors import ApiError
from semipd_kubectl.logs.lines import LogLine, parse_line
from semipd_kubectl.observe.objects import SERVICE_LABEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One run of it: `restarts` tells it from the one before. `waits`: why it has no log yet."""

    pod: str
    name: str
    uid: str
    restarts: int = 0
    waits: str | None = None
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of the past. None: all of it."""

    tail: int | None = None
    since_s: float | None = None
    since_time: str | None = None  # RFC 3339, whole seconds

    def query(self) -> Mapping[str, str]:
        asked: dict[str, str] = {}
        if self.tail is not None:
            asked["tailLines"] = str(self.tail)
        if self.since_time is not None:
            asked["sinceTime"] = self.since_time
        elif self.since_s is not None:
            asked["sinceSeconds"] = str(max(1, round(self.since_s)))
        return asked


def list_containers(api: Connection, namespace: str, service: str, prefix: str) -> list[Container]:
    """Of pods that `prefix` begins the names of. Raises: ApiError."""
    pods = api.list(PODS.path(namespace), {"labelSelector": f"{SERVICE_LABEL}={service}"})
    return [
        container
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))
        if pod["metadata"]["name"].startswith(prefix)
        for container in containers_of(pod)
    ]


def containers_of(pod: Object) -> list[Container]:
    statuses = {each["name"]: each for each in (pod.get("status") or {}).get("containerStatuses") or []}
    found = []
    for container in pod["spec"]["containers"]:
        status = statuses.get(container["name"], {})
        state = status.get("state") or {}
        waiting = state.get("waiting") or (None if state else {"reason": "not started"})
        found.append(
            Container(
                pod=pod["metadata"]["name"],
                name=container["name"],
                uid=pod["metadata"]["uid"],
                restarts=status.get("restartCount", 0),
                waits=None if waiting is None else waiting.get("reason", "waiting"),
                is_over="terminated" in state,
            )
        )
    return found


def read_log(
    api: Connection, namespace: str, container: Container, extent: Extent, *, follow: bool = False
) -> Iterator[LogLine]:
    """Raises: ApiError."""
    query = {"container": container.name, "timestamps": "true", **extent.query()}
    if follow:
        query["follow"] = "true"
    path = PODS.path(namespace, container.pod, "log")
    with api.stream(path, query, None if follow else api.timeout_s) as response:
        try:
            for raw in response:
                text = raw.decode(errors="replace").rstrip("\r\n")
                yield parse_line(text, container.pod, container.name)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"the log of {container.pod} broke off: {error}") from None
