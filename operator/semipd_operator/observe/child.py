"""What is kept of a child: enough to see whether it is still what was applied, and nothing more of its few kilobytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semipd_core.api.fields import GROUP
from semipd_operator.plan.naming import CHILD_MANAGER, SERVICE_LABEL

DIGEST_ANNOTATION = f"{GROUP}/applied"  # of the manifest as it was applied


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildView:
    """`version` changes with the spec; for kinds without a generation with every write."""

    service: str
    version: str
    digest: str | None
    was_edited: bool  # by another field manager, after our last write


def view_child(found: Mapping[str, Any]) -> ChildView:
    metadata = found["metadata"]
    return ChildView(
        service=metadata.get("labels", {}).get(SERVICE_LABEL, ""),
        version=str(metadata.get("generation") or metadata["resourceVersion"]),
        digest=metadata.get("annotations", {}).get(DIGEST_ANNOTATION),
        was_edited=_was_edited(metadata.get("managedFields", [])),
    )


def _was_edited(managed: list[Mapping[str, Any]]) -> bool:
    """Times are whole seconds: an edit in the second of our write shows by the version alone."""
    ours = max(
        (entry.get("time", "") for entry in managed if entry.get("manager") == CHILD_MANAGER), default=""
    )
    return any(
        entry.get("time", "") > ours
        for entry in managed
        if entry.get("manager") != CHILD_MANAGER and entry.get("subresource") is None
    )
