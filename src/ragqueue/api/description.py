"""`/openapi.json`: what FastAPI knows of the routes, and what it does not.

The gate, not FastAPI, knows the keys and the errors. A route is described by its docstring, or by
the `description` of its decorator where a docstring would break the sentence into lines.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ragqueue.api.bodies import Problem
from ragqueue.api.gate import PUBLIC
from ragqueue.api.problems import MEDIA_TYPE

_EVERYWHERE = {
    401: "No valid API key was given",
    403: "A page of another origin asked",
    500: "A fault of the server's",
    503: "A service is away: come back after `Retry-After` seconds",
}
_INVALID = {422: "A value is outside what is allowed"}
_NOT_FOUND = {404: "There is no such thing, or it is another tenant's"}
_BODY = {400: "The body cannot be read", 413: "The body is too large"}
# operation -> what else it may answer
_OF_OPERATION: dict[str, dict[int, str]] = {
    "ask": {
        404: "There is no such collection",
        429: "Too many jobs wait, or too many streams are open",
        507: "The disk is full",
    },
    "follow_chat": {429: "Too many streams are open"},
    "erase_chat": {409: "It has not ended: cancel it first"},
    "cancel_job": {409: "A delete cannot be cancelled"},
    "retry_job": {409: "It has not failed", 429: "Too many jobs wait", 507: "The disk is full"},
    "upload": {
        409: "The collection was built with another embedder",
        415: "No parser reads this media type",
        429: "Too many jobs wait",
        507: "The disk is full",
    },
    "delete_document": {429: "Too many jobs wait", 507: "The disk is full"},
    "search": {404: "There is no such collection"},
    "search_by_query": {404: "There is no such collection"},
}
_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `ragqueue keys create`; none is needed before the first is made",
}
_FROM_FASTAPI = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> None:
    """Let the application describe itself whole."""
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            _complete(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    """Add to FastAPI's document what it does not know."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _exchange_errors(schemas)
    for schema in schemas.values():
        _mark_files(schema)
    components["securitySchemes"] = {"key": _SCHEME}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete_operation(path, operation)


def _exchange_errors(schemas: dict[str, Any]) -> None:
    """Put the schema of our problem documents where FastAPI's errors stand."""
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for name in _FROM_FASTAPI:
        schemas.pop(name, None)


def _mark_files(schema: dict[str, Any]) -> None:
    """Mark the fields that are files as generators of clients know them."""
    for field in schema.get("properties", {}).values():
        if field.get("contentMediaType") == "application/octet-stream":
            field["format"] = "binary"


def _complete_operation(path: str, operation: dict[str, Any]) -> None:
    """Add to an operation whether it needs a key, and its problems."""
    operation["security"] = [{"key": []}, {}]
    if path in PUBLIC:
        operation["security"] = []
    for status, meaning in _errors(path, operation).items():
        operation["responses"][str(status)] = {
            "description": meaning,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }


def _errors(path: str, operation: dict[str, Any]) -> dict[int, str]:
    """Return {status: meaning} of the problems that an operation may answer with."""
    if path in PUBLIC:
        return {}
    errors = dict(_EVERYWHERE)
    if operation.get("parameters") or "requestBody" in operation:
        errors |= _INVALID
    if "{" in path:
        errors |= _NOT_FOUND
    if "requestBody" in operation:
        errors |= _BODY
    errors |= _OF_OPERATION.get(operation["operationId"], {})
    return dict(sorted(errors.items()))
