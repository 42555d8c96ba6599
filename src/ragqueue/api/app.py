"""The HTTP application: routes, errors, the gate, and the page."""

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ragqueue import __version__
from ragqueue.api import chat, documents, health, jobs
from ragqueue.api.access import Gate
from ragqueue.api.problems import http_error, invalid, ours
from ragqueue.errors import NotFound, RagqueueError
from ragqueue.web import PAGE, STATIC
from ragqueue.wiring import Runtime

_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def create_app(runtime: Runtime) -> FastAPI:
    """Return the application that serves this runtime."""
    app = FastAPI(title="ragqueue", version=__version__, docs_url=None, redoc_url=None)
    app.state.runtime = runtime
    for router in (chat.router, documents.router, jobs.router, health.router):
        app.include_router(router)
    app.add_api_route("/", _page, include_in_schema=False)
    app.add_api_route("/static/{name}", _static, include_in_schema=False)
    app.add_exception_handler(RagqueueError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_middleware(Gate, runtime=runtime)
    return app


async def _page() -> Response:
    return FileResponse(PAGE, headers=_PAGE_HEADERS)


async def _static(name: str) -> Response:
    if name not in STATIC:
        raise NotFound(f"there is nothing at '/static/{name}'")
    # Said, not guessed: some registries of Windows call a script plain text, which `nosniff` then blocks.
    return FileResponse(STATIC[name], headers=_PAGE_HEADERS, media_type="text/javascript" if name.endswith(".js") else "text/css")
