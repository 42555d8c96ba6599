"""Keep a few killable child processes that parse documents: a bomb ends its child, never its parent."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping

import msgspec

from ragqueue.errors import TooLarge, Unavailable, UnreadableDocument, UnsupportedMedia
from ragqueue.parsers.table import PARSERS
from ragqueue.types import Parsed

_START = 30.0  # seconds that a child may take to say hello on a busy machine
_DOCUMENTS = 200  # after so many a child is replaced: native libraries keep what they once took
_REASONS = {77: "memory limit", -24: "time limit", -14: "time limit"}  # child.MEMORY_EXIT, SIGXCPU, SIGALRM


class ParserDied(UnreadableDocument):
    """The process of a parser died on a document; the document's owner counts, and quarantines it after the third time."""

    retryable = True


class _Hello(msgspec.Struct):
    isolation: str


class _Answer(msgspec.Struct):
    id: str  # of the request: what a document left in the pipe answers no other one
    parsed: Parsed | None = None
    code: str = "failed"
    message: str = ""


class ParserPool:
    """Parses each document in one of at most `processes` children, which it starts when needed, reuses and replaces.

    `memory` (bytes above the start) and `seconds` bound a document, `max_bytes` its file, `max_text` (characters) its text.
    """

    def __init__(
        self,
        *,
        processes: int = 1,
        memory: int = 1_200_000_000,
        seconds: float = 60.0,
        max_bytes: int = 50_000_000,
        max_text: int = 10_000_000,
        table: Mapping[str, str] = PARSERS,
    ) -> None:
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
            answer = await self._answer(data, name, self._table[media_type])
        if answer.parsed is not None and answer.parsed.blocks:
            return answer.parsed
        if answer.code == TooLarge.code:
            raise TooLarge(answer.message)
        if answer.code == UnreadableDocument.code:
            raise UnreadableDocument(answer.message)
        failed = answer.parsed is None
        raise UnreadableDocument(
            f"{name!r} cannot be read: its parser failed ({answer.message})"
            if failed
            else f"{name!r} is empty: it holds no text that can be read"
        )

    async def close(self) -> None:
        """Kill every child; a parse that is under way fails."""
        self._closed = True
        await asyncio.gather(*(child.kill() for child in self._alive))

    async def _answer(self, data: bytes, name: str, target: str) -> _Answer:
        request = {"id": secrets.token_hex(8), "name": name, "target": target, "seconds": self._seconds, "max_text": self._max_text}
        while True:
            if self._closed:
                raise Unavailable("the parser pool is closed")
            child = self._idle.pop() if self._idle else await self._start()
            used = child.answered
            try:
                async with asyncio.timeout(self._seconds):
                    body = await child.ask(msgspec.json.encode(request), data, most=1_000_000 + 16 * self._max_text)
                answer = await asyncio.to_thread(_read, body, request["id"])
                child.answered += 1
                return answer
            except TimeoutError:
                raise ParserDied(f"{name!r} cannot be read: the parser died (time limit of {self._seconds:g} s)") from None
            except msgspec.MsgspecError as error:
                raise UnreadableDocument(f"{name!r} cannot be read: its parser answered nonsense ({error})") from error
            except (EOFError, ConnectionError):
                reason = await child.reason()
                if not used and not self._closed:  # a used child may have died of the documents before: this one gets a new child
                    raise ParserDied(f"{name!r} cannot be read: the parser died ({reason})") from None
            finally:
                await self._put_back(child, child.answered > used)

    async def _put_back(self, child: "_Child", answered: bool) -> None:
        if answered and child.answered < _DOCUMENTS and not self._closed:
            self._idle.append(child)
        else:
            await child.kill()
            self._alive.discard(child)

    async def _start(self) -> "_Child":
        try:
            process = await asyncio.create_subprocess_exec(
                *_command(self._memory), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), limit=2**20
            )
        except OSError as error:
            raise Unavailable(f"no parser process can be started: {error}") from error
        child = _Child(process)
        self._alive.add(child)
        greeted = False
        try:
            async with asyncio.timeout(_START):
                greeted = bool(msgspec.json.decode(await child.receive(10_000), type=_Hello).isolation)
        except (EOFError, OSError, msgspec.MsgspecError) as error:
            raise Unavailable(f"no parser process can be started ({await child.reason()}): standard error says why") from error
        finally:
            if not greeted:
                await self._put_back(child, False)
        return child


class _Child:
    """One process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.answered = 0  # documents

    async def ask(self, request: bytes, data: bytes, *, most: int) -> bytes:
        """Return the answer to a document. Raises EOFError or ConnectionError when the child died."""
        for part in (request, data):
            self._stdin.write(len(part).to_bytes(8, "big"))
            self._stdin.write(part)
        await self._stdin.drain()
        return await self.receive(most)

    async def receive(self, most: int) -> bytes:
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
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._stdin.close()
        await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._stdin.wait_closed()


def isolation(*, memory: int = 1_200_000_000) -> str:
    """Start a child and return in words what bounds it on this machine; blocks for a moment."""
    child = subprocess.run(_command(memory), input=b"", capture_output=True, timeout=_START, env=_environment(), check=False)
    if child.returncode:
        return f"parsers cannot start ({_reason(child.returncode)}): {child.stderr.decode(errors='replace').strip()[-300:]}"
    return msgspec.json.decode(child.stdout[8:], type=_Hello).isolation


def _command(memory: int) -> list[str]:
    # -P: what lies in the working directory is no module of ours; -B: a child may write no files
    return [sys.executable, "-P", "-B", "-m", "ragqueue.parsers.child", str(memory)]


def _environment() -> dict[str, str] | None:
    """Return an environment that finds the same modules but holds no keys; None (all of it) where Python needs more to start."""
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))} if os.name == "posix" else None


def _reason(status: int | None) -> str:
    if status is None:
        return "it answered nonsense"
    if status >= 0 or status in _REASONS:
        return _REASONS.get(status, f"exit status {status}")
    named = {number.value: number.name for number in signal.Signals}
    return f"crash, signal {-status} {named.get(-status, '')}".rstrip()


def _read(body: bytes, request_id: object) -> _Answer:
    """Return an answer that holds together: a file may have taken its child over. Raises MsgspecError."""
    answer = msgspec.json.decode(body, type=_Answer)
    if answer.id != request_id:
        raise msgspec.ValidationError("it answers another document")
    if answer.parsed is not None:
        end = 0
        for block in answer.parsed.blocks:
            if not end <= block.start < block.end <= len(answer.parsed.text):
                raise msgspec.ValidationError(f"block {block.start}-{block.end} does not stand in order in the text")
            end = block.end
    return answer
