"""Where a model comes from: `hf://`, `pvc://`, `image://`, `file://`, `builtin://`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from semipd_core.errors import InvalidSpec

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# What stands behind `SCHEME://`, and the words for it. Python and the RE2 of the CRD must read it alike: no \s.
_FORMS: dict[str, tuple[str, str]] = {
    "hf": (rf"{_WORD}/{_WORD}(@[A-Za-z0-9][A-Za-z0-9._/-]*)?", "hf://ORG/NAME or hf://ORG/NAME@REVISION"),
    "pvc": (r"[a-z0-9][-a-z0-9.]*(/[^\x00-\x20\x7f]*)?", "pvc://CLAIM/PATH"),
    "image": (r"[!-.0-~][!-~]*", "image://REGISTRY/NAME:TAG"),
    "file": (r"/.+", "file:///ABSOLUTE/PATH"),
    "builtin": (r"[a-z0-9][a-z0-9.-]*", "builtin://NAME, such as builtin://smollm2-135m"),
}
SCHEMES = tuple(_FORMS)
_SCHEMES_TEXT = ", ".join(f"{scheme}://" for scheme in SCHEMES)
_MAX_LENGTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUri:
    scheme: str
    location: str  # without scheme and revision
    revision: str | None = None  # hf only

    @property
    def default_served_name(self) -> str:
        """What clients call the model unless `servedName` says otherwise."""
        if self.scheme == "hf":
            return self.location
        return self.location.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf") or "model"


def parse_model_uri(given: str, path: str) -> ModelUri:
    """Raises: InvalidSpec naming the schemes, or the form that the scheme asks for."""
    refused = _refusal(given)
    if refused is not None:
        raise InvalidSpec(path, given, refused)
    scheme, _, location = given.partition("://")
    if scheme != "hf":
        return ModelUri(scheme=scheme, location=location)
    repository, _, revision = location.partition("@")
    return ModelUri(scheme=scheme, location=repository, revision=revision or None)


def _refusal(given: str) -> str | None:
    """The words for what is allowed in place of `given`, or None if it is fine."""
    scheme, separator, location = given.partition("://")
    if not separator or scheme not in _FORMS:
        return f"a URI that starts with one of {_SCHEMES_TEXT}"
    pattern, form = _FORMS[scheme]
    if len(given) > _MAX_LENGTH or re.fullmatch(pattern, location) is None:
        return form
    return None


@dataclass(frozen=True, slots=True)
class ModelUriMark:
    """Mark of a field that holds a model URI."""

    allowed: str = f"a URI that starts with one of {_SCHEMES_TEXT}"

    def refusal(self, value: object) -> str | None:
        return _refusal(value) if isinstance(value, str) else self.allowed
