"""A keyless server is closed to web pages; once a key existed, no key is no entry.

A fault of ours is told as one.
"""

import asyncio
from typing import Any

import pytest
from starlette.datastructures import Headers

from ragqueue.api.gate import LOCAL, Keyring, check_neighbour, host_name, is_loopback
from ragqueue.errors import Forbidden, Unavailable
from ragqueue.records import documents, keys
from ragqueue.types import Event

from .conftest import QUESTION, Server, Start, events_of

SLOW = "scripted:rate=20&tokens=2000"
OWN = {"host": "127.0.0.1:8000"}
FOREIGN: dict[str, dict[str, str]] = {
    "DNS rebinding": {"host": "evil.example"},
    "rebinding with a port": {"host": "evil.example:8000"},
    "a name that begins like ours": {"host": "localhost.evil.example"},
    "a name that begins like our address": {"host": "127.0.0.1.evil.example"},
    "a host of the same network": {"host": "192.168.0.7:8000"},
    "no host": {"host": ""},
    "a page of another origin": OWN | {"origin": "https://evil.example"},
    "a page of another port": OWN | {"origin": "http://127.0.0.1:3000"},
    "a page of another name of this host": OWN | {"origin": "http://localhost:8000"},
    "a page without an origin": OWN | {"origin": "null"},
    "a picture in a foreign page": OWN
    | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    "a page of another port, without Origin": OWN | {"sec-fetch-site": "same-site"},
    "a proxy": OWN | {"x-forwarded-for": "203.0.113.7"},
    "a proxy of the new kind": OWN | {"forwarded": "for=203.0.113.7"},
}
KNOWN: dict[str, dict[str, str]] = {
    "a program": OWN,
    "a program that calls us by name": {"host": "localhost:8000"},
    "IPv6": {"host": "[::1]:8000"},
    "the own page": OWN | {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"},
    "a person who types the address": OWN
    | {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_what_a_foreign_page_can_make_a_browser_send_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden):
        check_neighbour(Headers(headers), navigates=False)


@pytest.mark.parametrize("headers", KNOWN.values(), ids=KNOWN)
def test_what_this_host_asks_is_let_in(headers: dict[str, str]) -> None:
    check_neighbour(Headers(headers), navigates=False)


def test_a_link_of_another_page_leads_to_ours_but_not_to_the_api() -> None:
    followed = Headers(OWN | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})

    check_neighbour(followed, navigates=True)
    with pytest.raises(Forbidden):
        check_neighbour(followed, navigates=False)


def test_a_name_that_the_operator_lists_is_let_in() -> None:
    check_neighbour(
        Headers({"host": "rag.internal:8000"}), navigates=False, allowed={"rag.internal"}
    )
    with pytest.raises(Forbidden):
        check_neighbour(
            Headers({"host": "other.internal"}), navigates=False, allowed={"rag.internal"}
        )


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a:1", "a"),
        ("A", "a"),
        ("[::1]:80", "::1"),
        ("::1", "::1"),
        ("", ""),
        ("127.0.0.1:80", "127.0.0.1"),
    ],
)
def test_the_name_of_a_host_is_told_from_its_port(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("name", "inside"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False)],
)
def test_loopback_is_told_from_the_rest(name: str, inside: bool) -> None:
    assert is_loopback(name) is inside


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
async def test_a_foreign_page_neither_reads_nor_writes(
    server: Server, headers: dict[str, str]
) -> None:
    asked = [
        ("GET", "/documents"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("POST", "/jobs/0/cancel"),
        ("DELETE", "/documents/0"),
    ]

    for method, path in asked:
        response = await server.client.request(method, path, headers=headers)

        assert (response.status_code, response.json()["code"]) == (403, "forbidden"), (method, path)


async def test_with_keys_in_use_a_page_may_be_anywhere(server: Server) -> None:
    key = await server.key("acme")

    response = await server.client.get(
        "/documents", headers=key | {"host": "rag.example", "origin": "https://app.example"}
    )

    assert response.status_code == 200


async def test_the_end_of_the_last_key_opens_nothing(server: Server) -> None:
    key = await server.key("default")
    await server.ragqueue.runtime.records.write(keys.revoke, key["authorization"].split("_")[1])

    for headers in ({}, key):
        assert (await server.client.get("/documents", headers=headers)).status_code == 401


async def test_a_key_that_nobody_asked_for_is_ignored(server: Server) -> None:
    response = await server.client.get(
        "/documents", headers={"authorization": "Bearer sk-any-openai-client-sends-one"}
    )

    assert response.status_code == 200


async def test_the_stream_of_a_revoked_key_ends(start: Start) -> None:
    server = await start(llm_model=SLOW)
    key = await server.key("acme")
    await server.upload(**key)
    streaming = asyncio.create_task(
        server.client.post(
            "/chat", json={"question": QUESTION}, headers=key | {"accept": "text/event-stream"}
        )
    )
    while not (await server.client.get("/jobs?kind=chat", headers=key)).json()["jobs"]:
        await asyncio.sleep(0.02)

    await server.ragqueue.runtime.records.write(keys.revoke, key["authorization"].split("_")[1])

    ended = (await asyncio.wait_for(streaming, 20)).text
    assert ended.rstrip().rpartition("\n\n")[2].startswith("event: error")
    assert '"code":"unauthorised"' in ended


async def test_a_key_made_after_the_last_look_is_welcome(server: Server) -> None:
    records = server.ragqueue.runtime.records
    keyring = Keyring(records)
    old = await records.write(keys.create, "acme", "old")
    await keyring.look()

    new = await records.write(keys.create, "acme", "new")

    assert keyring.admits(new.split("_")[1])
    await records.write(keys.revoke, old.split("_")[1])
    await keyring.look()
    assert not keyring.admits(old.split("_")[1])
    assert keyring.admits(new.split("_")[1])
    assert not keyring.admits(LOCAL)


async def test_streams_of_one_caller_are_bounded_and_health_answers(start: Start) -> None:
    server = await start(llm_model=SLOW, streams=2)
    await server.upload()
    asked = {"json": {"question": QUESTION}, "headers": {"accept": "text/event-stream"}}
    open_streams = [asyncio.create_task(server.client.post("/chat", **asked)) for _ in range(2)]
    jobs: list[dict[str, Any]] = []
    while len(jobs) < 2:
        await asyncio.sleep(0.02)
        jobs = (await server.client.get("/jobs?kind=chat")).json()["jobs"]

    for headers in ({"accept": "text/event-stream"}, {"prefer": "wait=1"}):
        refused = await server.client.post("/chat", json={"question": QUESTION}, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert "retry-after" in refused.headers
    assert len((await server.client.get("/jobs?kind=chat")).json()["jobs"]) == 2
    assert (await server.client.get("/livez")).status_code == 200

    for job in jobs:
        await server.client.post(f"/chat/{job['id']}/cancel")
    await asyncio.gather(*open_streams)
    accepted = await server.client.post(
        "/chat", json={"question": QUESTION}, headers={"prefer": "wait=0"}
    )
    assert accepted.status_code == 202


async def test_a_bug_is_a_problem_document_that_tells_nothing_of_the_inside(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: Any, **__: Any) -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(documents, "listed", bug)

    response = await server.client.get("/documents")

    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret detail" not in response.text
    assert "ValueError: secret detail" in caplog.text


async def test_a_resume_while_the_log_is_away_is_503_with_retry_after(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.upload()
    answered = await server.ask()
    path = f"/chat/{answered['id']}/events"
    seq = events_of((await server.client.get(path)).text)[3][0]

    async def away(*_: Any) -> dict[str, list[Event]]:
        raise Unavailable("the event log is away")

    monkeypatch.setattr(server.ragqueue.runtime.log, "read", away)
    response = await server.client.get(path, headers={"last-event-id": str(seq)})

    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("version", [2**31 + 1, 2**63, 10**40, "9" * 5000, -1, 0, "1e3", "NaN"])
async def test_a_version_is_bounded(server: Server, version: object) -> None:
    document = await server.upload()

    response = await server.client.get(f"/documents/{document['id']}/text?version={version}")

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("after", ["nonsense", "nan_x", "inf_x", "1e999_x", "-1e400_x", "9" * 101])
async def test_a_cursor_that_no_list_gave_is_refused(server: Server, after: str) -> None:
    response = await server.client.get("/jobs", params={"after": after})

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_a_file_name_that_is_no_text_is_refused(server: Server) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a\\ud800b.md"\r\n'
        b"Content-Type: text/markdown\r\n\r\n# hello\r\n--B--\r\n"
    )
    content_type = "multipart/form-data; boundary=B; charset=unicode_escape"

    response = await server.client.post(
        "/documents", content=body, headers={"content-type": content_type}
    )

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
