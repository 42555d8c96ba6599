import asyncio
import io
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ragqueue.errors import Unavailable, UnreadableDocument
from ragqueue.parsers import child
from ragqueue.parsers.child import Request
from ragqueue.parsers.pool import ParserPool, isolation
from tests.parsers.pdfs import bomb, pdf

HOSTILE = (
    "Echo", "Pid", "Greedy", "Endless", "Sleeper", "Exits", "Segfault", "SecondCrashes", "Buggy",
    "Refuses", "Overlapping", "Nonsense", "Forges", "Chatty", "Dials", "Writes", "Environment",
    "NoText", "Niceness",
)  # fmt: skip
TABLE = {f"test/{name.lower()}": f"tests.parsers.hostile_parsers:{name}" for name in HOSTILE} | {
    "text/plain": "ragqueue.parsers.text:TextParser",
    "application/pdf": "ragqueue.parsers.pdf:PdfParser",
}
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    pool = ParserPool(seconds=30, memory=400_000_000, table=TABLE)
    yield pool
    await pool.close()


@pytest.fixture
async def hasty() -> AsyncIterator[ParserPool]:
    """A pool whose patience ends at once.

    Its child is warm, so that a good document still passes.
    """
    pool = ParserPool(seconds=0.5, table=TABLE)
    yield pool
    await pool.close()


async def test_a_document_comes_back_as_text_and_blocks(pool: ParserPool) -> None:
    parsed = await pool.parse("Grüße.\n\nZweiter Absatz.".encode(), "a.txt", "text/plain")

    assert [parsed.text[block.start : block.end] for block in parsed.blocks] == [
        "Grüße.",
        "Zweiter Absatz.",
    ]


async def test_what_is_no_text_is_replaced_and_offsets_stay(pool: ParserPool) -> None:
    parsed = await pool.parse(b"x", "a", "test/notext")

    assert (parsed.text, parsed.title, parsed.blocks[0].heading_path) == (
        "a\ufffdb \ufffd",
        "\ufffd",
        ("a\ufffdb",),
    )


async def test_a_child_is_reused_for_the_next_document(pool: ParserPool) -> None:
    first = await pool.parse(b"x", "a", "test/pid")
    second = await pool.parse(b"x", "b", "test/pid")

    assert first.text == second.text != str(os.getpid())


async def test_documents_at_once_share_no_child() -> None:
    pool = ParserPool(processes=3, table=TABLE)

    texts = await asyncio.gather(
        *(pool.parse(f"text {n}".encode() * 1000, "a", "test/echo") for n in range(9))
    )

    assert [parsed.text for parsed in texts] == [f"text {n}" * 1000 for n in range(9)]
    await pool.close()


async def test_a_big_document_passes_through_the_pipes(pool: ParserPool) -> None:
    text = "wörter " * 500_000

    parsed = await pool.parse(text.encode(), "big", "test/echo")

    assert parsed.text == text


@posix_only
@pytest.mark.parametrize(
    ("media_type", "data", "cause"),
    [
        ("test/greedy", b"2000000000", "memory limit"),
        ("test/exits", b"x", "exit status 3"),
        ("test/segfault", b"x", "signal 11 SIGSEGV"),
    ],
)
async def test_a_document_that_breaks_its_child_is_named_with_the_cause(
    pool: ParserPool, media_type: str, data: bytes, cause: str
) -> None:
    with pytest.raises(
        UnreadableDocument, match=f"'bomb' cannot be read: the parser died .*{cause}"
    ):
        await pool.parse(data, "bomb", media_type)


@posix_only
@pytest.mark.parametrize(
    ("media_type", "data"),
    [("test/greedy", b"2000000000"), ("test/exits", b"x"), ("test/segfault", b"x")],
)
async def test_the_next_document_after_a_broken_child_parses(
    pool: ParserPool, media_type: str, data: bytes
) -> None:
    with pytest.raises(UnreadableDocument, match="the parser died"):
        await pool.parse(data, "bomb", media_type)

    parsed = await pool.parse(b"fine", "a", "test/echo")

    assert parsed.text == "fine"


