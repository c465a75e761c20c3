"""Is this a wish? Decoding and checking, pure: bytes in, a `Wish` or an `InvalidSpec` out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from semipd_core.agent_config import BandWire, PartitionWire, WishWire
from semipd_core.errors import InvalidSpec

PERCENT = "an integer in 1..100"


class _Target(PartitionWire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Band(BandWire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Wish(WishWire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target: _Target
    band: _Band | None = None


_STRUCTS: dict[str, type[msgspec.Struct]] = {"": _Wish, "target": _Target, "band": _Band}


def decode_wish(data: bytes) -> WishWire:
    """A wish that can be obeyed.

    Raises: InvalidSpec with the path inside the wish, what was given and what is allowed.
    """
    raw = _decode_json(data)
    try:
        wire = msgspec.convert(raw, _Wish)
    except msgspec.ValidationError as error:
        raise _explain(error, raw) from error
    _check(wire)
    return wire


def _decode_json(data: bytes) -> Any:
    try:
        raw = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidSpec("", data[:80].decode(errors="replace"), f"a JSON object ({error})") from error
    if not isinstance(raw, dict):
        raise InvalidSpec("", raw, "a JSON object")
    return raw


def _check(wire: WishWire) -> None:
    _check_percents("target", wire.target)
    if not wire.decision_id:
        raise InvalidSpec("decisionId", wire.decision_id, "a non-empty string")
    for name in ("slo", "policy"):
        if (given := getattr(wire, name)) is not None:
            raise InvalidSpec(name, given, "absent: the service says it, not a wish")
    if wire.band is None:
        return
    _check_percents("band", wire.band)
    for role in ("prefill", "decode"):
        low, high = (getattr(wire.band, f"{role}_{edge}_percent") for edge in ("min", "max"))
        if low > high:
            raise InvalidSpec(
                f"band.{role}MinPercent", low, f"at most band.{role}MaxPercent, which is {high}"
            )
        percent = getattr(wire.target, f"{role}_percent")
        if not low <= percent <= high:
            raise InvalidSpec(f"target.{role}Percent", percent, f"{low}..{high}, the band")


def _check_percents(path: str, struct: msgspec.Struct) -> None:
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if not 1 <= value <= 100:
            raise InvalidSpec(f"{path}.{field.encode_name}", value, PERCENT)


def _explain(error: msgspec.ValidationError, raw: Any) -> InvalidSpec:
    """Msgspec says "… `name` … - at `$.path`": turn it into path, given, allowed."""
    text, _, where = str(error).partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    named = re.search(r"(unknown|missing required) field `(\w+)`", text)
    if named is None:
        return InvalidSpec(path, _value_at(raw, path), _expected(text, path))
    field = ".".join(filter(None, (path, named[2])))
    allowed = "one of " + ", ".join(_keys(path)) if named[1] == "unknown" else "required"
    return InvalidSpec(field, _value_at(raw, field), allowed)


def _expected(text: str, path: str) -> str:
    if path.endswith("Percent"):
        return PERCENT
    match = re.match(r"Expected `([^`]+)`", text)
    return match[1] if match else text


def _keys(path: str) -> Iterable[str]:
    return (field.encode_name for field in msgspec.structs.fields(_STRUCTS[path]))


def _value_at(raw: Any, path: str) -> Any:
    for key in filter(None, path.split(".")):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw
