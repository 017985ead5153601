"""The OpenAPI document: FastAPI's own, with the bodies that `JsonBody` reads and the problems."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from dure import __version__, codec
from dure.api.requests import TokenFor, body_type
from dure.views import Problem

_REF: Final = "#/components/schemas/{model}"
_BINARY: Final = {"type": "string", "format": "binary"}


def document(app: FastAPI, routers: Iterable[APIRouter]) -> dict[str, Any]:
    """The document, built once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    built = get_openapi(
        title="Dure",
        version=__version__,
        summary="One front door and one account book for a nation's GPUs",
        routes=app.routes,
    )
    schemas: dict[str, Any] = built.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = {"application/problem+json": {"schema": _schema(Problem, schemas)}}
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute):
            for method in (route.methods or set()) & {"GET", "HEAD", "POST", "PUT", "DELETE"}:
                operation = built["paths"][route.path_format].get(method.lower())
                if operation is not None:
                    operation["operationId"] = f"{route.name}_{method.lower()}"
                    _complete(operation, route, schemas, problem)
    built["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    app.openapi_schema = built
    return built


def _complete(
    operation: dict[str, Any], route: APIRoute, schemas: dict[str, Any], problem: dict[str, Any]
) -> None:
    calls = list(_calls(route.dependant))
    for call in calls:
        if (wanted := body_type(call)) is not None:
            content = {"application/json": {"schema": _schema(wanted, schemas)}}
            operation["requestBody"] = {"required": True, "content": content}
    if route.methods == {"PUT"}:
        content = {"application/octet-stream": {"schema": _BINARY}}
        operation["requestBody"] = {"required": True, "content": content}
    if scopes := [call.scope for call in calls if isinstance(call, TokenFor)]:
        operation["security"] = [{"token": []}]
        operation["x-token-scope"] = scopes[0]
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {"description": "Refused", "content": problem}


def _calls(dependant: Dependant) -> list[Any]:
    found = [dependency.call for dependency in dependant.dependencies]
    for dependency in dependant.dependencies:
        found += _calls(dependency)
    return found


def _schema(type_: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    made = codec.adapter(type_).json_schema(ref_template=_REF)
    schemas.update(made.pop("$defs", {}))
    name = made.get("title")
    if not name:
        return dict(made)
    schemas[name] = made
    return {"$ref": _REF.format(model=name)}
