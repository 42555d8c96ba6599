"""Keep a few killable child processes that parse documents.

A bomb ends its child, never its parent.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ragqueue.errors import Unavailable, UnreadableDocument
from ragqueue.parsers.child import MAX_TEXT, MEMORY_EXIT, Head, Request
from ragqueue.parsers.table import PARSERS
from ragqueue.types import Block, Reading, Row

_START = 30.0  # seconds that a child may take to say hello on a busy machine
_WRITTEN_AT_ONCE = 200_000  # bytes: to copy a whole file would hold the loop
_MAX_ANSWER = 1_000_000 + 16 * MAX_TEXT  # bytes

# -P: what lies in the working directory is no module of ours; -B: a child may write no files.
_CHILD = ("-P", "-B", "-c", "from ragqueue.parsers.child import main; main()")

# What a child does before it is bounded, and what cuts what it reads: named, for it runs there.
_PREPARE = "ragqueue.ingestion.reading:prepare"
_CUT = "ragqueue.ingestion.reading:cut"

# Why a child ended, by its return code.
_REASONS = {-number: f"crash, signal {number:d} {number.name}" for number in signal.Signals}
_REASONS[MEMORY_EXIT] = "memory limit"
_REASONS[-24] = "time limit"  # SIGXCPU


class ParserPool:
    """Starts, reuses and replaces at most `processes` children.

    `memory` (bytes above the start) and `seconds` bound each document.
    """

    def __init__(
        self,
        *,
        processes: int = 1,
        memory: int = 1_200_000_000,
        seconds: float = 60,
        table: Mapping[str, str] = PARSERS,
    ) -> None:
        self._memory = memory
        self._seconds = seconds
        self._table = table
        self._slots = asyncio.Semaphore(processes)
        self._closed = False
        self._idle: list[Process] = []
        self._alive: set[Process] = set()

    async def parse(self, data: bytes, name: str, media_type: str) -> Reading:
        """Return what a file holds, cut into passages.

        Raises UnreadableDocument, retryable when it broke its child; Unavailable when no child can
        start.
        """
        async with self._slots:
            request = Request(
                id=secrets.token_hex(8),
                target=self._table[media_type],
                cut=_CUT,
                name=name,
                size=len(data),
                seconds=self._seconds,
            )
            return await self._ask(request, data)

    async def close(self) -> None:
        """Kill every child; a parse that is under way fails."""
        self._closed = True
        await asyncio.gather(*map(_end, self._alive))

    async def _ask(self, request: Request, data: bytes) -> Reading:
        """Return the answer of an idle child, else of a new one. Raises as `parse`."""
        while not self._closed:
            is_new = not self._idle
            child = await self._new_child() if is_new else self._idle.pop()
            self._alive.add(child)
            try:
                return await self._ask_child(child, request, data)
            except (EOFError, ConnectionError):
                reason = await _end(child, patience=1)
                # A used child has ended its life, or died of the documents before: again with a
                # new one.
                if is_new and not self._closed:
                    raise UnreadableDocument(
                        f"{request.name!r} cannot be read: the parser died ({reason})",
                        retryable=True,
                    ) from None
            finally:
                if child not in self._idle:
                    await _end(child)
                    self._alive.discard(child)
        raise Unavailable("the parser pool is closed")

    async def _new_child(self) -> Process:
        child, _ = await _launch(self._memory)
        return child

    async def _ask_child(self, child: Process, request: Request, data: bytes) -> Reading:
        """Return the answer of this child, which is idle again once it has given one.

        Raises UnreadableDocument; EOFError or ConnectionError when the child died.
        """
        unread = f"{request.name!r} cannot be read: "
        try:
            async with asyncio.timeout(self._seconds):
                answer = await _exchange(child, request, data)
        except TimeoutError:
            raise UnreadableDocument(
                f"{unread}the parser died (time limit of {self._seconds:g} s)", retryable=True
            ) from None
        except msgspec.MsgspecError as error:
            raise UnreadableDocument(f"{unread}its parser answered nonsense ({error})") from error
        if not self._closed:
            self._idle.append(child)
        if isinstance(answer, str):
            raise UnreadableDocument(answer)
        return answer


async def isolation(memory: int) -> str:
    """Start a child and return in words what bounds it on this machine. Raises Unavailable."""
    child, bounds = await _launch(memory)
    await _end(child)
    return bounds


async def _launch(memory: int) -> tuple[Process, str]:
    """Return a new child and what it says of its bounds. Raises Unavailable."""
    command = [sys.executable, *_CHILD, str(memory), _PREPARE]
    environment = _environment()
    child = None
    bounds = ""
    try:
        async with asyncio.timeout(_START):
            child = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, env=environment, limit=2**20
            )
            bounds = await _frame(child, str, "")
        return child, bounds
    except (EOFError, OSError, msgspec.MsgspecError) as error:
        reason = str(error)
        if child:
            reason = f"{await _end(child, patience=1)}: standard error says why"
        raise Unavailable(f"no parser process can be started ({reason})") from error
    finally:
        if child and not bounds:
            await _end(child)


def _environment() -> dict[str, str] | None:
    """Return the environment of a child, in which it finds the same modules but holds no keys.

    None stands for our own: only POSIX lets Python start without the rest.
    """
    if os.name != "posix":
        return None
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


async def _exchange(child: Process, request: Request, data: bytes) -> Reading | str:
    """Return the answer to a request: what was read, or why nothing was.

    Raises EOFError or ConnectionError when the child died, MsgspecError when an answer does not
    hold together: a file may have taken its child over.
    """
    assert child.stdin
    body = msgspec.msgpack.encode(request)
    child.stdin.writelines((len(body).to_bytes(8, "big"), body))
    for start in range(0, len(data), _WRITTEN_AT_ONCE):
        child.stdin.write(data[start : start + _WRITTEN_AT_ONCE])
        await child.stdin.drain()
    head = await _frame(child, Head | str, request.id)
    if isinstance(head, str):
        return head
    blocks = await _list_of(child, list[Block], head.blocks, request.id)
    rows = await _list_of(child, list[Row], head.rows, request.id)
    await asyncio.to_thread(_check_order, "block", blocks, len(head.text))
    await asyncio.to_thread(_check_order, "passage", rows, len(head.text))
    return Reading(
        text=head.text,
        blocks=blocks,
        title=head.title,
        pages=head.pages,
        language=head.language,
        rows=rows,
    )


async def _list_of(child: Process, kind: Any, count: int, request_id: str) -> list[Any]:
    """Return so many items, which come in several frames. Raises as `_exchange`."""
    items: list[Any] = []
    while len(items) < count:
        part = await _frame(child, kind, request_id)
        if not part or len(items) + len(part) > count:
            raise msgspec.ValidationError(f"{count} items were announced, others came")
        items += part
    return items


async def _frame(child: Process, kind: Any, request_id: str) -> Any:
    """Return the body of the next frame. Raises as `_exchange`."""
    assert child.stdout
    size = int.from_bytes(await child.stdout.readexactly(8), "big")
    if size > _MAX_ANSWER:
        raise msgspec.ValidationError(f"{size:,} bytes")
    frame = await child.stdout.readexactly(size)
    answer_id, body = await asyncio.to_thread(msgspec.msgpack.decode, frame, type=tuple[str, kind])
    if answer_id != request_id:
        raise msgspec.ValidationError("it answers another document")
    return body


def _check_order(what: str, spans: Sequence[Block] | Sequence[Row], size: int) -> None:
    """Raise MsgspecError unless spans stand in order, without overlap, in a text of this size."""
    end = 0
    for span in spans:
        if not end <= span.start < span.end <= size:
            raise msgspec.ValidationError(
                f"{what} {span.start}-{span.end} does not stand in order in the text"
            )
        end = span.end


async def _end(child: Process, *, patience: float = 0) -> str:
    """Kill a child, unless it ends by itself within so many seconds; say why it ended."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), patience)
    reason = _REASONS.get(child.returncode or 0, f"exit status {child.returncode}")
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()
    return reason
