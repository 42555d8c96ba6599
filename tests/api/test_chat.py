"""`POST /chat` in its three forms, resume, cancel, delete, and the caller's mistakes."""

import asyncio

import pytest

from ragqueue.errors import InvalidRequest

from .conftest import QUESTION, Server, Start, events_of

SLOW = "scripted:rate=20&tokens=2000"


def text_of(events: list) -> str:  # type: ignore[type-arg]
    return "".join(data.get("delta", "") for _, data in events)


async def test_a_question_is_accepted_and_answered_with_exact_quotes(server: Server) -> None:
    await server.upload()

    accepted = await server.client.post("/chat", json={"question": QUESTION})
    assert (accepted.status_code, accepted.headers["location"]) == (
        202,
        accepted.json()["links"]["self"],
    )
    answered = await server.ended(accepted.headers["location"])

    assert answered["status"] == "completed"
    assert "nine in the morning" in answered["answer"]["text"]
    for citation in answered["answer"]["citations"]:
        path = f"/documents/{citation['document_id']}/text?version={citation['version']}"
        text = (await server.client.get(path)).text
        assert text[citation["start"] : citation["end"]] == citation["quote"]


async def test_the_event_stream_adds_up_to_the_answer(server: Server) -> None:
    await server.upload()

    response = await server.client.post(
        "/chat", json={"question": QUESTION}, headers={"accept": "text/event-stream"}
    )
    found = events_of(response.text)

    answered = await server.ended(response.headers["content-location"])
    ids = [seq for seq, _ in found]
    assert ids == sorted(set(ids))
    assert all(data["sequence_number"] == seq for seq, data in found)
    assert text_of(found) == answered["answer"]["text"]
    assert found[-1][1]["type"] == "response.completed"
    kinds = [data["type"] for _, data in found]
    assert (
        kinds.index("ragqueue:sources")
        < kinds.index("response.output_text.delta")
        < kinds.index("response.output_text.annotation.added")
    )


async def test_a_stream_resumes_after_each_of_its_events(server: Server) -> None:
    await server.upload()
    answered = await server.ask()
    path = f"/chat/{answered['id']}/events"
    found = events_of((await server.client.get(path)).text)

    for index, (seq, _) in enumerate(found[:-1]):
        rest = events_of((await server.client.get(path, headers={"last-event-id": str(seq)})).text)
        assert rest == found[index + 1 :]
    at_the_end = await server.client.get(path, headers={"last-event-id": str(found[-1][0])})
    assert at_the_end.status_code == 204


async def test_prefer_wait_gives_the_answer_if_it_is_ready_in_time(server: Server) -> None:
    await server.upload()

    response = await server.client.post(
        "/chat", json={"question": QUESTION}, headers={"prefer": "wait=10"}
    )

    assert (response.status_code, response.headers["preference-applied"]) == (200, "wait")
    assert response.json()["answer"]["text"]


async def test_prefer_wait_gives_202_if_it_is_not(start: Start) -> None:
    server = await start(llm_model=SLOW)
    await server.upload()

    response = await server.client.post(
        "/chat", json={"question": QUESTION}, headers={"prefer": "wait=0"}
    )

    assert response.status_code == 202


async def test_what_the_sources_do_not_hold_is_said_with_the_nearest_passages(
    server: Server,
) -> None:
    await server.upload()

    answered = await server.ask(
        "Which zebra won the chess championship of Lisbon, and what about the ferry?"
    )

    assert answered["answer"]["grounding"] == "abstained"
    assert answered["answer"]["citations"] == []
    assert "nearest" in answered["answer"]


