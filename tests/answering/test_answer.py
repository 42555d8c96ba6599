"""A whole answer: what the prompt holds, what the log says, and what a model's habits do to it."""

from collections.abc import AsyncGenerator, Callable, Iterable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from sqlalchemy import Connection

from ragqueue.adapters import Given
from ragqueue.generators.base import Generator
from ragqueue.records import documents
from ragqueue.types import Delta, Prompt
from tests.api.conftest import Server, Start, events_of, start

__all__ = ["start"]  # the fixture
QUESTION = "How many seconds does a lease last?"
LEASES = "\n\n".join(
    f"# Part {n}\n\n" + f"A lease of part {n} lasts ten seconds, and is renewed by its worker. " * 9
    for n in range(30)
)


class Model(Generator):
    """Says what the test wants, by the prompt.

    It has none of the port's newer attributes, as a user's own may.
    """

    model = "own"
    continues = True
    prompt: ClassVar[Prompt]
    says: Callable[[Prompt], Iterable[str]] = lambda prompt: ["A lease lasts ten seconds [1]."]

    def __init__(self, given: Given) -> None:
        assert given.url.endswith(":Model")

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        Model.prompt = prompt
        for text in Model.says(prompt):
            yield Delta(text=text)
        yield Delta(finish="stop")


@pytest.fixture
async def server(start: Start) -> Server:
    return await start(llm_model="python:tests.answering.test_answer:Model")


async def sources_of(server: Server, answered: dict[str, Any]) -> list[dict[str, Any]]:
    events = events_of((await server.client.get(f"/chat/{answered['id']}/events")).text)
    (sources,) = (data["sources"] for _, data in events if data["type"] == "ragqueue:sources")
    return list(sources)


async def test_the_prompt_is_filled_and_the_log_holds_exactly_its_passages(server: Server) -> None:
    await server.upload(LEASES)

    sources = await sources_of(server, await server.ask(QUESTION))

    assert [source["text"] for source in sources] == [hit.chunk.text for hit in Model.prompt.hits]
    assert [source["n"] for source in sources] == list(range(1, len(sources) + 1))
    assert all(f'n="{n}"' in Model.prompt.user for n in range(1, len(sources) + 1))
    assert f'n="{len(sources) + 1}"' not in Model.prompt.user
    assert 6 < len(sources) < 20


async def test_a_smaller_context_holds_fewer_passages_in_the_prompt_and_in_the_log(
    start: Start,
) -> None:
    server = await start(llm_model="python:tests.answering.test_answer:Model", context=700)
    await server.upload(LEASES)

    sources = await sources_of(server, await server.ask(QUESTION))

    assert 1 <= len(sources) == len(Model.prompt.hits) <= 4


async def test_the_callers_limit_is_a_hard_bound(server: Server) -> None:
    await server.upload(LEASES)

    answer = await server.ragqueue.ask(QUESTION, limit=2)

    assert len(await sources_of(server, {"id": answer.view["id"]})) == len(Model.prompt.hits) == 2


@pytest.mark.parametrize("model", ["extractive", "scripted:tokens=20"])
async def test_a_generator_that_reads_no_prompt_gets_no_more_passages_than_it_uses(
    start: Start, model: str
) -> None:
    server = await start(llm_model=model)
    await server.upload(LEASES)

    assert len(await sources_of(server, await server.ask(QUESTION))) == 6


SAID = "A lease lasts ten seconds, as it is said. "


@pytest.mark.parametrize("end", [*range(8, 34), 60])
async def test_an_echo_of_the_fence_is_neither_shown_nor_stored_nor_taken_for_an_answer(
    server: Server, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "says", lambda prompt: [SAID, *prompt.user[:end]])
    await server.upload()

    answered = await server.ask("When does the ferry to Hven leave in the morning?")

    log = (await server.client.get(f"/chat/{answered['id']}/events")).text
    assert answered["answer"]["text"].startswith(SAID)
    assert answered["answer"]["grounding"] == "uncited"
    assert "<source" not in answered["answer"]["text"] + log


async def test_an_answer_of_nothing_but_echoes_has_failed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Model, "says", lambda prompt: ['<source-x n="1">', "\n", "</sour", "ce-x>", "\n<source-"]
    )
    monkeypatch.setattr("ragqueue.working.worker.TRIES", 1)
    await server.upload()

    job = await server.ragqueue.runtime.submitter.submit(
        "default", "chat", {"question": "When does the ferry to Hven leave in the morning?"}
    )
    events = [
        event async for batch in server.ragqueue.runtime.follower.follow(job) for event in batch
    ]
    last = events[-1]

    assert last.data["response"]["status"] == "failed"
    assert "empty answer" in last.data["response"]["error"]["message"]


async def test_the_grounding_of_an_answer_is_settled_by_its_citations(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Model,
        "says",
        lambda prompt: [
            "The ferry to Hven leaves at nine in the morning [1]. Bananas are yellow [1]."
        ],
    )
    await server.upload()

    answered = await server.ask("When does the ferry to Hven leave in the morning?")

    assert answered["answer"]["grounding"] == "partial"


async def test_a_document_that_is_deleted_while_its_quote_is_noted_is_not_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.upload(LEASES)
    runtime = server.ragqueue.runtime
    [document] = await runtime.records.read(
        documents.listed, "default", collection=None, after="", limit=9
    )
    note = documents.note_quotes

    def deleted_meanwhile(connection: Connection, *given: Any) -> bool:
        noted = note(connection, *given)
        connection.exec_driver_sql("update documents set state = 'deleted'")
        return noted

    monkeypatch.setattr(documents, "note_quotes", deleted_meanwhile)
    job: Any = SimpleNamespace(tenant="default", id="job")
    passage: Any = SimpleNamespace(document_id=document.id)

    assert not await runtime.answerer._may_show(job, [passage])
