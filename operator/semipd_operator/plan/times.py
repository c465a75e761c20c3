"""Unix seconds and RFC 3339, as the API writes times."""

from __future__ import annotations

from datetime import UTC, datetime


def to_rfc3339(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_unix_s(text: str) -> float:
    """Raises: ValueError."""
    return datetime.fromisoformat(text).timestamp()
