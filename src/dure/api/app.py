"""The application: routes, errors, metrics, health."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dure import __version__
from dure.api import accounts, errors, jobs, listing, openapi, people, sites
from dure.api.metrics import CONTENT_TYPE, Metrics
from dure.api.stream import Streams
from dure.service import Service, site_views
from dure.service import sites as site_service

CYCLE_AGE_S_MAX = 60.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""What a label may say: any other word that a caller makes up would be a series of its own."""
ROUTERS = (jobs.router, listing.router, people.router, accounts.router, sites.router)


@dataclass(slots=True)
class Pulse:
    """When the control loop last finished a cycle, by the monotonic clock."""

    last_s: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """A cycle has finished."""
        self.last_s = time.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.last_s


def create_app(service: Service, metrics: Metrics, pulse: Pulse) -> FastAPI:
    """The whole API over one service."""
    app = FastAPI(title="Dure", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.state.streams = Streams()
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)

    def document() -> dict[str, Any]:
        return openapi.document(app, ROUTERS)

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to extend it

    @app.get("/healthz", tags=["operation"])
    def healthz(response: Response) -> dict[str, str]:
        """Whether requests are answered and the control loop goes round; 503 where it does not."""
        if pulse.age_s > CYCLE_AGE_S_MAX:
            response.status_code = 503
            return {"status": "stalled", "version": __version__}
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def read_metrics() -> Response:
        """Metrics, in Prometheus' text format."""
        pools = await to_thread.run_sync(site_service.pools, service)
        sites = await to_thread.run_sync(site_views.all_sites, service)
        return Response(metrics.text(pools, sites), media_type=CONTENT_TYPE)

    app.add_middleware(Counted, metrics=metrics)
    return app


class Counted:
    """Counts answers by method, route and status. A plain ASGI layer: it stands in no stream's
    way.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._requests.labels(method, _route(scope), message["status"]).inc()
            await send(message)

        await self._app(scope, receive, note)


def _route(scope: Scope) -> str:
    """The route's template, never the path: users' ids are no labels."""
    return str(getattr(scope.get("route"), "path_format", "none"))
