"""Which class holds for a service?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from semipd_core.api.service import SemiPDService
from semipd_core.api.service_class import DEFAULT_CLASS_ANNOTATION, ClassSpec, SemiPDClass
from semipd_core.errors import InvalidSpec

BUILT_IN = ClassSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChoice:
    """`defect` is set where the class that the service names is not there."""

    name: str | None  # None: no class, the built-in defaults
    spec: ClassSpec
    defect: InvalidSpec | None = None


def choose_class(service: SemiPDService, classes: Iterable[SemiPDClass]) -> ClassChoice:
    """The one named; else the default one, of several the youngest, as with storage classes; else built-in defaults."""
    by_name = {cls.metadata.name: cls for cls in classes}
    ref = service.spec.class_ref
    if ref is None:
        default = default_class(by_name.values())
        if default is None:
            return ClassChoice(name=None, spec=BUILT_IN)
        return ClassChoice(name=default.metadata.name, spec=default.spec)
    if ref.name in by_name:
        return ClassChoice(name=ref.name, spec=by_name[ref.name].spec)
    there = ", ".join(sorted(by_name)) or "none is there"
    defect = InvalidSpec("spec.classRef.name", ref.name, f"a SemiPDClass of this cluster ({there})")
    return ClassChoice(name=ref.name, spec=BUILT_IN, defect=defect)


def default_class(classes: Iterable[SemiPDClass]) -> SemiPDClass | None:
    """Of those marked as default the youngest, of equally old ones the first by name; None: no class is marked."""
    marked = sorted(filter(is_default, classes), key=lambda cls: cls.metadata.name)
    return max(marked, key=lambda cls: cls.metadata.creation_timestamp or "", default=None)


def is_default(cls: SemiPDClass) -> bool:
    return cls.metadata.annotations.get(DEFAULT_CLASS_ANNOTATION) == "true"
