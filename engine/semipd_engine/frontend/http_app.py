"""The routes of a front end. `/internal` is only on the unix socket."""

from __future__ import annotations

import hmac

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from semipd_core.telemetry import SloTargets
from semipd_engine.frontend import api_errors, intake, response_bodies
from semipd_engine.frontend.access import Access
from semipd_engine.frontend.answers import AnswerResponse
from semipd_engine.frontend.api_errors import ApiError
from semipd_engine.frontend.front_end import FrontEnd
from semipd_engine.frontend.picker_metrics import render_usage
from semipd_engine.frontend.request_body import read_body


def build_app(front_end: FrontEnd, *, internal: bool) -> ASGIApp:
    """One application; `internal` is for the agent and the local proxy, which may ask more and are refused while it drains.

    Others find no listener then; who has a connection still is answered, and told to close it.
    """
    routes = _Routes(front_end, refuses=internal)
    table = [
        Route("/v1/completions", routes.completions, methods=["POST"]),
        Route("/v1/chat/completions", routes.chat_completions, methods=["POST"]),
        Route("/v1/models", routes.models),
        Route("/v1/models/{name:path}", routes.model),
        Route("/health", routes.health),
        Route("/ready", routes.ready),
        Route("/metrics", routes.metrics),
    ]
    if internal:
        table += [
            Route("/internal/window", routes.window),
            Route("/internal/usage", routes.usage),
            Route("/internal/drain", routes.drain, methods=["POST"]),
            Route("/internal/slo", routes.set_slo, methods=["PUT"]),
        ]
    app = Starlette(
        routes=table,
        exception_handlers={
            ApiError: _answer_api_error,
            HTTPException: _answer_http_error,
            Exception: _answer_defect,
        },
    )
    return Access(app, front_end)


class _Routes:
    def __init__(self, front_end: FrontEnd, *, refuses: bool) -> None:
        self._front_end = front_end
        self._refuses = refuses
        self._created = int(front_end.clock.unix_s())

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, intake.read_completion, response_bodies.CompletionForm)

    async def chat_completions(self, request: Request) -> Response:
        return await self._answer(request, intake.read_chat, response_bodies.ChatForm)

    async def models(self, request: Request) -> Response:
        self._check_key(request)
        return _json({"object": "list", "data": [self._model_card()]})

    async def model(self, request: Request) -> Response:
        self._check_key(request)
        intake.check_model(request.path_params["name"], self._front_end.config.served_name)
        return _json(self._model_card())

    async def health(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        is_ready = self._front_end.is_ready
        return _json({"ready": is_ready, "draining": self._front_end.draining}, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        usage = await self._front_end.link.ask_usage()
        of_picker = render_usage(self._front_end.config.served_name, [usage] if usage is not None else [])
        return Response(self._front_end.expose_metrics() + of_picker, media_type=CONTENT_TYPE_LATEST)

    async def window(self, request: Request) -> Response:  # noqa: ARG002
        return _json(self._front_end.report())

    async def usage(self, request: Request) -> Response:  # noqa: ARG002
        usage = await self._front_end.link.ask_usage()
        return _json(usage, 200 if usage is not None else 503)

    async def drain(self, request: Request) -> Response:
        """Not ready at once, closed after `lagSeconds`; the answer says what is still open."""
        self._front_end.drain(float(request.query_params.get("lagSeconds", 0)))
        return _json({"openRequests": self._front_end.num_in_flight})

    async def set_slo(self, request: Request) -> Response:
        """Of requests that come from now on; those that are open keep theirs."""
        self._front_end.slo = msgspec.json.decode(await read_body(request), type=SloTargets)
        return _json(self._front_end.slo)

    async def _answer(self, request: Request, read: intake.Reader, form: response_bodies.Form) -> Response:
        self._check_key(request)
        body = await read_body(request)
        if self._refuses:
            self._front_end.check_open()
        answer = await self._front_end.take(body, read, form, request.state.record)
        return AnswerResponse(answer, self._front_end.requests)

    def _check_key(self, request: Request) -> None:
        """Raises: ApiError 401."""
        expected = self._front_end.config.api_key
        if expected is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), expected.encode()):
            what = "a wrong key" if given else "no key"
            message = f"authorization: got {what}, allowed: 'Bearer ' and the API key of this service"
            raise ApiError(401, message, code="invalid_api_key")

    def _model_card(self) -> dict[str, object]:
        model = self._front_end.model
        context_tokens = None if model is None else model.context_tokens
        return response_bodies.model_card(self._front_end.config.served_name, self._created, context_tokens)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


# Handlers are coroutines: Starlette runs plain functions in a thread.
async def _answer_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.body(), error.status, error.headers())


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Unknown path or method."""
    assert isinstance(error, HTTPException)
    found = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return Response(found.body(), found.status, found.headers() | dict(error.headers or {}))


async def _answer_defect(request: Request, _: Exception) -> Response:
    return await _answer_api_error(request, api_errors.internal())
