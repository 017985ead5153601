"""What a request brings: its principal, its body. Both are checked before a use case sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from anyio import fail_after, to_thread
from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from dure import codec
from dure.errors import RefusedError
from dure.people import Principal, TokenScope
from dure.service import Service, access
from dure.text import shown

JSON_BYTES_MAX: Final = 8 * 1024**2
PIECE_TIMEOUT_S: Final = 30
DECODED_AT_ONCE_BYTES: Final = 32 * 1024
"""A larger body is decoded beside the event loop, which others wait for."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and the service that they ask."""

    service: Service
    principal: Principal


class TokenFor:
    """A dependency: the caller, whose token must be for `scope`. The only way to a use case."""

    def __init__(self, scope: TokenScope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        """The caller. Raises RefusedError: 401 without a good token, 403 beyond its scopes."""
        service: Service = request.app.state.service
        header = request.headers.get("authorization", "")
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer":
            token = ""
        principal = await to_thread.run_sync(access.authenticate, service, token.strip())
        access.require_scope(principal, self.scope)
        return Caller(service, principal)


Reader = Annotated[Caller, Depends(TokenFor(TokenScope.READ))]
Submitter = Annotated[Caller, Depends(TokenFor(TokenScope.SUBMIT))]
Administrator = Annotated[Caller, Depends(TokenFor(TokenScope.ADMIN))]
Agent = Annotated[Caller, Depends(TokenFor(TokenScope.AGENT))]


class JsonBody:
    """A dependency: the body, decoded strictly into `type_`. Known to the OpenAPI document.

    Where it is `raw`, the route decodes it itself.
    """

    def __init__(self, type_: Any, limit: int = JSON_BYTES_MAX, *, raw: bool = False) -> None:
        self.type = type_
        self.limit = limit
        self.raw = raw

    async def __call__(self, request: Request) -> Any:
        """The decoded body. Raises RefusedError: what is wrong with it."""
        body = await read_body(request, self.limit)
        if self.raw:
            return body
        if len(body) <= DECODED_AT_ONCE_BYTES:
            return codec.decode(self.type, body)
        return await to_thread.run_sync(codec.decode, self.type, body)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises RefusedError (413) as soon as it is known to be larger."""
    pieces, size = [], 0
    async for piece in body_pieces(request, limit):
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


async def body_pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives; one that stalls for PIECE_TIMEOUT_S is refused (408)."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:19]) > limit:
        raise _too_large(limit)
    stream = request.stream()
    while True:
        try:
            with fail_after(PIECE_TIMEOUT_S):
                piece = await anext(stream, None)
        except TimeoutError:
            raise RefusedError(
                "body-stalled", f"No more of the body came for {PIECE_TIMEOUT_S} s.", status=408
            ) from None
        except ClientDisconnect:
            raise RefusedError("body-cut", "The body was cut off.", status=400) from None
        if piece is None:
            return
        yield piece


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        "body-too-large", f"The body is larger than {limit:,} bytes, the limit here.", status=413
    )


def header(request: Request, name: str) -> str:
    """A header that must be there. Raises RefusedError (400)."""
    value = request.headers.get(name)
    if value is None:
        raise RefusedError("header-missing", f"The header {name} is missing.")
    return value


def body_type(call: Callable[..., Any]) -> Any | None:
    """The type of the body that a dependency reads, or None."""
    return call.type if isinstance(call, JsonBody) else None


def cursor(value: str, field: str) -> int:
    """A whole number from a header. Raises RefusedError (400)."""
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise RefusedError("bad-cursor", f"{field} {shown(value)} is not a place in this stream.")
    return int(value)
