"""Hybrid retrieval, and by words alone, over one library."""

from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import Connection

from ragqueue.errors import NotFound
from ragqueue.records import chunks
from ragqueue.records.store import Records
from ragqueue.retrieval.fused import FusedRetriever
from ragqueue.types import Hit, Space
from tests.library import GENERATION, add, hide
from tests.retrieval.conftest import ScanIndex, TopicEmbedder, embed

DEFAULT = Space(tenant="acme", collection="default", generation=GENERATION)
LIBRARY = "\n".join(
    [
        "the kitten sleeps on the sofa",
        "a hound barks at night",
        "boat engines need oil",
        "the feline eats fish",
        "puppy training takes patience",
        "oil prices rise",
        "night trains to Vienna",
        "fish and chips",
    ]
)


async def store(
    records: Records,
    document_id: str,
    text: str,
    *,
    index: ScanIndex | None = None,
    tenant: str = "acme",
    collection: str = "default",
    generation: str = GENERATION,
    language: str = "en",
) -> list[int]:
    def write(connection: Connection) -> list[int]:
        return add(
            connection,
            document_id,
            text,
            tenant=tenant,
            collection=collection,
            generation=generation,
            language=language,
            embed=embed if index else None,
        )

    numbers = await records.write(write)
    if index is not None:
        vectors = np.stack([embed(paragraph) for paragraph in text.split("\n")])
        await index.upsert(
            Space(tenant=tenant, collection=collection, generation=generation), numbers, vectors
        )
    return numbers


def numbers_of(hits: Sequence[Hit]) -> list[int]:
    return [hit.chunk.number for hit in hits]


async def test_the_hybrid_finds_what_is_said_in_other_words(records: Records) -> None:
    index = ScanIndex()
    numbers = await store(records, "d", LIBRARY, index=index)

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve("acme", "cat", limit=2)

    assert set(numbers_of(hits)) == {numbers[0], numbers[3]}


async def test_the_hybrid_finds_what_only_the_words_tell(records: Records) -> None:
    index = ScanIndex()
    numbers = await store(records, "d", LIBRARY, index=index)

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve("acme", "Vienna", limit=1)

    assert numbers_of(hits) == [numbers[6]]


async def test_a_hit_carries_both_scores_whichever_list_found_it(records: Records) -> None:
    index = ScanIndex()
    numbers = await store(records, "d", LIBRARY, index=index)
    await index.delete(DEFAULT, [numbers[1]])

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve(
        "acme", "hound at night", limit=8
    )

    hit = next(hit for hit in hits if hit.chunk.number == numbers[1])
    assert hit.cosine == 1
    assert 0.4 < hit.keyword < 1
    assert next(hit for hit in hits if hit.chunk.number == numbers[2]).keyword == 0


async def test_without_an_embedder_words_decide_alone(records: Records) -> None:
    numbers = await store(records, "d", LIBRARY)

    hits = await FusedRetriever(records, None, None).retrieve("acme", "fish", limit=5)

    assert sorted(numbers_of(hits)) == [numbers[3], numbers[7]]
    assert hits[0].score >= hits[1].score > 0
    assert all(0 < hit.keyword < 1 for hit in hits)
    assert [hit.cosine for hit in hits] == [None, None]


async def test_vectors_of_another_embedder_are_not_compared(records: Records) -> None:
    index = ScanIndex()
    numbers = await store(records, "d", LIBRARY, index=index, generation="another")

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve(
        "acme", "fish cat", limit=5
    )

    assert sorted(numbers_of(hits)) == [numbers[3], numbers[7]]
    assert {hit.cosine for hit in hits} == {None}


async def test_a_chunking_in_the_generation_does_not_make_another_embedder(
    records: Records,
) -> None:
    index = ScanIndex()
    numbers = await store(records, "d", LIBRARY, index=index, generation=f"{GENERATION}/200")

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve("acme", "cat", limit=2)

    assert sorted(numbers_of(hits)) == [numbers[0], numbers[3]]


async def test_a_generation_whose_name_only_begins_alike_is_another(records: Records) -> None:
    index = ScanIndex()
    await store(records, "d", LIBRARY, index=index, generation=f"{GENERATION}2")

    assert await FusedRetriever(records, TopicEmbedder(), index).retrieve("acme", "cat") == []


