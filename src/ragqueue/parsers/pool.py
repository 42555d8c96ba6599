"""Keep a few killable child processes that parse documents: a bomb ends its child, never its parent."""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping

import msgspec

from ragqueue.errors import TooLarge, Unavailable, UnreadableDocument, UnsupportedMedia
from ragqueue.parsers.child import MEMORY_EXIT, Answer, Request
from ragqueue.parsers.table import PARSERS
from ragqueue.types import Block, Parsed

_START = 30.0  # seconds that a child may take to say hello on a busy machine
_DOCUMENTS = 200  # after so many a child is replaced: native libraries keep what they once took
_CRASHES = {-known: f"crash, signal {known:d} {known.name}" for known in signal.Signals if known.name.startswith("SIG")}
_REASONS = _CRASHES | {MEMORY_EXIT: "memory limit", -24: "time limit", -14: "time limit", None: "it answered nonsense"}  # SIGXCPU, SIGALRM


class ParserDied(UnreadableDocument):
    """The process of a parser died on a document; the document's owner counts, and quarantines it after the third time."""

    retryable = True


class ParserPool:
    """Parses each document in one of at most `processes` children, which it starts when needed, reuses and replaces.

    `memory` (bytes above the start) and `seconds` bound a document, `max_bytes` its file, `max_text` (characters) its text.
    """

    def __init__(
        self, *, processes: int = 1, memory: int = 1_200_000_000, seconds: float = 60.0, max_bytes: int = 50_000_000,
        max_text: int = 10_000_000, table: Mapping[str, str] = PARSERS,
    ) -> None:  # fmt: skip
        self._memory, self._seconds, self._max_bytes, self._max_text, self._table = memory, seconds, max_bytes, max_text, table
        self._slots = asyncio.Semaphore(processes)
        self._idle: list[_Child] = []
        self._alive: set[_Child] = set()
        self._closed = False

    async def parse(self, data: bytes, name: str, media_type: str) -> Parsed:
        """Return what the parser of this media type makes of a file.

        Raises UnsupportedMedia, TooLarge, UnreadableDocument (ParserDied when a child died on it), Unavailable when none can start.
        """
        if media_type not in self._table:
            raise UnsupportedMedia(f"no parser reads {name!r} as {media_type!r}: allowed are {', '.join(self._table)}")
        if len(data) > self._max_bytes:
            raise TooLarge(f"{name!r} has {len(data):,} bytes, the limit is {self._max_bytes:,}")
        async with self._slots:
            answer = await self._ask(Request(secrets.token_hex(8), self._table[media_type], name, data, self._seconds, self._max_text))
        if answer.parsed is None:
            raise (TooLarge if answer.code == TooLarge.code else UnreadableDocument)(answer.message)
        return answer.parsed

    async def close(self) -> None:
        """Kill every child; a parse that is under way fails."""
        self._closed = True
        await asyncio.gather(*(child.kill() for child in self._alive))

    async def _ask(self, request: Request) -> Answer:
        unread = f"{request.name!r} cannot be read: "
        while not self._closed:
            child = self._idle.pop() if self._idle else await _launch(self._memory)
            self._alive.add(child)
            used = child.answered
            try:
                if not used:
                    await child.greet()
                async with asyncio.timeout(self._seconds):
                    body = await child.ask(msgspec.msgpack.encode(request), most=1_000_000 + 16 * self._max_text)
                answer = await asyncio.to_thread(_read, body, request.id)
                child.answered += 1
                return answer
            except TimeoutError:
                raise ParserDied(f"{unread}the parser died (time limit of {self._seconds:g} s)") from None
            except msgspec.MsgspecError as error:
                raise UnreadableDocument(f"{unread}its parser answered nonsense ({error})") from error
            except (EOFError, ConnectionError):
                reason = await child.reason()
                if not used and not self._closed:  # a used child may have died of the documents before: this one gets a new child
                    raise ParserDied(f"{unread}the parser died ({reason})") from None
            finally:
                if used < child.answered < _DOCUMENTS and not self._closed:
                    self._idle.append(child)
                else:
                    await child.kill()
                    self._alive.discard(child)
        raise Unavailable("the parser pool is closed")


class _Child:
    """One process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.answered = 0  # documents

    async def greet(self) -> None:
        """Wait for the hello. Raises Unavailable."""
        try:
            async with asyncio.timeout(_START):
                await self._receive(10_000)
        except (EOFError, OSError) as error:
            raise Unavailable(f"no parser process can be started ({await self.reason()}): standard error says why") from error

    async def ask(self, request: bytes, *, most: int) -> bytes:
        """Return the answer to a document. Raises EOFError or ConnectionError when the child died."""
        self._stdin.write(len(request).to_bytes(8, "big"))
        self._stdin.write(request)
        await self._stdin.drain()
        return await self._receive(most)

    async def _receive(self, most: int) -> bytes:
        size = int.from_bytes(await self._stdout.readexactly(8), "big")
        if size > most:
            raise EOFError  # no answer of ours: as good as dead
        return await self._stdout.readexactly(size)

    async def reason(self) -> str:
        """Say why the child ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 1)
        return _reason(self._process.returncode)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._stdin.wait_closed()


async def _launch(memory: int) -> _Child:
    (command, environment), pipe = _start_of(memory), subprocess.PIPE
    try:
        return _Child(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment, limit=2**20))
    except OSError as error:
        raise Unavailable(f"no parser process can be started: {error}") from error


def isolation(*, memory: int = 1_200_000_000) -> str:
    """Start a child and return in words what bounds it on this machine; blocks for a moment."""
    command, environment = _start_of(memory)
    child = subprocess.run(command, input=b"", capture_output=True, timeout=_START, env=environment, check=False)
    if child.returncode:
        return f"parsers cannot start ({_reason(child.returncode)}): {child.stderr.decode(errors='replace').strip()[-300:]}"
    return msgspec.msgpack.decode(child.stdout[8:], type=Answer).message


def _start_of(memory: int) -> tuple[list[str], dict[str, str] | None]:
    """Return command and environment, which finds the same modules but holds no keys; None (all of it) where Python needs more to start."""
    # -P: what lies in the working directory is no module of ours; -B: a child may write no files
    command = [sys.executable, "-P", "-B", "-m", "ragqueue.parsers.child", str(memory)]
    return command, {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))} if os.name == "posix" else None


def _reason(status: int | None) -> str:
    return _REASONS.get(status, f"exit status {status}")


def _read(body: bytes, request_id: str) -> Answer:
    """Return an answer that holds together: a file may have taken its child over. Raises MsgspecError."""
    answer = msgspec.msgpack.decode(body, type=Answer)
    if answer.id != request_id:
        raise msgspec.ValidationError("it answers another document")
    text, blocks = (answer.parsed.text, answer.parsed.blocks) if answer.parsed is not None else ("", ())
    for before, block in itertools.pairwise([Block("paragraph", 0, 0), *blocks]):
        if not before.end <= block.start < block.end <= len(text):
            raise msgspec.ValidationError(f"block {block.start}-{block.end} does not stand in order in the text")
    return answer
