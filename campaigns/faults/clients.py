"""Clients of a kill loop: they ask, follow, are cut off, resume, and write down everything that they were told."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from campaigns.faults.auditor import STATUSES, TERMINAL

CUT = 0.25  # share of the connections that are cut
CUT_WITHIN = 14  # frames
POLLING, STREAMED_POST, SECOND_READER = 0.2, 0.25, 0.1  # shares of the clients
POLL = 0.25  # seconds
SILENCE = (
    40.0  # seconds without a byte (keep-alives come each 15) after which a connection is given up
)
TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class Transcript:
    """One JSON object a line, in the order in which things happened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, what: str, job_id: str, **facts: Any) -> None:
        """Note a fact."""
        self._file.write(
            json.dumps(
                {"what": what, "job": job_id, "at": round(time.time(), 4), **facts},
                ensure_ascii=False,
            )
            + "\n"
        )

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
        self._url, self._questions, self._transcript, self._rng = (
            f"http://127.0.0.1:{port}",
            questions,
            transcript,
            rng,
        )
        self._slots, self._patience = asyncio.Semaphore(at_once), patience
        self.counts = Counts()

    async def run(self, jobs: int, may_ask: Callable[[int], bool]) -> None:
        """Ask `jobs` questions, the n-th once `may_ask(n)`, and return when every client is done."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
        async with (
            aiohttp.ClientSession(
                timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for n in range(jobs):
                await self._slots.acquire()
                while not may_ask(n):
                    await asyncio.sleep(0.05)
                group.create_task(
                    self._live(
                        Client(session, self, self._rng.random()), self._rng.choice(self._questions)
                    )
                )

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
        return self._rng.randint(1, CUT_WITHIN) if self.chance(CUT) else None

    def note(self, what: str, job_id: str, **facts: Any) -> None:
        """Write a fact down."""
        self._transcript.write(what, job_id, **facts)

    @property
    def url(self) -> str:
        return self._url


class Client:
    """One question from its submission to its end."""

    def __init__(self, session: aiohttp.ClientSession, load: Clients, habit: float) -> None:
        self._session, self._load, self._habit = session, load, habit
        self._job_id = ""

    async def live(self, question: str) -> None:
        """Ask, learn the end, and look at the job once more."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if self._habit < STREAMED_POST:
            await self._ask_for_stream({"question": question}, headers)
        else:
            await self._ask({"question": question}, headers)
            if self._habit < 1 - POLLING:
                await self._follow_twice()
        await self._poll()

    async def _ask(self, body: dict[str, str], headers: dict[str, str]) -> None:
        while not self._job_id:
            try:
                async with self._session.post(
                    f"{self._load.url}/chat", json=body, headers=headers
                ) as response:
                    if response.status == 202:
                        self._acked((await response.json())["id"])
            except TROUBLE:
                pass
            if not self._job_id:
                await asyncio.sleep(0.3)

    async def _ask_for_stream(self, body: dict[str, str], headers: dict[str, str]) -> None:
        reader = Stream("post")
        while not self._job_id:
            accept = headers | {"Accept": "text/event-stream"}
            try:
                async with self._session.post(
                    f"{self._load.url}/chat", json=body, headers=accept
                ) as response:
                    if response.status == 200:
                        self._acked(response.headers["content-location"].rpartition("/")[2])
                        self._load.note("opened", self._job_id, reader=reader.name, last=None)
                        await self._read(response, reader)
            except TROUBLE:
                pass
            if not self._job_id:
                await asyncio.sleep(0.3)
        await self._follow(reader)

    def _acked(self, job_id: str) -> None:
        self._job_id = job_id
        self._load.counts.acked += 1
        self._load.note("acked", job_id)

    async def _follow_twice(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(Stream("first")))
            if self._load.chance(SECOND_READER):
                await asyncio.sleep(0.5)
                group.create_task(self._follow(Stream("second")))

    async def _follow(self, reader: "Stream") -> None:
        while not reader.ended:
            headers = {} if reader.last is None else {"Last-Event-ID": str(reader.last)}
            self._load.note("opened", self._job_id, reader=reader.name, last=reader.last)
            try:
                async with self._session.get(
                    f"{self._load.url}/chat/{self._job_id}/events", headers=headers
                ) as response:
                    if response.status == 200:
                        await self._read(response, reader)
                    else:
                        self._closed(reader, f"status {response.status}")
            except TROUBLE as error:
                self._closed(reader, type(error).__name__)
            if not reader.ended:
                await asyncio.sleep(0.05 if reader.was_cut else 0.3)

    async def _read(self, response: aiohttp.ClientResponse, reader: "Stream") -> None:
        """Take frames in until the stream ends or is cut. Raises what the connection raises."""
        cut, frames = self._load.cut(), 0
        self._load.counts.streaming += 1
        try:
            async for seq, type_, data in blocks(response):
                reader.take(seq, type_)
                self._load.note(
                    "frame",
                    self._job_id,
                    reader=reader.name,
                    seq=seq,
                    type=type_,
                    data=slim(type_, data),
                )
                frames += 1
                if reader.ended or frames == cut:
                    break
            reader.was_cut = frames == cut
            self._closed(reader, "cut" if reader.was_cut else "end")
        finally:
            self._load.counts.streaming -= 1
            response.close()

    def _closed(self, reader: "Stream", how: str) -> None:
        self._load.note("closed", self._job_id, reader=reader.name, how=how)

    async def _poll(self) -> None:
        """Look until the job has ended, then once more."""
        ended = 0
        while ended < 2:
            try:
                async with self._session.get(f"{self._load.url}/chat/{self._job_id}") as response:
                    if response.status == 200:
                        body = await response.json()
                        text = body["answer"]["text"] if body["answer"] else None
                        self._load.note("seen", self._job_id, status=body["status"], text=text)
                        ended += body["status"] in STATUSES
            except TROUBLE:
                pass
            if not ended:
                await asyncio.sleep(POLL)


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
        return {"response": {"answer": None if answer is None else {"text": answer["text"]}}}
    return {"delta": data["delta"]} if "delta" in data else {}


async def blocks(
    response: aiohttp.ClientResponse,
) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
    """Yield (id, type, data) of a stream's events; a block that was not finished is none."""
    pending = b""
    async for chunk in response.content.iter_any():
        *whole, pending = (pending + chunk).split(b"\n\n")
        for block in whole:
            fields = dict(
                line.split(b": ", 1)
                for line in block.split(b"\n")
                if b": " in line and not line.startswith(b":")
            )
            yield int(fields[b"id"]), fields[b"event"].decode(), json.loads(fields[b"data"])
