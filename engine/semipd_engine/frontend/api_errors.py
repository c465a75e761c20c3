"""Errors that become an OpenAI error body: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import msgspec

from semipd_core.errors import SemipdError

CLIENT_LEFT = 499  # nginx's: no response was finished
RETRY_AFTER_S = 2
_SHOWN_CHARACTERS = 120  # of a wrong value; a prompt may be megabytes


class ApiError(SemipdError):
    """A request that is answered with `status`. `param` is the path of the field, as in `messages[0].role`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(message)

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return headers


def invalid_field(param: str, given: object, allowed: str, *, code: str | None = None) -> ApiError:
    """400: the message says which field, what was given, what is allowed."""
    shown = repr(given)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "…"
    return ApiError(400, f"{param}: got {shown}, allowed: {allowed}", param=param, code=code)


def unavailable(message: str, retry_after_s: int) -> ApiError:
    return ApiError(
        503, message, kind="service_unavailable_error", code="unavailable", retry_after_s=retry_after_s
    )


def from_status(status: int, message: str) -> ApiError:
    """What the coordinator or the router refused."""
    if status < 500:
        return ApiError(status, message)
    if status == 503:
        return unavailable(message, RETRY_AFTER_S)
    return ApiError(status, message, kind="server_error", code="internal_error")


def internal() -> ApiError:
    return from_status(500, "internal error; the log line with this request ID says more")
