"""Documents: in, changed, read, deleted so that it can be proved."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ragqueue.adapters import Given
from ragqueue.indexes.base import Index
from ragqueue.records.sqlite import sqlite_module
from ragqueue.types import Space
from tests.tables import upload_parts

from .conftest import DOCUMENT, QUESTION, Server, Start

CANARY = "xylophonequagga"


async def test_an_unchanged_document_is_not_read_again(server: Server) -> None:
    first = await server.upload()

    again = await server.client.post(
        "/documents", files={"file": ("ferries.md", DOCUMENT.encode())}
    )

    assert (again.status_code, again.json()["id"], again.json()["job_id"]) == (
        200,
        first["id"],
        None,
    )


async def test_a_changed_document_replaces_its_old_version(server: Server) -> None:
    first = await server.upload()
    old = await server.ask()

    await server.upload(DOCUMENT.replace("nine", "ten"))

    hits = (await server.client.post("/search", json={"question": QUESTION})).json()["hits"]
    assert {hit["version"] for hit in hits} == {2}
    assert "ten in the morning" in (await server.client.get(f"/documents/{first['id']}/text")).text
    for citation in old["answer"]["citations"]:
        path = f"/documents/{first['id']}/text?version={citation['version']}"
        text = (await server.client.get(path)).text
        assert text[citation["start"] : citation["end"]] == citation["quote"]


async def test_a_deleted_document_is_hidden_at_once_and_leaves_nothing(
    start: Start, tmp_path: Path
) -> None:
    server = await start(embedder="minilm")
    document = await server.upload(DOCUMENT.replace("nine", CANARY))
    answered = await server.ask("When does the ferry to Hven leave?")
    assert CANARY in answered["answer"]["text"]

    deleted = await server.client.delete(f"/documents/{document['id']}")

    assert deleted.status_code == 202
    assert (await server.client.get(f"/documents/{document['id']}")).status_code == 404
    assert (await server.client.get(f"/documents/{document['id']}/text")).status_code == 404
    assert (await server.client.post("/search", json={"question": CANARY})).json()["hits"] == []
    assert (await server.ended(deleted.json()["links"]["job"]))["status"] == "completed"
    receipt = (await server.client.get(deleted.json()["links"]["receipt"])).json()
    assert receipt["erased_at"] >= receipt["hidden_at"]
    assert receipt["counts"]["chunks"] >= 1
    assert receipt["counts"]["answers"] == 1
    erased = (await server.client.get(f"/chat/{answered['id']}")).json()
    assert (erased["answer"], erased["error"]["code"]) == (None, "answer_erased")
    records = server.ragqueue.runtime.records
    records.database.upkeep.checkpoint(records.engine)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


async def test_a_deleted_documents_words_are_gone_from_the_keyword_index(
    server: Server, tmp_path: Path
) -> None:
    document = await server.upload(DOCUMENT.replace("nine", CANARY))
    deleted = await server.client.delete(f"/documents/{document['id']}")
    await server.ended(deleted.json()["links"]["job"])

    with sqlite_module.connect(tmp_path / "data" / "records.sqlite3") as connection:
        assert connection.execute("select count(*) from terms").fetchone() == (0,)
        assert connection.execute("select count(*) from chunks").fetchone() == (0,)
        connection.execute("insert into chunk_words (chunk_words) values ('integrity-check')")


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("empty.txt", b"", 422, "unreadable_document"),
        ("program.exe", b"MZ\x90\x00" * 100, 415, "unsupported_media_type"),
        ("huge.txt", b"word " * 40_000, 413, "too_large"),
    ],
)
async def test_a_file_that_cannot_be_taken_is_refused_with_the_reason(
    start: Start, name: str, data: bytes, status: int, code: str
) -> None:
    server = await start(max_upload=100_000)

    response = await server.client.post("/documents", files={"file": (name, data)})

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert (await server.client.get("/documents")).json()["documents"] == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("blank.md", b" \n \n"),
        ("comment.md", b"<!-- note -->"),
        ("titled.html", b"<title>Only</title>"),
        ("binary.txt", bytes(range(256)) * 50),
        ("lying.md", b"%PDF-1.7 not markdown"),
        ("cut.pdf", b"%PDF-1.7\n1 0 obj\n<<"),
    ],
)
async def test_a_file_that_cannot_be_read_fails_with_the_reason(
    server: Server, name: str, data: bytes
) -> None:
    response = await server.client.post("/documents", files={"file": (name, data)})

    if response.status_code == 202:
        job = await server.ended(f"/jobs/{response.json()['job_id']}")
        assert job["status"] == "failed"
        assert job["error"]["code"] == "unreadable_document"
        document = (await server.client.get(f"/documents/{response.json()['id']}")).json()
        assert (document["status"], bool(document["error"])) == ("failed", True)
    else:
        assert response.status_code in (415, 422)
        assert response.json()["detail"]


async def test_a_document_that_fails_keeps_its_older_version(server: Server) -> None:
    first = await server.upload()

    response = await server.client.post("/documents", files={"file": ("ferries.md", b" \n ")})
    if response.status_code == 202:
        await server.ended(f"/jobs/{response.json()['job_id']}")

    assert (await server.client.get(f"/documents/{first['id']}")).json()["status"] == "ready"
    assert "nine" in (await server.ask())["answer"]["text"]


async def test_documents_are_listed_page_by_page(server: Server) -> None:
    await asyncio.gather(
        *(server.upload(f"# Page {n}\n\nSome words about number {n}.", f"{n}.md") for n in range(5))
    )

    first = (await server.client.get("/documents?limit=3")).json()
    second = (await server.client.get(f"/documents?limit=3&after={first['next']}")).json()

    assert len({d["id"] for d in first["documents"] + second["documents"]}) == 5
    assert second["next"] is None


async def test_a_question_limited_to_a_collection_sees_only_that(server: Server) -> None:
    await server.client.post(
        "/documents", files={"file": ("a.md", DOCUMENT.encode())}, data={"collection": "a"}
    )
    second = await server.client.post(
        "/documents",
        files={"file": ("b.md", DOCUMENT.replace("nine", "ten").encode())},
        data={"collection": "b"},
    )
    await server.ended(f"/jobs/{second.json()['job_id']}")

    question = {"question": QUESTION, "collection": "b"}
    hits = (await server.client.post("/search", json=question)).json()["hits"]

    assert hits
    assert all("nine" not in hit["text"] for hit in hits)


@pytest.mark.parametrize(
    "query", ["q=%00", "q=ferry&collection=%00", "q=ferry&limit=0", "q=%20", ""]
)
async def test_a_search_for_what_is_no_text_is_a_clear_422(server: Server, query: str) -> None:
    response = await server.client.get(f"/search?{query}")

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_health_and_metrics_tell_of_the_system(server: Server) -> None:
    await server.upload()
    await server.ask()
    succeeded = 'ragqueue_jobs_ended_total{kind="chat",state="succeeded"}'
    async with asyncio.timeout(10):
        while succeeded not in (await server.client.get("/metrics")).text:
            await asyncio.sleep(0.1)

    ready = (await server.client.get("/readyz")).json()
    text = (await server.client.get("/metrics")).text

    assert (ready["status"], ready["workers"]) == ("ready", 1)
    for name in (
        "queue_depth",
        "queue_oldest_seconds",
        "tokens_total",
        "time_to_first_token_seconds_bucket",
        "job_tries",
        "job_deaths",
        "dead_letters",
        "workers",
    ):
        assert f"ragqueue_{name}" in text, name
    assert QUESTION not in text


async def test_documents_of_another_embedder_are_refused_not_lost(start: Start) -> None:
    await (await start(embedder="none")).upload()
    other = await start(embedder="minilm")

    response = await other.client.post("/documents", files={"file": ("more.md", DOCUMENT.encode())})

    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert "RAGQUEUE_EMBEDDER" in response.json()["detail"]
    apart = await other.client.post(
        "/documents", files={"file": ("more.md", DOCUMENT.encode())}, data={"collection": "vectors"}
    )
    assert apart.status_code == 202


async def test_of_uploads_in_quick_succession_the_last_one_stands(server: Server) -> None:
    first = await server.upload()
    jobs = []
    for hour in ("ten", "eleven", "twelve"):
        response = await server.client.post(
            "/documents", files={"file": ("ferries.md", DOCUMENT.replace("nine", hour).encode())}
        )
        jobs.append(response.json()["job_id"])
    ended = [await server.ended(f"/jobs/{job_id}") for job_id in jobs]

    assert ended[-1]["status"] == "completed"
    text = (await server.client.get(f"/documents/{first['id']}/text")).text
    assert "twelve in the morning" in text


async def test_a_new_source_that_comes_in_many_times_at_once_makes_one_document_and_no_orphan(
    server: Server,
) -> None:
    responses = await asyncio.gather(
        *(
            server.client.post("/documents", files={"file": ("ferries.md", DOCUMENT.encode())})
            for _ in range(8)
        )
    )

    accepted = [response.json() for response in responses if response.status_code in (200, 202)]
    assert accepted
    assert {response.status_code for response in responses} <= {200, 202, 409}
    assert len({body["id"] for body in accepted}) == 1
    for body in accepted:
        if body["job_id"]:
            await server.ended(f"/jobs/{body['job_id']}")
    assert len((await server.client.get("/documents")).json()["documents"]) == 1
    assert "nine" in (await server.ask())["answer"]["text"]


async def test_a_text_that_is_too_long_fails_its_document_and_leaves_no_file(
    server: Server,
) -> None:
    response = await server.client.post(
        "/documents", files={"file": ("long.txt", b"word " * 2_000_001)}
    )

    job = await server.ended(response.json()["links"]["job"])

    assert (job["status"], job["error"]["code"]) == ("failed", "unreadable_document")
    document = (await server.client.get(response.headers["location"])).json()
    assert (document["status"], "10,000,005 characters" in document["error"]) == ("failed", True)
    files = await server.ragqueue.runtime.records.read(
        lambda connection: connection.execute(upload_parts.select()).all()
    )
    assert files == []


class Told(Index):
    """An index of one's own, which keeps the numbers that it was told of."""

    held: ClassVar[set[int]] = set()

    def __init__(self, given: Given) -> None:
        assert given.records is not None

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Any) -> None:
        self.held.update(numbers)

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        self.held.difference_update(numbers)

    async def search(
        self, space: Space, vector: Any, limit: int, *, allowed: Any = None
    ) -> list[tuple[int, float]]:
        return []

    async def count(self, space: Space) -> int:
        return len(self.held)


async def test_an_index_of_ones_own_forgets_what_was_replaced_or_deleted(start: Start) -> None:
    server = await start(embedder="minilm", index=f"python:{__name__}:Told")
    document = await server.upload()
    first = set(Told.held)

    await server.upload(DOCUMENT.replace("nine", "ten"))
    assert Told.held
    assert not first & Told.held

    deleted = await server.client.delete(f"/documents/{document['id']}")
    await server.ended(deleted.json()["links"]["job"])
    assert Told.held == set()
