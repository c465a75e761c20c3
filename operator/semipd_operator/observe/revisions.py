"""The pod template of a revision, asked for when a service is rolled back to it: a fleet's templates would fill the memory."""

from __future__ import annotations

from typing import Any

from lightkube import AsyncClient

from semipd_core.errors import SemipdError
from semipd_operator.kinds import REPLICA_SET
from semipd_operator.plan.naming import HASH_LABEL, SERVICE_LABEL
from semipd_operator.plan.observed import RevisionView
from semipd_shell.informer import Key


class RevisionGone(SemipdError):
    """The informer is behind: the turn comes again with what it sees next."""


class Revisions:
    """Holds the template of each service that is rolled back."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._held: dict[Key, tuple[str, dict[str, Any]]] = {}  # hash, template

    async def template(self, key: Key, revision: RevisionView) -> dict[str, Any]:
        """As its ReplicaSet has it, without the label that Kubernetes adds.

        Raises: RevisionGone, ApiError, httpx2.HTTPError.
        """
        held = self._held.get(key)
        if held is None or held[0] != revision.hash:
            held = self._held[key] = (revision.hash, await self._read(key, revision))
        return held[1]

    def forget(self, key: Key) -> None:
        self._held.pop(key, None)

    async def _read(self, key: Key, revision: RevisionView) -> dict[str, Any]:
        labels: dict[str, Any] = {SERVICE_LABEL: key.name, HASH_LABEL: revision.hash}
        async for found in self._client.list(REPLICA_SET, namespace=key.namespace, labels=labels):
            return plain_template(found["spec"]["template"])
        raise RevisionGone(f"{key.name}: no ReplicaSet of the revision {revision.hash}")


def plain_template(template: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in template["metadata"].items() if value is not None}
    labels = {name: value for name, value in metadata.get("labels", {}).items() if name != HASH_LABEL}
    return {**template, "metadata": {**metadata, "labels": labels}}
