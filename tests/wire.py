"""HTTP without a network: requests of a synchronous client go straight into an ASGI application."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx


class Wire(httpx.BaseTransport):
    """Answers in the calling thread, on an event loop of its own; a body comes back whole."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._here = threading.local()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not hasattr(self._here, "loop"):
            self._here.loop = asyncio.new_event_loop()
        return self._here.loop.run_until_complete(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        unread = [{"type": "http.request", "body": body, "more_body": False}]
        start: dict[str, Any] = {}
        pieces: list[bytes] = []

        async def receive() -> dict[str, Any]:
            if unread:
                return unread.pop()
            await asyncio.Event().wait()  # nobody hangs up on this wire
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                pieces.append(message.get("body", b""))

        await self._app(_scope(request), receive, send)
        return httpx.Response(start["status"], headers=start["headers"], content=b"".join(pieces))


def _scope(request: httpx.Request) -> dict[str, Any]:
    raw_path = request.url.raw_path.split(b"?")[0]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": raw_path,
        "root_path": "",
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("testclient", 50_000),
        "server": ("testserver", 80),
        "state": {},
    }
