"""The whole system in this process, asked through its HTTP application."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ragqueue.api.app import create_app
from ragqueue.embedded import Ragqueue
from ragqueue.records import keys

DOCUMENT = """# Ferries

The ferry to Hven leaves at nine in the morning. It takes thirty minutes.

## Tickets

A ticket costs forty crowns. Children under six travel free of charge.
"""
QUESTION = "When does the ferry to Hven leave in the morning?"


@dataclass
class Server:
    """A server and a client of it."""

    ragqueue: Ragqueue
    client: httpx2.AsyncClient

    async def upload(
        self, text: str = DOCUMENT, name: str = "ferries.md", **headers: str
    ) -> dict[str, Any]:
        response = await self.client.post(
            "/documents", files={"file": (name, text.encode())}, headers=headers
        )
        assert response.status_code == 202, response.text
        body: dict[str, Any] = response.json()
        await self.ended(f"/jobs/{body['job_id']}", **headers)
        return body

    async def ended(self, path: str, **headers: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                body: dict[str, Any] = (await self.client.get(path, headers=headers)).json()
                if body["status"] in ("completed", "failed", "cancelled", "incomplete"):
                    return body
                await asyncio.sleep(0.02)

    async def ask(self, question: str = QUESTION, **headers: str) -> dict[str, Any]:
        response = await self.client.post("/chat", json={"question": question}, headers=headers)
        assert response.status_code == 202, response.text
        return await self.ended(response.json()["links"]["self"], **headers)

    async def key(self, tenant: str) -> dict[str, str]:
        made = await self.ragqueue.runtime.records.write(keys.create, tenant, "test")
        return {"authorization": f"Bearer {made}"}


def events_of(text: str) -> list[tuple[int, dict[str, Any]]]:
    """Return (id, data) of each block of an event stream."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in block.splitlines()
            if ": " in line and not line.startswith(":")
        )
        if "data" in fields:
            found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Start servers with settings of the test's own."""
    monkeypatch.setenv("RAGQUEUE_ENV_FILE", "")
    monkeypatch.chdir(tmp_path)
    opened: list[tuple[Ragqueue, httpx2.AsyncClient]] = []

    async def open_server(*, embedder: str = "none", **settings: Any) -> Server:
        flags = {
            "data": tmp_path / "data",
            "vector_db_path": tmp_path / "vectors",
            "embedder": embedder,
            "drain": 0.0,
            **settings,
        }
        ragqueue = await Ragqueue(settings=flags).__aenter__()
        transport = httpx2.ASGITransport(app=create_app(ragqueue.runtime))
        client = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        opened.append((ragqueue, client))
        return Server(ragqueue, client)

    yield open_server
    for ragqueue, client in opened:
        await client.aclose()
        await ragqueue.__aexit__(None, None, None)


@pytest.fixture
async def server(start: Start) -> Server:
    return await start()
