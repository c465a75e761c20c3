"""Why a command could not do its work: each is one line for the user."""

from __future__ import annotations

from semipd_core.errors import SemipdError


class ApiError(SemipdError):
    """The API server refused or did not answer. `code` is HTTP's; None without an answer."""

    def __init__(self, message: str, code: int | None = None) -> None:
        self.code = code
        super().__init__(message)


class Forbidden(ApiError):
    """The caller may not do it: another check or column can go on without."""


class NotThere(ApiError):
    """One object is missing; its kind is known."""


class NoSuchKind(ApiError):
    """The API server does not know the kind."""


class NotInTime(SemipdError):
    """What was waited for has not come."""
