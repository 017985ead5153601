"""Every error as problem+json (RFC 9457), in one sentence, without a traceback."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.exceptions import HTTPException

from dure import codec
from dure.errors import RefusedError
from dure.views import Problem

_LOG = structlog.get_logger()
RETRY_AFTER_S = 2


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error response."""
    body = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
    )
    return Response(
        codec.encode(body), status, headers=headers, media_type="application/problem+json"
    )


def install(app: FastAPI) -> None:
    """Answer every kind of failure of this application in the same way."""

    @app.exception_handler(RefusedError)
    def _refused(_request: Request, error: RefusedError) -> Response:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        if error.status in {429, 503}:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
        return problem(error.status, error.reason.code, error.reason.sentence, headers)

    @app.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> Response:
        details: list[Any] = [{**found, "loc": tuple(found["loc"][1:])} for found in error.errors()]
        return problem(422, "bad-input", codec.sentence(details, "request"))

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "-")
        headers = dict(error.headers) if error.headers else None
        return problem(error.status_code, code, f"{phrase}.", headers)

    @app.exception_handler(OperationalError)
    @app.exception_handler(InternalError)
    @app.exception_handler(NoConnectionError)
    def _no_database(_request: Request, error: SQLAlchemyError) -> Response:
        said = str(getattr(error, "orig", error))
        _LOG.error("database-failed", error=said)
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        if isinstance(error, NoConnectionError) or "lock" in said:
            text = "The database is busy; nothing was changed. Try again."
            return problem(503, "database-busy", text, headers)
        text = "The database could not be used (its disk may be full); nothing was changed."
        return problem(503, "database-failed", text, headers)

    @app.exception_handler(Exception)
    def _fault(request: Request, error: Exception) -> Response:
        _LOG.error("fault", path=request.url.path, error=type(error).__name__, exc_info=error)
        return problem(500, "fault", "Dure failed at this; the fault was logged.")
