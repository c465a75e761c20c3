"""An answer of the API server that is no success, as an error in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from semipd_core.api.fields import GROUP
from semipd_kubectl.errors import ApiError, Forbidden, NoSuchKind, NotThere

UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404
INSTALL = "kubectl apply --server-side -k manifests/default"
# Of an installation for one namespace: an operator of the whole cluster beside it would serve that namespace twice.
INSTALL_ONCE = "kubectl apply --server-side -k manifests/cluster"
INSTALL_NAMESPACED = "kubectl apply --server-side -k manifests/namespaced"


def failure_of(code: int, body: bytes, path: str) -> ApiError:
    """`path`: what was asked for, without the query."""
    status = _status(body)
    said = status.get("message") or body.decode(errors="replace").strip() or f"HTTP {code}"
    said = " ".join(said.split())
    if code == UNAUTHORIZED:
        return ApiError(f"the API server does not know who asks (401): {said}; log in again", code)
    if code == FORBIDDEN:
        return Forbidden(said, code)
    if code == NOT_FOUND and not _names_an_object(status):
        return _no_such_kind(path)
    if code == NOT_FOUND:
        return NotThere(said, code)
    return ApiError(f"the API server answered {code}: {said}", code)


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _names_an_object(status: Mapping[str, Any]) -> bool:
    """A path that leads nowhere is answered with plain text, or by a Status without a name."""
    return bool((status.get("details") or {}).get("name"))


def _no_such_kind(path: str) -> NoSuchKind:
    if f"/apis/{GROUP}/" in path:
        return NoSuchKind(f"this cluster has no CRDs of {GROUP}: install them with `{INSTALL}`", NOT_FOUND)
    return NoSuchKind(f"the API server has no {path}", NOT_FOUND)
