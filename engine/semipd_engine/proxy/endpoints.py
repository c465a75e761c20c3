"""Which pods does a Service have, by its EndpointSlices? Pure.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from semipd_engine.proxy.upstreams import Address, Endpoint

HTTP_PORT_NAME, AGENT_PORT_NAME = "http", "agent"

Object = Mapping[str, Any]


def read_endpoints(slices: Iterable[Object]) -> list[Endpoint]:
    """One per pod, by name; of a pod in several slices (two address families, or while it moves between slices) the best."""
    found: dict[str, Endpoint] = {}
    for each in sorted(slices, key=_order):
        for endpoint in _of_slice(each):
            known = found.get(endpoint.name)
            if known is None or (endpoint.ready and not known.ready):
                found[endpoint.name] = endpoint
    return list(found.values())


def _order(found: Object) -> tuple[str, str]:
    return found.get("addressType", ""), found["metadata"]["name"]


def _of_slice(found: Object) -> Iterable[Endpoint]:
    ports = {port.get("name"): port.get("port") for port in found.get("ports") or []}
    http = ports.get(HTTP_PORT_NAME)
    if http is None or found.get("addressType") == "FQDN":
        return
    for each in found.get("endpoints") or []:
        host = each["addresses"][0]
        conditions = each.get("conditions") or {}
        leaving = conditions.get("terminating") is True
        if leaving and conditions.get("serving") is False:
            continue
        yield Endpoint(
            name=(each.get("targetRef") or {}).get("name") or f"{host}:{http}",
            address=Address(host=host, port=http, agent_port=ports.get(AGENT_PORT_NAME)),
            ready=conditions.get("ready") is not False,  # absent: ready, as the API says
            leaving=leaving,
        )
