"""Keep a few killable child processes that parse documents: a bomb ends its child, never its parent."""

import asyncio
import contextlib
import os
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
_REASONS = {77: "memory limit", 78: "time limit", -24: "time limit", -14: "time limit"}  # child.py's statuses, SIGXCPU, SIGALRM


class ParserDied(UnreadableDocument):
    """The process of a parser died on a document; who owns the document counts, and quarantines it after the third time."""

    retryable = True


class _Hello(msgspec.Struct):
    isolation: str


class _Answer(msgspec.Struct):
    parsed: Parsed | None = None
    code: str = "failed"
    message: str = ""


class ParserPool:
    """Parses each document in one of at most `processes` children; starts them when needed, reuses and replaces them.

    `memory` (bytes above the start) and `seconds` bound one document, `max_bytes` its file, `max_text` (characters) its text.
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
        self._memory, self._seconds = memory, seconds
        self._max_bytes, self._max_text = max_bytes, max_text
        self._table = table
        self._slots = asyncio.Semaphore(processes)
        self._idle: list[_Child] = []
        self._alive: set[_Child] = set()
        self._closed = False

    async def parse(self, data: bytes, name: str, media_type: str) -> Parsed:
        """Return what the parser of the media type makes of a file.

        Raises UnsupportedMedia, TooLarge, UnreadableDocument, ParserDied when the child died on it, Unavailable
        when no child can be started.
        """
        if media_type not in self._table:
            raise UnsupportedMedia(f"no parser reads {name!r} as {media_type!r}: allowed are {', '.join(self._table)}")
        if len(data) > self._max_bytes:
            raise TooLarge(f"{name!r} has {len(data):,} bytes, the limit is {self._max_bytes:,}")
        request = {"name": name, "target": self._table[media_type], "seconds": self._seconds, "max_text": self._max_text}
        async with self._slots:
            body = await self._answer(msgspec.json.encode(request), data, name)
        return await asyncio.to_thread(_read, body, name)

    async def close(self) -> None:
        """Kill every child; a parse that is under way fails."""
        self._closed = True
        self._idle.clear()
        await asyncio.gather(*(child.kill() for child in self._alive))
        self._alive.clear()

    async def _answer(self, request: bytes, data: bytes, name: str) -> bytes:
        while True:
            if self._closed:
                raise Unavailable("the parser pool is closed")
            child = self._idle.pop() if self._idle else await self._start()
            used = child.documents
            try:
                body = await child.ask(request, data, seconds=self._seconds, most=1_000_000 + 64 * self._max_text)
            except (EOFError, ConnectionError):
                reason = await child.reason()
                if used and not self._closed:
                    continue  # what it died of may be the documents before: this one gets a child of its own
                raise ParserDied(f"{name!r} cannot be read: the parser died ({reason})") from None
            except TimeoutError:
                raise ParserDied(f"{name!r} cannot be read: the parser died (time limit of {self._seconds:g} s)") from None
            finally:
                await self._return(child, used)
            return body

    async def _return(self, child: "_Child", used: int) -> None:
        if used < child.documents < _DOCUMENTS and not self._closed:
            self._idle.append(child)
            return
        self._alive.discard(child)
        await child.kill()

    async def _start(self) -> "_Child":
        process = await asyncio.create_subprocess_exec(
            *_command(self._memory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            limit=2**20,
        )
        child = _Child(process)
        self._alive.add(child)
        try:
            async with asyncio.timeout(_START):
                msgspec.json.decode(await child.receive(10_000), type=_Hello)
        except (EOFError, ConnectionError, TimeoutError, msgspec.MsgspecError) as error:
            self._alive.discard(child)
            await child.kill()
            raise Unavailable(
                f"no parser process can be started ({_reason(process.returncode)}): see its message on standard error"
            ) from error
        return child


class _Child:
    """One process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.documents = 0  # that it has answered

    async def ask(self, request: bytes, data: bytes, *, seconds: float, most: int) -> bytes:
        """Return the answer to a document. Raises EOFError or ConnectionError when the child died, TimeoutError."""
        async with asyncio.timeout(seconds):
            for part in (request, data):
                self._stdin.write(len(part).to_bytes(8, "big"))
                self._stdin.write(part)
            await self._stdin.drain()
            body = await self.receive(most)
        self.documents += 1
        return body

    async def receive(self, most: int) -> bytes:
        size = int.from_bytes(await self._stdout.readexactly(8), "big")
        if size > most:
            raise EOFError  # no answer of ours: as good as dead
        return await self._stdout.readexactly(size)

    async def reason(self) -> str:
        """Say why the child ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._process.wait()
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
    finished = subprocess.run(_command(memory), input=b"", capture_output=True, timeout=_START, env=_environment(), check=False)
    try:
        return msgspec.json.decode(finished.stdout[8:], type=_Hello).isolation
    except msgspec.MsgspecError:
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        return f"parsers cannot start ({_reason(finished.returncode)}): {lines[-1] if lines else 'no message'}"


def _command(memory: int) -> list[str]:
    # -P: what lies in the working directory is no module of ours; -B: the child may write no files
    return [sys.executable, "-P", "-B", "-m", "ragqueue.parsers.child", str(memory)]


def _environment() -> dict[str, str] | None:
    """Return an environment without keys and secrets that finds the same modules; None (all of it) where Python needs more to start."""
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))} if os.name == "posix" else None


def _reason(status: int | None) -> str:
    if status is None:
        return "it answered nonsense"
    if status in _REASONS:
        return _REASONS[status]
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"crash, signal {-status} {signal.Signals(-status).name}"
    return f"crash, signal {-status}"


def _read(body: bytes, name: str) -> Parsed:
    """Return the parsed document; believes nothing that a child says, for a file may have taken it over."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.MsgspecError as error:
        raise UnreadableDocument(f"{name!r} cannot be read: its parser answered nonsense ({error})") from error
    if answer.parsed is None:
        if answer.code == TooLarge.code:
            raise TooLarge(answer.message)
        raise UnreadableDocument(
            answer.message if answer.code == UnreadableDocument.code else f"{name!r} cannot be read: its parser failed ({answer.message})"
        )
    end = 0
    for block in answer.parsed.blocks:
        if not end <= block.start < block.end <= len(answer.parsed.text):
            raise UnreadableDocument(f"{name!r} cannot be read: its parser gave blocks that do not stand in order in the text")
        end = block.end
    if not answer.parsed.blocks:
        raise UnreadableDocument(f"{name!r} is empty: it holds no text that can be read")
    return answer.parsed
