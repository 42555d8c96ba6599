"""Keys and tenants: nothing of another tenant can be seen, on any route."""

import re
from collections.abc import AsyncIterator
from copy import copy

import httpx2

from ragqueue.api.app import create_app
from ragqueue.api.gate import PUBLIC

from .conftest import Server


def routes(server: Server) -> list[tuple[str, str]]:
    paths = server.client._transport.app.openapi()["paths"]  # type: ignore[attr-defined]
    return [(method.upper(), path) for path, operations in paths.items() for method in operations]


async def test_every_route_that_is_not_public_needs_a_key_once_there_is_one(server: Server) -> None:
    await server.key("acme")

    for method, path in routes(server):
        response = await server.client.request(method, re.sub(r"{\w+}", "x", path), json={})
        assert (response.status_code == 401) is (path not in PUBLIC), (method, path)


async def test_a_wrong_or_revoked_key_is_refused(server: Server) -> None:
    from ragqueue.records import keys

    good = await server.key("acme")
    key_id = good["authorization"].split("_")[1]

    for bad in (
        "Bearer nonsense",
        f"Bearer rq_{key_id}_wrong",
        good["authorization"][:-1],
        "Bearer rq_zz_zz",
    ):
        assert (await server.client.get("/jobs", headers={"authorization": bad})).status_code == 401
    assert (await server.client.get("/jobs", headers=good)).status_code == 200
    await server.ragqueue.runtime.records.write(keys.revoke, key_id)
    assert (await server.client.get("/jobs", headers=good)).status_code == 401


async def test_the_end_of_the_last_key_does_not_open_a_public_server(server: Server) -> None:
    settings = server.ragqueue.runtime.settings.model_copy(update={"host": "0.0.0.0"})
    runtime = copy(server.ragqueue.runtime)
    runtime.settings = settings
    public = create_app(runtime)

    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=public), base_url="http://public"
    ) as client:
        assert (await client.get("/jobs")).status_code == 401
        assert (await client.get("/livez")).status_code == 200


async def test_what_belongs_to_another_tenant_is_the_same_404_on_every_route(
    server: Server,
) -> None:
    mine, other = await server.key("acme"), await server.key("globex")
    document = await server.upload(**mine)
    answered = await server.ask(**mine)
    job = document["job_id"]
    ids = {"chat_id": answered["id"], "document_id": document["id"], "job_id": job}

    for method, path in routes(server):
        if "{" not in path:
            continue
        name = re.findall(r"{(\w+)}", path)[0]
        theirs = await server.client.request(
            method, path.replace(f"{{{name}}}", ids[name]), headers=other
        )
        nothing = await server.client.request(
            method, path.replace(f"{{{name}}}", "0" * 32), headers=other
        )
        assert theirs.status_code == nothing.status_code == 404, (method, path)
        hidden = theirs.text.replace(ids[name], "ID")
        assert hidden == nothing.text.replace("0" * 32, "ID"), (method, path)
    for path in ("/jobs", "/documents"):
        assert document["id"] not in (await server.client.get(path, headers=other)).text
    search = await server.client.post("/search", json={"question": "ferry"}, headers=other)
    assert search.json()["hits"] == []
    assert (await server.client.get(f"/chat/{answered['id']}", headers=mine)).status_code == 200


async def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    response = await server.client.post(
        "/chat", content=b"x" * 5_000_000, headers={"content-type": "application/json"}
    )

    assert (response.status_code, response.json()["code"]) == (413, "too_large")


async def test_a_body_that_grows_too_large_without_saying_so_is_refused(server: Server) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1_000_000

    response = await server.client.post(
        "/chat", content=body(), headers={"content-type": "application/json"}
    )

    assert (response.status_code, response.json()["code"]) == (413, "too_large")
