"""Clients of a kill loop: they ask, follow, are cut off, resume, and write down what they see."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from campaigns.faults.evidence import STATUSES, TERMINAL

CUT = 0.25  # share of the connections that are cut
CUT_WITHIN = 14  # frames
# Shares of the clients.
POLLING = 0.2
STREAMED_POST = 0.25
SECOND_READER = 0.1
POLL = 0.25  # seconds
RETRY = 0.3  # seconds after a request that failed
RESUME = 0.05  # seconds after a stream that was cut
# Seconds without a byte (keep-alives come each 15) after which a connection is given up.
SILENCE = 40.0
TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class Transcript:
    """One JSON object a line, in the order in which things happened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, what: str, job_id: str, **facts: Any) -> None:
        """Note a fact."""
        fact = {"what": what, "job": job_id, "at": round(time.time(), 4), **facts}
        self._file.write(json.dumps(fact, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Put everything on the disk."""
        self._file.close()


@dataclass
class Counts:
    """How far the clients are."""

    asked: int = 0
    acked: int = 0
    done: int = 0  # clients that were told the end, or gave up
    streaming: int = 0
    gave_up: int = 0


class Clients:
    """Asks questions with bounded concurrency, each by a client of a random habit."""

    def __init__(
        self,
        port: int,
        questions: Sequence[str],
        transcript: Transcript,
        rng: random.Random,
        *,
        at_once: int,
        patience: float,
    ) -> None:
        """`patience`: seconds after which a client stops asking for its answer."""
        self.url = f"http://127.0.0.1:{port}"
        self.counts = Counts()
        self._questions = questions
        self._transcript = transcript
        self._rng = rng
        self._slots = asyncio.Semaphore(at_once)
        self._patience = patience

    async def run(self, jobs: int, may_ask: Callable[[int], bool]) -> None:
        """Ask `jobs` questions, the n-th once `may_ask(n)`; return when every client is done."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for n in range(jobs):
                await self._slots.acquire()
                while not may_ask(n):
                    await asyncio.sleep(0.05)
                client = Client(session, self, habit=self._rng.random())
                question = self._rng.choice(self._questions)
                group.create_task(self._live(client, question))

    async def _live(self, client: "Client", question: str) -> None:
        try:
            self.counts.asked += 1
            async with asyncio.timeout(self._patience):
                await client.live(question)
        except TimeoutError:
            self.counts.gave_up += 1
        finally:
            self.counts.done += 1
            self._slots.release()

    def chance(self, share: float) -> bool:
        """Throw a die."""
        return self._rng.random() < share

    def cut(self) -> int | None:
        """Return after how many frames a connection is cut; None: not at all."""
        if not self.chance(CUT):
            return None
        return self._rng.randint(1, CUT_WITHIN)

    def note(self, what: str, job_id: str, **facts: Any) -> None:
        """Write a fact down."""
        self._transcript.write(what, job_id, **facts)


class Client:
    """One question from its submission to its end."""

    def __init__(self, session: aiohttp.ClientSession, clients: Clients, *, habit: float) -> None:
        """`habit`: 0..1, says how it asks and whether it follows."""
        self._session = session
        self._clients = clients
        self._habit = habit
        self._job_id = ""

    async def live(self, question: str) -> None:
        """Ask, learn the end, and look at the job once more."""
        body = {"question": question}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if self._habit < STREAMED_POST:
            await self._ask_for_stream(body, headers)
        else:
            await self._ask(body, headers)
            if self._habit < 1 - POLLING:
                await self._follow_twice()
        await self._poll()

    async def _ask(self, body: dict[str, str], headers: dict[str, str]) -> None:
        url = f"{self._clients.url}/chat"
        while not self._job_id:
            with suppress(*TROUBLE):
                async with self._session.post(url, json=body, headers=headers) as response:
                    if response.status == 202:
                        accepted = await response.json()
                        self._acked(accepted["id"])
            if not self._job_id:
                await asyncio.sleep(RETRY)

    async def _ask_for_stream(self, body: dict[str, str], headers: dict[str, str]) -> None:
        url = f"{self._clients.url}/chat"
        headers = headers | {"Accept": "text/event-stream"}
        reader = Stream("post")
        while not self._job_id:
            with suppress(*TROUBLE):
                async with self._session.post(url, json=body, headers=headers) as response:
                    if response.status == 200:
                        self._acked(response.headers["content-location"].rpartition("/")[2])
                        self._note("opened", reader, last=None)
                        await self._read(response, reader)
            if not self._job_id:
                await asyncio.sleep(RETRY)
        await self._follow(reader)

    def _acked(self, job_id: str) -> None:
        self._job_id = job_id
        self._clients.counts.acked += 1
        self._clients.note("acked", job_id)

    def _note(self, what: str, reader: "Stream", **facts: Any) -> None:
        self._clients.note(what, self._job_id, reader=reader.name, **facts)

    async def _follow_twice(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(Stream("first")))
            if self._clients.chance(SECOND_READER):
                await asyncio.sleep(0.5)
                group.create_task(self._follow(Stream("second")))

    async def _follow(self, reader: "Stream") -> None:
        url = f"{self._clients.url}/chat/{self._job_id}/events"
        while not reader.ended:
            headers = {}
            if reader.last is not None:
                headers["Last-Event-ID"] = str(reader.last)
            self._note("opened", reader, last=reader.last)
            try:
                async with self._session.get(url, headers=headers) as response:
                    if response.status == 200:
                        await self._read(response, reader)
                    else:
                        self._note("closed", reader, how=f"status {response.status}")
            except TROUBLE as error:
                self._note("closed", reader, how=type(error).__name__)
            if not reader.ended:
                await asyncio.sleep(RESUME if reader.was_cut else RETRY)

    async def _read(self, response: aiohttp.ClientResponse, reader: "Stream") -> None:
        """Take frames in until the stream ends or is cut. Raises what the connection raises."""
        cut = self._clients.cut()
        frames = 0
        self._clients.counts.streaming += 1
        try:
            async for seq, type_, data in blocks(response):
                reader.take(seq, type_)
                self._note("frame", reader, seq=seq, type=type_, data=slim(type_, data))
                frames += 1
                if reader.ended or frames == cut:
                    break
            reader.was_cut = frames == cut
            self._note("closed", reader, how="cut" if reader.was_cut else "end")
        finally:
            self._clients.counts.streaming -= 1
            response.close()

    async def _poll(self) -> None:
        """Look until the job has ended, then once more."""
        ends = 0
        while ends < 2:
            if await self._look():
                ends += 1
            if ends == 0:
                await asyncio.sleep(POLL)

    async def _look(self) -> bool:
        """Look at the job, write down what is there, and say whether it has ended."""
        with suppress(*TROUBLE):
            async with self._session.get(f"{self._clients.url}/chat/{self._job_id}") as response:
                if response.status != 200:
                    return False
                body = await response.json()
                status = body["status"]
                text = body["answer"]["text"] if body["answer"] else None
                self._clients.note("seen", self._job_id, status=status, text=text)
                return status in STATUSES
        return False


@dataclass
class Stream:
    """Where a reader is in a job's events."""

    name: str
    last: int | None = None
    ended: bool = False
    was_cut: bool = False

    def take(self, seq: int, type_: str) -> None:
        """Remember the place."""
        self.last = seq
        self.ended = type_ in TERMINAL


def slim(type_: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return what an audit reads of an event: passages and citations would fill the disk."""
    if type_ in TERMINAL:
        answer = data["response"].get("answer")
        if answer is not None:
            answer = {"text": answer["text"]}
        return {"response": {"answer": answer}}
    if "delta" in data:
        return {"delta": data["delta"]}
    return {}


async def blocks(
    response: aiohttp.ClientResponse,
) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
    """Yield (id, type, data) of a stream's events; a block that was not finished is none."""
    pending = b""
    async for chunk in response.content.iter_any():
        *whole, pending = (pending + chunk).split(b"\n\n")
        for block in whole:
            fields = _fields(block)
            yield int(fields[b"id"]), fields[b"event"].decode(), json.loads(fields[b"data"])


def _fields(block: bytes) -> dict[bytes, bytes]:
    """Return the fields of a block; a line that begins with a colon is a comment."""
    fields = {}
    for line in block.split(b"\n"):
        name, separator, value = line.partition(b": ")
        if separator and not line.startswith(b":"):
            fields[name] = value
    return fields
