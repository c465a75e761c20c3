"""Errors by what their reader does about them."""

from __future__ import annotations


class SemipdError(Exception):
    """Root of every error that semipd raises on purpose."""


class InvalidSpec(SemipdError):
    """The user must change something: carries the path of the field, what was given and what is allowed."""

    def __init__(self, path: str, given: object, allowed: str) -> None:
        self.path = path
        self.given = given
        self.allowed = allowed
        super().__init__(f"{path}: got {given!r}, allowed: {allowed}")


class NotReadyYet(SemipdError):
    """Trying again later may succeed; `retry_after_s` says when."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DeviceError(SemipdError):
    """A device (GPU, driver, MPS daemon, shared memory) refused or failed."""