@posix_only
async def test_a_small_pdf_that_inflates_without_end_spares_the_parent() -> None:
    pool = ParserPool(memory=60_000_000, seconds=30, table=TABLE)
    with pytest.raises(UnreadableDocument):
        await pool.parse(bomb(200_000_000), "bomb.pdf", "application/pdf")

    parsed = await pool.parse(pdf([["fine"]]), "a.pdf", "application/pdf")

    assert parsed.text == "fine"
    await pool.close()


@pytest.mark.parametrize("media_type", ["test/endless", "test/sleeper"])
async def test_a_document_without_end_is_killed_by_the_clock(
    hasty: ParserPool, media_type: str
) -> None:
    with pytest.raises(UnreadableDocument, match=r"time limit of 0\.5 s"):
        await hasty.parse(b"x", "loop", media_type)


async def test_a_dead_parser_is_an_unreadable_document_that_may_be_tried_again(
    hasty: ParserPool,
) -> None:
    with pytest.raises(UnreadableDocument) as caught:
        await hasty.parse(b"x", "loop", "test/endless")

    assert (caught.value.code, caught.value.retryable) == ("unreadable_document", True)


async def test_a_document_is_not_blamed_for_what_the_one_before_did_to_the_child(
    pool: ParserPool,
) -> None:
    await pool.parse(b"first", "a", "test/secondcrashes")

    parsed = await pool.parse(b"second", "b", "test/secondcrashes")

    assert parsed.text == "second"


async def test_a_child_that_was_killed_while_idle_is_replaced(pool: ParserPool) -> None:
    pid = int((await pool.parse(b"x", "a", "test/pid")).text)
    os.kill(pid, 9)

    parsed = await pool.parse(b"fine", "b", "test/echo")

    assert parsed.text == "fine"


async def test_a_parse_cancelled_in_mid_sentence_leaves_no_stale_answer(pool: ParserPool) -> None:
    await pool.parse(b"warm", "a", "test/echo")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.parse(b"x", "b", "test/sleeper"), 0.2)

    parsed = await pool.parse(b"fine", "c", "test/echo")

    assert parsed.text == "fine"


async def test_a_parse_cancelled_while_its_child_starts_leaves_the_pool_working(
    pool: ParserPool,
) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.parse(b"x", "a", "test/echo"), 0.001)

    parsed = await pool.parse(b"fine", "b", "test/echo")

    assert parsed.text == "fine"


async def test_a_bug_of_a_parser_is_reported_and_no_death(pool: ParserPool) -> None:
    with pytest.raises(
        UnreadableDocument, match="its parser failed \\(KeyError: 'left'\\)"
    ) as caught:
        await pool.parse(b"x", "a", "test/buggy")

    assert not caught.value.retryable


async def test_a_refusal_keeps_its_own_words(pool: ParserPool) -> None:
    with pytest.raises(UnreadableDocument, match=r"^'a' is odd$"):
        await pool.parse(b"x", "a", "test/refuses")


async def test_blocks_out_of_order_are_not_believed(pool: ParserPool) -> None:
    with pytest.raises(UnreadableDocument, match="block 3-6 does not stand in order"):
        await pool.parse(b"x", "a", "test/overlapping")


async def test_nonsense_on_the_pipe_is_an_unreadable_document(pool: ParserPool) -> None:
    with pytest.raises(UnreadableDocument, match="answered nonsense"):
        await pool.parse(b"x", "a", "test/nonsense")


async def test_what_a_document_left_in_the_pipe_answers_no_other_one(pool: ParserPool) -> None:
    with pytest.raises(UnreadableDocument):
        await pool.parse(b"x", "a", "test/nonsense")

    parsed = await pool.parse(b"fine", "b", "test/echo")

    assert parsed.text == "fine"


