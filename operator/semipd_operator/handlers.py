"""kopf's part: it watches services and classes and hands each event on. It writes nothing: no finalizer, no annotation."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import kopf

from semipd_core.api.fields import GROUP
from semipd_operator.kopf_session import Sessions, open_session
from semipd_operator.observe.trim import plain
from semipd_operator.observe.world import Object
from semipd_shell.informer import Key

VERSION = "v1alpha1"
WATCH_S = 300  # a watch's length, asked of the server
# For a minute, after which kopf ends and is begun anew: its own grow until a server that is back is not asked for another 20 s.
ERROR_BACKOFFS_S = (1.0, 1.0, 2.0, *[3.0] * 19)


class Notes(Protocol):
    """Where events go: what is there now, or None where it is gone."""

    def note_service(self, key: Key, found: Object | None) -> None: ...
    def note_class(self, name: str, found: Object | None) -> None: ...


def build_registry(world: Notes, answers: Counter[str], sessions: Sessions) -> kopf.OperatorRegistry:
    """`answers` counts what the API server answers kopf, by status code or error."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> Any:
        found = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        return open_session(found, answers, sessions) if found else None

    @kopf.on.event(GROUP, VERSION, "semipdservices", registry=registry)
    async def on_service(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002
        metadata = body["metadata"]
        found = None if type == "DELETED" else plain(body)
        world.note_service(Key(metadata["namespace"], metadata["name"]), found)

    @kopf.on.event(GROUP, VERSION, "semipdclasses", registry=registry)
    async def on_class(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002
        world.note_class(body["metadata"]["name"], None if type == "DELETED" else plain(body))

    return registry


def build_settings() -> kopf.OperatorSettings:
    """Kopf's defaults that do not suit a fleet, changed: see each name in its documentation."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = WATCH_S
    settings.watching.client_timeout = WATCH_S + 10
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = ERROR_BACKOFFS_S
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None  # it would kill the thread, and so the process
    return settings