async def test_a_running_answer_is_cancelled(start: Start) -> None:
    server = await start(llm_model=SLOW)
    await server.upload()
    accepted = (await server.client.post("/chat", json={"question": QUESTION})).json()
    async with asyncio.timeout(5):
        while (await server.client.get(accepted["links"]["self"])).json()["status"] == "queued":
            await asyncio.sleep(0.02)

    await server.client.post(accepted["links"]["cancel"])

    cancelled = await server.ended(accepted["links"]["self"])
    assert cancelled["status"] == "cancelled"
    found = events_of((await server.client.get(accepted["links"]["events"])).text)
    assert found[-1][1]["type"] == "response.cancelled"


async def test_an_ended_chat_can_be_deleted_and_is_gone(server: Server) -> None:
    await server.upload()
    answered = await server.ask()

    assert (await server.client.delete(f"/chat/{answered['id']}")).status_code == 204
    assert (await server.client.get(f"/chat/{answered['id']}")).status_code == 404
    assert (await server.client.get(f"/chat/{answered['id']}/events")).status_code == 404


async def test_a_repeated_idempotency_key_gives_the_same_chat(server: Server) -> None:
    await server.upload()
    headers = {"idempotency-key": "k1"}

    ids = set()
    for _ in range(5):
        repeated = await server.client.post("/chat", json={"question": QUESTION}, headers=headers)
        ids.add(repeated.json()["id"])
    other = await server.client.post("/chat", json={"question": "Another?"}, headers=headers)

    assert len(ids) == 1
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"question": ""},
        {"question": "   "},
        {"question": "x" * 1_000_000},
        {"question": 7},
        {"question": "?", "limit": 0},
        {"question": "?", "limit": 51},
        {"question": "?", "surprise": 1},
        {"question": "?", "model": "gpt-none"},
        {"question": "?", "metadata": {str(n): "v" for n in range(17)}},
        {"question": "?", "metadata": {"n" * 65: "v"}},
        {"question": "?", "metadata": {"n": "v" * 513}},
        [],
        "?",
    ],
)
async def test_a_bad_body_is_a_clear_422_and_makes_no_job(server: Server, body: object) -> None:
    response = await server.client.post("/chat", json=body)

    assert (response.status_code, response.headers["content-type"]) == (
        422,
        "application/problem+json",
    )
    assert response.json()["code"] == "invalid_request"
    assert (await server.client.get("/jobs")).json()["jobs"] == []


@pytest.mark.parametrize(
    "content", [b"{", b"", b'{"question": "\\ud800"}', b"\xff\xfe", b"[" * 100_000]
)
async def test_a_body_that_is_no_json_or_no_text_is_a_clear_422(
    server: Server, content: bytes
) -> None:
    response = await server.client.post(
        "/chat", content=content, headers={"content-type": "application/json"}
    )

    assert (response.status_code, response.json()["code"]) in (
        (422, "invalid_request"),
        (400, "bad_request"),
    )


@pytest.mark.parametrize("question", ["", " \n", "x" * 1_000_000])
async def test_the_python_door_refuses_what_the_api_refuses(server: Server, question: str) -> None:
    for call in (server.ragqueue.ask(question), server.ragqueue.search(question)):
        with pytest.raises(InvalidRequest, match="characters"):
            await call


async def test_an_unknown_collection_is_404(server: Server) -> None:
    response = await server.client.post("/chat", json={"question": "?", "collection": "nowhere"})

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("last", ["-1", "abc", "99999999999999999999999"])
async def test_an_id_that_cannot_be_one_is_refused(server: Server, last: str) -> None:
    await server.upload()
    answered = await server.ask()

    response = await server.client.get(
        f"/chat/{answered['id']}/events", headers={"last-event-id": last}
    )

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_a_full_queue_is_429_with_the_time_to_come_back(start: Start) -> None:
    server = await start(llm_model=SLOW, concurrency=1, tenant_bound=1)
    await server.upload()
    responses = [await server.client.post("/chat", json={"question": QUESTION}) for _ in range(6)]

    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert all(
        int(response.headers["retry-after"]) >= 1 and response.json()["code"] == "queue_full"
        for response in refused
    )
