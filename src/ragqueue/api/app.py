"""The HTTP application: its routes behind the gate, and the page."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from ragqueue import __version__
from ragqueue.api import chat, documents, health, jobs, search
from ragqueue.api.description import describe
from ragqueue.api.gate import Gate, Keyring
from ragqueue.api.problems import show_refusal
from ragqueue.api.streams import Streams
from ragqueue.web import PAGE, STATIC
from ragqueue.wiring import Runtime
from ragqueue.working.limits import open_files

KEYS_EVERY = 1.0  # seconds until an open stream learns that its key is revoked
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
# Named, not guessed: some registries of Windows call a script plain text,
# which `nosniff` then blocks.
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def create_app(runtime: Runtime) -> FastAPI:
    """Return the application that serves this runtime; call it on the event loop that will."""
    app = bare_app()
    keyring = Keyring(runtime.records)
    streams = Streams(each=runtime.settings.streams, files=open_files())

    async def look_at_keys() -> None:
        if streams.total:
            await keyring.look()

    runtime.keeper.keep("keyring", look_at_keys, every=lambda: KEYS_EVERY)
    app.add_middleware(Gate, runtime=runtime, keyring=keyring, streams=streams)
    return app


def bare_app() -> FastAPI:
    """Return the routes and the page without what serves them: enough to describe them."""
    app = FastAPI(
        title="ragqueue",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    for module in (chat, jobs, documents, search, health):
        app.include_router(module.router)
    _add_file(app, "/", PAGE)
    for name, file in STATIC.items():
        _add_file(app, f"/static/{name}", file)
    app.add_exception_handler(RequestValidationError, show_refusal)
    app.add_exception_handler(HTTPException, show_refusal)
    describe(app)
    return app


def _add_file(app: FastAPI, path: str, file: Path) -> None:
    """Serve a file of the page at a path."""
    response = FileResponse(file, headers=_PAGE_HEADERS, media_type=_MEDIA_TYPES[file.suffix])
    app.router.routes.append(Route(path, response, methods=["GET"], include_in_schema=False))
