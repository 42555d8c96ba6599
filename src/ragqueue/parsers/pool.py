"""Keep a few killable child processes that parse documents: a bomb ends its child, never its parent."""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping

import msgspec

from ragqueue.errors import Unavailable, UnreadableDocument
from ragqueue.parsers.child import MAX_TEXT, MEMORY_EXIT, Answer, Request
from ragqueue.parsers.table import PARSERS
from ragqueue.types import Block, Parsed

_START = 30.0  # seconds that a child may take to say hello on a busy machine
_REASONS = {-known: f"crash, signal {known:d} {known.name}" for known in signal.Signals}
_REASONS |= {MEMORY_EXIT: "memory limit", -24: "time limit"}  # -24: SIGXCPU


class ParserPool:
    """Starts, reuses and replaces at most `processes` children; `memory` (bytes above the start) and `seconds` bound each document."""

    def __init__(
        self,
        *,
        processes: int = 1,
        memory: int = 1_200_000_000,
        seconds: float = 60,
        table: Mapping[str, str] = PARSERS,
    ) -> None:
        self._memory, self._seconds, self._table = memory, seconds, table
        self._slots, self._closed = asyncio.Semaphore(processes), False
        self._idle, self._alive = list[Process](), set[Process]()

    async def parse(self, data: bytes, name: str, media_type: str) -> Parsed:
        """Return what a file holds. Raises UnreadableDocument, retryable when it broke its child; Unavailable when no child can start."""
        async with self._slots:
            return await self._ask(
                Request(secrets.token_hex(8), self._table[media_type], name, data, self._seconds)
            )

    async def close(self) -> None:
        """Kill every child; a parse that is under way fails."""
        self._closed = True
        await asyncio.gather(*map(_end, self._alive))

    async def _ask(self, request: Request) -> Parsed:
        unread = f"{request.name!r} cannot be read: "
        while not self._closed:
            fresh = not self._idle
            child = (await _launch(self._memory))[0] if fresh else self._idle.pop()
            self._alive.add(child)
            try:
                async with asyncio.timeout(self._seconds):
                    parsed = await _exchange(child, request)
                self._idle += () if self._closed else (child,)
                if isinstance(parsed, str):
                    raise UnreadableDocument(parsed)
                return parsed
            except TimeoutError:
                raise UnreadableDocument(
                    f"{unread}the parser died (time limit of {self._seconds:g} s)", retryable=True
                ) from None
            except msgspec.MsgspecError as error:
                raise UnreadableDocument(
                    f"{unread}its parser answered nonsense ({error})"
                ) from error
            except (EOFError, ConnectionError):
                reason = await _end(child, patience=1)
                if (
                    fresh and not self._closed
                ):  # a used child has ended its life, or died of the documents before: again with a new one
                    raise UnreadableDocument(
                        f"{unread}the parser died ({reason})", retryable=True
                    ) from None
            finally:
                if child not in self._idle:
                    await _end(child)
                    self._alive.discard(child)
        raise Unavailable("the parser pool is closed")


async def isolation(memory: int) -> str:
    """Start a child and return in words what bounds it on this machine. Raises Unavailable."""
    child, bounds = await _launch(memory)
    await _end(child)
    return bounds


async def _launch(memory: int) -> tuple[Process, str]:
    """Return a new child and what it says of its bounds. Raises Unavailable."""
    # -P: what lies in the working directory is no module of ours; -B: a child may write no files
    command = [
        sys.executable,
        "-P",
        "-B",
        "-c",
        "from ragqueue.parsers.child import main; main()",
        str(memory),
    ]
    # It finds the same modules but holds no keys; only POSIX lets Python start without the rest.
    environment = (
        {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        if os.name == "posix"
        else None
    )
    child, bounds = None, ""
    try:
        async with asyncio.timeout(_START):
            child = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, env=environment, limit=2**20
            )
            bounds = str(await _exchange(child, None))
        return child, bounds
    except (EOFError, OSError, msgspec.MsgspecError) as error:
        why = f"{await _end(child, patience=1)}: standard error says why" if child else error
        raise Unavailable(f"no parser process can be started ({why})") from error
    finally:
        if child and not bounds:
            await _end(child)


async def _exchange(child: Process, request: Request | None) -> Parsed | str:
    """Return the answer to a request, or the hello. Raises EOFError or ConnectionError when the child died, MsgspecError as _checked."""
    assert child.stdin
    assert child.stdout
    if request:
        body = msgspec.msgpack.encode(request)
        child.stdin.writelines((len(body).to_bytes(8, "big"), body))
        await child.stdin.drain()
    size = int.from_bytes(await child.stdout.readexactly(8), "big")
    if size > 1_000_000 + 16 * MAX_TEXT:
        raise msgspec.ValidationError(f"{size:,} bytes")
    return await asyncio.to_thread(
        _checked, await child.stdout.readexactly(size), request.id if request else ""
    )


async def _end(child: Process, *, patience: float = 0) -> str:
    """Kill a child, unless it ends by itself within so many seconds; say why it ended."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), patience)
    reason = _REASONS.get(child.returncode or 0, f"exit status {child.returncode}")
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()
    return reason


def _checked(body: bytes, request_id: str) -> Parsed | str:
    """Return an answer that holds together: a file may have taken its child over. Raises MsgspecError."""
    decoded: Answer = msgspec.msgpack.decode(body, type=Answer)
    answer_id, answer = decoded
    if answer_id != request_id:
        raise msgspec.ValidationError("it answers another document")
    parsed = Parsed("", ()) if isinstance(answer, str) else answer
    for before, block in itertools.pairwise((Block("paragraph", 0, 0), *parsed.blocks)):
        if not before.end <= block.start < block.end <= len(parsed.text):
            raise msgspec.ValidationError(
                f"block {block.start}-{block.end} does not stand in order in the text"
            )
    return answer