async def test_no_retriever_shows_another_tenants_chunks(records: Records) -> None:
    index = ScanIndex()
    await store(records, "d", LIBRARY, index=index, tenant="other")
    mine = await store(records, "d", "my own cat", index=index)

    for retriever in (
        FusedRetriever(records, None, None),
        FusedRetriever(records, TopicEmbedder(), index),
    ):
        assert numbers_of(await retriever.retrieve("acme", "cat fish night")) == mine


async def test_a_replica_that_is_behind_cannot_show_a_deleted_document(records: Records) -> None:
    index = ScanIndex()
    await store(records, "d", LIBRARY, index=index)
    kept = await store(records, "e", "another cat", index=index)

    await records.write(hide, "d")

    for retriever in (
        FusedRetriever(records, None, None),
        FusedRetriever(records, TopicEmbedder(), index),
    ):
        assert numbers_of(await retriever.retrieve("acme", "cat fish")) == kept
        assert numbers_of(await retriever.retrieve("acme", "cat fish", limit=1)) == kept


async def test_a_replica_cannot_smuggle_in_a_foreign_number(records: Records) -> None:
    index = ScanIndex()
    foreign = await store(records, "d", "the cat of others", tenant="other")
    await store(records, "e", "my dog", index=index)
    await index.upsert(DEFAULT, foreign, np.stack([embed("cat")]))

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve("acme", "cat")

    assert foreign[0] not in numbers_of(hits)


async def test_a_question_can_be_limited_to_a_collection(records: Records) -> None:
    index = ScanIndex()
    await store(records, "d", "cat one", index=index, collection="one")
    wanted = await store(records, "e", "cat two", index=index, collection="two")

    retriever = FusedRetriever(records, TopicEmbedder(), index)

    assert numbers_of(await retriever.retrieve("acme", "cat", collections=["two"])) == wanted
    assert len(await retriever.retrieve("acme", "cat")) == 2


async def test_collections_of_two_embedders_are_ranked_together(records: Records) -> None:
    index = ScanIndex()
    numbers = await store(records, "d", LIBRARY, index=index)
    others = await store(
        records,
        "e",
        "the cat of another embedder",
        index=index,
        collection="other",
        generation="another",
    )

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve("acme", "cat", limit=9)

    assert {hit.chunk.number for hit in hits if hit.cosine is None} == set(others)
    assert set(numbers_of(hits)) == {*numbers, *others}


async def test_an_unknown_collection_is_an_error_and_an_empty_tenant_is_not(
    records: Records,
) -> None:
    for retriever in (
        FusedRetriever(records, None, None),
        FusedRetriever(records, TopicEmbedder(), ScanIndex()),
    ):
        assert await retriever.retrieve("acme", "cat") == []
        with pytest.raises(NotFound, match="'nope'"):
            await retriever.retrieve("acme", "cat", collections=["nope"])


async def test_a_chinese_question_finds_though_the_embedder_does_not_speak_it(
    records: Records,
) -> None:
    index = ScanIndex()
    await store(
        records, "d", "天气很好\n列车很快\n价格上涨\n我喜欢鱼\n船需要油", index=index, language="zh"
    )
    wanted = await store(records, "e", "队列会保留每个任务直到结束", index=index, language="zh")

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve(
        "acme", "任务什么时候结束？", limit=1
    )

    assert numbers_of(hits) == wanted


async def test_equal_hits_come_in_the_order_of_their_numbers(records: Records) -> None:
    index = ScanIndex()
    numbers = await store(records, "d", "\n".join(["same cat text"] * 7), index=index)

    hits = await FusedRetriever(records, TopicEmbedder(), index).retrieve("acme", "cat", limit=7)

    assert numbers_of(hits) == numbers


async def test_a_removed_collection_of_chunks_is_found_nowhere(records: Records) -> None:
    index = ScanIndex()
    await store(records, "d", LIBRARY, index=index)

    await records.write(chunks.remove, "acme", "d")

    retriever = FusedRetriever(records, TopicEmbedder(), index)
    assert await retriever.retrieve("acme", "cat fish night") == []
