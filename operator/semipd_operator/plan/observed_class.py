"""What was found of one class: the form of it that holds, and what its status says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semipd_core.api import codec
from semipd_core.api.service_class import ClassStatus, SemiPDClass
from semipd_core.errors import InvalidSpec

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassView:
    """`form`: what holds for services; of a class that cannot be read its last form, None if there was none."""

    name: str
    generation: int | None
    form: SemiPDClass | None
    defect: InvalidSpec | None = None  # why it cannot be read
    status: ClassStatus | None = None
    written: Object | None = None  # the status as the API server has it


def view_class(found: Object, last: ClassView | None) -> ClassView:
    """`last`: before this event. Services must not lose their guard-rails by a typing error, nor by what a status says."""
    metadata = found["metadata"]
    form, defect = last.form if last is not None else None, None
    try:
        form = codec.decode_class({key: value for key, value in found.items() if key != "status"})
    except InvalidSpec as error:
        defect = error
    return ClassView(
        name=metadata["name"],
        generation=metadata.get("generation"),
        form=form,
        defect=defect,
        status=_status(found),
        written=found.get("status"),
    )


def holds_otherwise(before: ClassView | None, now: ClassView | None) -> bool:
    """For services, to which a class's status does not matter."""
    return _gist(before) != _gist(now)


def _gist(view: ClassView | None) -> object:
    if view is None or view.form is None:
        return None
    metadata = view.form.metadata
    return view.form.spec, view.form.is_default, metadata.creation_timestamp, metadata.uid


def _status(found: Object) -> ClassStatus | None:
    """None where this release cannot read it, too: then it is written anew."""
    try:
        return codec.decode_class({key: value for key, value in found.items() if key != "spec"}).status
    except InvalidSpec:
        return None
