"""Server-side apply of manifests, skipped where the API server has them already as we last applied them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from lightkube import ApiError, AsyncClient
from lightkube.types import PatchType

from semipd_core.api.fields import API_VERSION
from semipd_core.errors import SemipdError
from semipd_operator.kinds import BY_KIND, CLASS, SERVICE
from semipd_operator.observe.child import DIGEST_ANNOTATION, ChildView, view_child
from semipd_operator.plan.naming import CHILD_MANAGER, SCALE_MANAGER, SEED_MANAGER, STATUS_MANAGER

NOT_FOUND, CONFLICT, UNPROCESSABLE, FORBIDDEN = 404, 409, 422, 403

Manifest = dict[str, Any]
ChildKey = tuple[str, str, str]  # kind, namespace, name
UNSEEN_S = 60.0  # a watch that is cut is opened anew within that time


class Fenced(SemipdError):
    """This operator does not lead: nothing is written."""


class FieldOwned(SemipdError):
    """Another field manager owns a field that we want to set; it is not taken from it. Any other 409 is to be tried again."""

    def __init__(self, child: str, message: str) -> None:
        self.child = child
        super().__init__(f"{child}: {message}")


class NameTaken(SemipdError):
    """An object of a child's name is there and is not the service's: applied, it would be changed, and go with the service."""

    def __init__(self, child: str, owner: str) -> None:
        super().__init__(f"{child} is there and is {owner}: remove it, or give the service another name")


class ScaleRefused(SemipdError):
    """The API server does not take a number of replicas, and would not at once take it again."""


@dataclass(slots=True)
class Applier:
    """`is_leading` is asked before each write."""

    client: AsyncClient
    is_leading: Any
    now_s: Callable[[], float] = time.monotonic
    writes: int = 0
    _applied: dict[ChildKey, Applied] = field(default_factory=dict)
    _under_way: dict[ChildKey, bool] = field(default_factory=dict)  # write: whether it was deleted meanwhile

    async def apply(self, manifest: Manifest, found: ChildView | None) -> bool:
        """Whether it was written. `found`: as the informer has it; None: it is not there.

        Raises: Fenced, FieldOwned, NameTaken, ApiError, httpx2.HTTPError.
        """
        key = key_of(manifest)
        digest = _digest(manifest)
        last = self._applied.get(key)
        if last is not None and found is not None and found.version == last.after:
            last = self._applied[key] = replace(last, is_seen=True)
        if not needs_apply(digest, found, last, self.now_s()):
            return False
        self._fence()
        if last is None and found is None:
            await self._refuse_taken(manifest)
        self._under_way[key] = False
        try:
            written = view_child(await self._write(_with_digest(manifest, digest)))
        finally:
            is_gone = self._under_way.pop(key)
        if not is_gone:
            self._applied[key] = Applied(
                digest=digest,
                before=found.version if found else None,
                after=written.version,
                at_s=self.now_s(),
            )
        self.writes += 1
        return True

    async def _refuse_taken(self, manifest: Manifest) -> None:
        """Of what bears none of our labels the watches say nothing. Raises: NameTaken, ApiError, httpx2.HTTPError."""
        kind, namespace, name = key_of(manifest)
        objects = self.client.list(BY_KIND[kind], namespace=namespace, fields={"metadata.name": name})
        async for each in objects:
            owner = other_owner(each, manifest)
            if owner is not None:
                raise NameTaken(f"{kind} {name}", owner)

    async def _write(self, manifest: Manifest) -> Any:
        resource = BY_KIND[manifest["kind"]]
        metadata = manifest["metadata"]
        try:
            return await self.client.apply(
                resource(manifest),
                name=metadata["name"],
                namespace=metadata["namespace"],
                field_manager=CHILD_MANAGER,
            )
        except ApiError as error:
            if is_owned_by_another(error):
                message = error.status.message or "conflict"
                raise FieldOwned(f"{manifest['kind']} {metadata['name']}", message) from error
            raise

    async def apply_partition(self, manifest: Manifest) -> None:
        """Raises: Fenced, FieldOwned, ApiError, httpx2.HTTPError."""
        self._fence()
        await self._write(manifest)
        self.writes += 1

    async def seed_replicas(self, name: str, namespace: str, version: str | None, replicas: int) -> None:
        """Once, under a field manager of its own, so that an autoscaler or the user takes the field without a conflict.

        `version`: the resource version at which they were absent; whoever wrote since is not overwritten.

        Raises: Fenced, ApiError, httpx2.HTTPError.
        """
        self._fence()
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "SemiPDService",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
            "spec": {"replicas": replicas},
        }
        try:
            await self.client.apply(
                SERVICE(manifest), name=name, namespace=namespace, field_manager=SEED_MANAGER, force=True
            )
        except ApiError as error:
            if error.status.code != CONFLICT:
                raise
            return  # the newer version brings another turn
        self.writes += 1

    async def scale(self, name: str, namespace: str, version: str, replicas: int) -> None:
        """As an HPA does, if the service is still the one of `version` (resourceVersion): nobody's number is overwritten unseen.

        Raises: Fenced, ScaleRefused, ApiError (409: it is another one by now), httpx2.HTTPError.
        """
        self._fence()
        patch = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        try:
            await self.client.patch(
                SERVICE.Scale,
                name,
                patch,
                namespace=namespace,
                patch_type=PatchType.MERGE,
                field_manager=SCALE_MANAGER,
            )
        except ApiError as error:
            if error.status.code in (FORBIDDEN, UNPROCESSABLE):
                raise ScaleRefused(error.status.message or "refused") from error
            raise
        self.writes += 1

    async def apply_status(
        self, name: str, namespace: str, status: Manifest, version: str | None = None
    ) -> Manifest:
        """The service after it. `version`: the resourceVersion that it must still have.

        Raises: Fenced, ApiError (409: it has another), httpx2.HTTPError.
        """
        self._fence()
        manifest: Manifest = {
            "apiVersion": API_VERSION,
            "kind": "SemiPDService",
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        if version is not None:
            manifest["metadata"]["resourceVersion"] = version
        written: Manifest = await self.client.apply(
            SERVICE.Status(manifest),
            name=name,
            namespace=namespace,
            field_manager=STATUS_MANAGER,
            force=True,
        )
        self.writes += 1
        return written

    async def apply_class_status(self, name: str, status: Manifest) -> None:
        """Raises: Fenced, ApiError (never for a class that is gone), httpx2.HTTPError."""
        self._fence()
        manifest: Manifest = {
            "apiVersion": API_VERSION,
            "kind": "SemiPDClass",
            "metadata": {"name": name},
            "status": status,
        }
        try:
            await self.client.apply(
                CLASS.Status(manifest), name=name, field_manager=STATUS_MANAGER, force=True
            )
        except ApiError as error:
            if error.status.code != NOT_FOUND:
                raise
            return
        self.writes += 1

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Raises: Fenced, ApiError (never for what is gone), httpx2.HTTPError."""
        self._fence()
        self._applied.pop((kind, namespace, name), None)
        try:
            await self.client.delete(BY_KIND[kind], name, namespace=namespace)
        except ApiError as error:
            if error.status.code != NOT_FOUND:
                raise
        self.writes += 1

    def forget(self, key: ChildKey) -> None:
        """It was deleted: maybe what is being written just now, since a watch may be quicker than an answer."""
        self._applied.pop(key, None)
        if key in self._under_way:
            self._under_way[key] = True

    def _fence(self) -> None:
        if not self.is_leading():
            raise Fenced("this operator does not lead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    digest: str
    before: str | None  # version that the informer had
    after: str  # version that the write gave
    at_s: float = 0.0  # when it did, monotonic
    is_seen: bool = False  # the informer has had that version


def needs_apply(digest: str, found: ChildView | None, last: Applied | None, now_s: float) -> bool:
    """Whether the child is missing, is another one than wanted, or was edited by somebody else since.

    The informer lags behind our own write: what it had before that write is no news for UNSEEN_S. After that the child
    was deleted before the informer had seen it: while its watch was cut, say.
    """
    is_last = last is not None and last.digest == digest
    if (
        last is not None
        and is_last
        and not last.is_seen
        and now_s - last.at_s < UNSEEN_S
        and (found.version if found else None) == last.before
    ):
        return False
    if found is None or found.digest != digest:
        return True
    if last is not None and last.digest == digest:
        return found.version != last.after
    return found.was_edited


def is_owned_by_another(error: ApiError) -> bool:
    """A write that lost against another one is a 409 too, and may be tried again."""
    details = error.status.details
    causes = (details.causes if details else None) or []
    return error.status.code == CONFLICT and any(each.reason == "FieldManagerConflict" for each in causes)


def other_owner(found: Manifest, manifest: Manifest) -> str | None:
    """Whose `found` is, in words; None: it is as much the service's as `manifest`."""
    ours = {owner["uid"] for owner in manifest["metadata"].get("ownerReferences", [])}
    owners = found["metadata"].get("ownerReferences", [])
    if ours & {owner["uid"] for owner in owners}:
        return None
    return ", ".join(f"of {owner['kind']} {owner['name']}" for owner in owners) or "nobody's"


def key_of(manifest: Manifest) -> ChildKey:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["namespace"], metadata["name"]


def _with_digest(manifest: Manifest, digest: str) -> Manifest:
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), DIGEST_ANNOTATION: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