async def test_a_forged_answer_to_another_document_is_refused(pool: ParserPool) -> None:
    with pytest.raises(UnreadableDocument, match="answers another document"):
        await pool.parse(b"x", "a", "test/forges")


async def test_a_parse_under_way_when_the_pool_closes_is_not_blamed(pool: ParserPool) -> None:
    await pool.parse(b"warm", "a", "test/echo")
    task = asyncio.create_task(pool.parse(b"x", "b", "test/sleeper"))
    await asyncio.sleep(0)  # it has taken the child

    await pool.close()

    with pytest.raises(Unavailable, match="closed"):
        await task


async def test_what_a_library_prints_does_not_disturb_the_answer(
    pool: ParserPool, capfd: pytest.CaptureFixture[str]
) -> None:
    parsed = await pool.parse(b"fine", "a", "test/chatty")

    assert parsed.text == "fine"
    assert capfd.readouterr() == ("", "")


@linux_only
async def test_a_child_reaches_no_network(pool: ParserPool) -> None:
    if "no network" not in (await isolation(400_000_000)).split("; "):
        pytest.skip("namespaces are forbidden on this machine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(UnreadableDocument, match=r"OSError|ConnectionRefused|unreachable"):
            await pool.parse(str(port).encode(), "a", "test/dials")


@posix_only
async def test_a_child_writes_no_files(pool: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="OSError"):
        await pool.parse(str(tmp_path / "out").encode(), "a", "test/writes")

    assert (tmp_path / "out").read_text() == ""


@posix_only
async def test_a_child_sees_no_secrets_of_the_environment(
    pool: ParserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    parsed = await pool.parse(b"x", "a", "test/environment")

    assert "OPENAI_API_KEY" not in parsed.text


@posix_only
async def test_a_child_comes_after_whoever_waits_for_an_answer(pool: ParserPool) -> None:
    parsed = await pool.parse(b"x", "a", "test/niceness")

    assert int(parsed.text) == min(os.nice(0) + 10, 19)


async def test_a_text_above_the_limit_is_refused(pool: ParserPool) -> None:
    with pytest.raises(
        UnreadableDocument,
        match="the text of 'a' has 10,000,001 characters, the limit is 10,000,000: split it",
    ):
        await pool.parse(b"10000001", "a", "test/greedy")


async def test_a_child_that_has_read_its_share_is_replaced() -> None:
    pool = ParserPool(table=TABLE)

    pids = [(await pool.parse(b"x", "a", "test/pid")).text for _ in range(202)]

    assert len(set(pids)) == 2
    await pool.close()


async def test_a_closed_pool_parses_nothing(pool: ParserPool) -> None:
    await pool.close()

    with pytest.raises(Unavailable, match="closed"):
        await pool.parse(b"x", "a", "test/echo")


async def test_a_child_that_cannot_start_is_not_the_fault_of_the_document(
    pool: ParserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(Path("nowhere") / "python"))

    with pytest.raises(Unavailable, match="no parser process can be started"):
        await pool.parse(b"x", "a", "test/echo")


async def test_isolation_says_what_bounds_a_child() -> None:
    assert "memory limit 1,200 MB by" in await isolation(1_200_000_000)


def test_a_child_at_the_end_of_its_life_reads_nothing_that_it_will_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = "ragqueue.parsers.text:TextParser"
    cut = "ragqueue.ingestion.reading:cut"
    request = Request(id="a", target=target, cut=cut, name="a.txt", size=1, seconds=60.0)
    body = msgspec.msgpack.encode(request)
    frame = len(body).to_bytes(8, "big") + body + b"x"
    requests = io.BytesIO(3 * frame)
    answers = io.BytesIO()
    monkeypatch.setattr(child, "_DOCUMENTS", 2)
    monkeypatch.setattr(child, "_limit", lambda *_: None)  # this process lives on

    child._answer_requests(requests, answers, "hello")

    assert requests.tell() == 2 * len(frame)
    assert answers.getvalue().count(b"paragraph") == 2
