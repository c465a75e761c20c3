"""Which kinds of other projects does the cluster have?"""

from __future__ import annotations

import asyncio

from lightkube import ApiError, AsyncClient
from lightkube.generic_resource import create_global_resource

from semipd_operator.plan.optional_children import INFERENCE_POOL, POD_MONITOR
from semipd_shell import log
from semipd_shell.api_client import FAILURES, describe, retry_after_s

RETRY_S = 2.0

_CRD = create_global_resource(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"
)
_CRD_NAMES = {
    POD_MONITOR: "podmonitors.monitoring.coreos.com",
    INFERENCE_POOL: "inferencepools.inference.networking.k8s.io",
}


_log = log.logger(__name__)


async def find_optional_kinds(client: AsyncClient) -> tuple[str, ...]:
    """A namespaced operator may not look: it then builds none. Asks until there is an answer."""
    while True:
        try:
            return tuple([kind for kind, name in _CRD_NAMES.items() if await _is_there(client, name)])
        except FAILURES as error:
            _log.warning("kinds of other projects not known yet", problem=describe(error))
            await asyncio.sleep(max(RETRY_S, retry_after_s(error)))


async def _is_there(client: AsyncClient, name: str) -> bool:
    try:
        await client.get(_CRD, name)
    except ApiError as error:
        if error.status.code in (403, 404):
            return False
        raise
    return True
