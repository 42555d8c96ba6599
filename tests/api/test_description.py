"""`/openapi.json` tells the whole: bodies, errors, content types, keys.

What it says is what is answered.
"""

from typing import Any

import pytest
from pydantic import BaseModel

from ragqueue.api import bodies
from ragqueue.api.app import bare_app
from ragqueue.api.gate import PUBLIC

from .conftest import QUESTION, Server

OPERATIONS = [
    (path, method, operation)
    for path, operations in bare_app().openapi()["paths"].items()
    for method, operation in operations.items()
]
IDS = [f"{method} {path}" for path, method, _ in OPERATIONS]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=IDS)
def test_an_operation_names_its_bodies_errors_and_key(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    good = {status: answer for status, answer in operation["responses"].items() if status < "300"}

    for status, answer in good.items():
        assert status == "204" or answer["content"], status
        for content in answer.get("content", {}).values():
            assert content["schema"], status
    for status in operation["responses"].keys() - good.keys() - {"503"}:
        assert set(operation["responses"][status]["content"]) == {"application/problem+json"}
    assert operation["security"] == ([] if path in PUBLIC else [{"key": []}, {}])
    assert path in PUBLIC or {"401", "403", "500", "503"} <= set(operation["responses"])


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]

    assert len(set(names)) == len(names) >= 19


def test_every_reference_leads_somewhere() -> None:
    document = bare_app().openapi()
    text = str(document)

    for part in text.split("#/components/schemas/")[1:]:
        name = part.partition("'")[0]
        assert name in document["components"]["schemas"], name


def test_a_file_is_described_as_generators_of_clients_know_it() -> None:
    upload = bare_app().openapi()["components"]["schemas"]["Body_upload"]

    assert (upload["properties"]["file"]["type"], upload["properties"]["file"]["format"]) == (
        "string",
        "binary",
    )


def test_streams_are_named_as_such() -> None:
    by_name = {operation["operationId"]: operation for _, _, operation in OPERATIONS}

    assert set(by_name["ask"]["responses"]["200"]["content"]) == {
        "application/json",
        "text/event-stream",
    }
    assert set(by_name["follow_chat"]["responses"]["200"]["content"]) == {"text/event-stream"}
    assert set(by_name["document_text"]["responses"]["200"]["content"]) == {"text/plain"}


async def test_what_is_answered_is_what_is_described(server: Server) -> None:
    document = await server.upload()
    answered = await server.ask()
    client = server.client
    pages: list[tuple[str, type[BaseModel]]] = [
        (f"/chat/{answered['id']}", bodies.ChatView),
        ("/jobs", bodies.Jobs),
        (f"/jobs/{document['job_id']}", bodies.JobView),
        ("/documents", bodies.Documents),
        (f"/documents/{document['id']}", bodies.DocumentView),
        (f"/search?q={QUESTION}", bodies.Hits),
        ("/readyz", bodies.Ready),
        ("/livez", bodies.Alive),
    ]

    for path, model in pages:
        body = (await client.get(path)).json()
        told = set(model.model_fields)
        assert set(body) <= told, path
        model.model_validate(body)
    bodies.AnswerView.model_validate(answered["answer"])
    assert set(answered["answer"]) <= set(bodies.AnswerView.model_fields)
    bodies.Uploaded.model_validate(document)
    accepted = await client.post("/chat", json={"question": QUESTION})
    bodies.Accepted.model_validate(accepted.json())
    bodies.Problem.model_validate((await client.get("/chat/none")).json())
    deleted = (await client.delete(f"/documents/{document['id']}")).json()
    bodies.Deleted.model_validate(deleted)
    await server.ended(deleted["links"]["job"])
    bodies.ReceiptView.model_validate((await client.get(deleted["links"]["receipt"])).json())
