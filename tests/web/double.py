"""A server that stands in for the API.

It has the page's files, one canned answer a question, and a script that uses the page.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from ragqueue.web import PAGE, STATIC

TEXT = "🦆 Ducks swim.\nThe ferry to Hven leaves at nine. 🦢 Swans fly."
QUOTE = "The ferry to Hven leaves at nine."
KEY = "a-key"

_PLACE = {
    "document_id": "d1",
    "version": 2,
    "start": TEXT.index(QUOTE),
    "end": TEXT.index(QUOTE) + len(QUOTE),
    "page": 4,
}
_SOURCE = _PLACE | {"n": 1, "title": "", "source": "ferries.pdf", "text": QUOTE}
_CITED = {
    "type": "response.output_text.annotation.added",
    "annotation": _PLACE | {"n": 1, "quote": QUOTE, "supported": True},
}
_CREATED = {"type": "response.created", "response": {"status": "queued"}}
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def _delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text}


def _end(status: str, **response: Any) -> dict[str, Any]:
    return {
        "type": f"response.{status}",
        "response": {"status": status, "answer": None, "error": None} | response,
    }


_ABSTAINED = {
    "text": "The sources do not say.",
    "citations": [],
    "grounding": "abstained",
    "nearest": [_SOURCE],
}
_ANSWERED = {
    "text": "```\nx = [1]\n```\n\nIt leaves at nine [1]",
    "citations": [_CITED["annotation"]],
}
_FAILED = {"code": "generation_failed", "message": "the model went away"}
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "cited": [
        _CREATED,
        {"type": "ragqueue:sources", "sources": [_SOURCE]},
        _delta("`a[1]` <b>is code</b>. It leaves at nine [1]"),
        _CITED,
        _delta(" [2]."),
        _end("completed"),
    ],
    "restarted": [
        _delta("The first text."),
        {"type": "ragqueue:restarted", "reason": "log_lost"},
        _delta("The second text."),
        _end("completed"),
    ],
    "retold": [
        _end(
            "completed",
            answer={
                "text": "First [1], then [1].",
                "citations": [_CITED["annotation"]] * 2,
                "grounding": "grounded",
            },
        )
    ],
    "failed": [_delta("It"), _end("failed", error=_FAILED)],
    "nearest": [_delta("The sources do not say."), _end("completed", answer=_ABSTAINED)],
    "code": [
        _delta("```\nx = [1]\n```\n\nIt leaves at nine [1]"),
        _CITED,
        _end("completed", answer=_ANSWERED | {"grounding": "partial"}),
    ],
    "uncited": [
        _delta("It leaves."),
        _end("completed", answer={"text": "It leaves.", "citations": [], "grounding": "uncited"}),
    ],
    "stopped": [_delta("Once upon"), _end("cancelled")],
}


class Double(ThreadingHTTPServer):
    """Remembers what the page sent."""

    daemon_threads = True

    def __init__(self, drive: Path, *, locked: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.drive, self.locked = drive, locked
        self.cancelled = threading.Event()
        self.resumed_after: str | None = None
        self.uploaded = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Double
    types: ClassVar = {".js": "text/javascript", ".css": "text/css"}

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.path == "/":
            script = b'<script src="/static/drive.js" defer></script>'
            page = PAGE.read_bytes().replace(b"</body>", script + b"</body>")
            self._send(page, "text/html")
        elif self.path.startswith("/static/"):
            file = STATIC.get(name, self.server.drive)
            self._send(file.read_bytes(), self.types[file.suffix])
        elif self.path == "/readyz":
            checks = {"records": "ok"}
            note = "no worker is running"
            self._json({"status": "ready", "checks": checks, "workers": 0, "note": note})
        elif self.server.locked and self.headers["Authorization"] != f"Bearer {KEY}":
            self._json({"detail": "an API key is needed"}, 401)
        elif self.path.startswith("/documents?"):
            document = {
                "id": "d1",
                "title": "",
                "source": "ferries.pdf",
                "status": "ready",
                "error": None,
            }
            self._json({"documents": [document], "next": None})
        elif self.path == "/documents/d1/text?version=2":
            self._send(TEXT.encode(), "text/plain")
        elif self.path == "/jobs/j1":
            self._json({"status": "failed", "error": {"message": "the file is not a PDF"}})
        elif self.path == "/chat/cited/events":
            self.server.resumed_after = self.headers["Last-Event-ID"]
            self._stream("cited", 3)
        else:
            self._json({"detail": f"there is nothing at {self.path!r}"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/chat":
            name = json.loads(body)["question"]
            self._stream(name, 0, 3 if name == "cited" else None)
        elif self.path == "/chat/stopped/cancel":
            self.server.cancelled.set()
            self._json({})
        else:
            self.server.uploaded = body
            self._json({"job_id": "j1"}, 202)

    def _stream(self, name: str, first: int, last: int | None = None) -> None:
        """Send events in chunks of eleven bytes, as a network may.

        Without a last one the connection is lost.
        """
        self._head(200, "text/event-stream", {"Content-Location": f"/chat/{name}"})
        for block in self._blocks(name, first, last):
            for at in range(0, len(block), 11):
                self.wfile.write(block[at : at + 11])
                self.wfile.flush()

    def _blocks(self, name: str, first: int, last: int | None) -> Iterator[bytes]:
        for seq, event in list(enumerate(ANSWERS[name]))[first:last]:
            if event["type"] == "response.cancelled":
                self.server.cancelled.wait(60)
            data = json.dumps(event, ensure_ascii=False)
            block = f"id: {seq}\nevent: {event['type']}\ndata: {data}\n\n: keep-alive\n"
            yield block.encode()

    def _json(self, body: dict[str, Any], status: int = 200) -> None:
        self._send(json.dumps(body).encode(), "application/json", status)

    def _send(self, body: bytes, media_type: str, status: int = 200) -> None:
        self._head(status, f"{media_type}; charset=utf-8", {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: int, media_type: str, headers: dict[str, str]) -> None:
        all_headers = {
            "Content-Type": media_type,
            "Content-Security-Policy": _POLICY,
            "Connection": "close",
            **headers,
        }
        self.send_response(status)
        for name, value in all_headers.items():
            self.send_header(name, value)
        self.end_headers()
