"""Delete documents while they are read and answered from, and look afterwards for a word of theirs everywhere.

python3 dev.py erasures --engine sql|rq --rounds N [--at-once N] [--seed X] [--json]
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from campaigns.faults.clients import blocks
from campaigns.house import Bench, bench, machine
from campaigns.services import RedisServer

LIMIT = 120.0  # seconds that an erasure may take on a busy machine
MODELS = ("extractive", "scripted:rate=30&tokens=40")  # one quotes, one takes its time
ENDED = ("completed", "incomplete", "failed", "cancelled")


@dataclass
class Report:
    """What `erasures --json` prints: rounds, and how many of them left something."""

    engine: str
    rounds: int = 0
    questions: int = 0
    stuck: int = 0  # no `erased_at` within the limit
    cancelled: int = 0  # a delete job took a cancel
    shown: int = 0  # the API still shows a word of the document
    streamed: int = 0  # a stream sent one after the receipt had said `erased`
    left: int = 0  # a file still holds one


class Round:
    """One document from its upload to its receipt."""

    def __init__(self, session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
        self._session, self._url, self._rng = session, url, rng
        self.canary = "canary" + uuid.uuid4().hex[:12]
        self.document_id = self.upload_id = ""
        self.chats: list[str] = []
        self.heard: list[float] = []  # when a stream brought a word of the document
        self.erased_at: float | None = None
        self.cancelled = False

    async def live(self) -> None:
        """Upload, ask, delete at some moment, and wait for the receipt."""
        await self._upload()
        if self._rng.random() < 0.8:  # else it is deleted while it is being read
            await self._ended(f"/jobs/{self.upload_id}")
        async with asyncio.TaskGroup() as group:
            for _ in range(self._rng.choice((1, 2, 5, 10))):
                group.create_task(self._ask(self._rng.uniform(0, 0.6)))
            await asyncio.sleep(self._rng.uniform(0.02, 0.9))
            await self._delete()
        for chat in self.chats:
            await self._ended(f"/chat/{chat}")

    async def shown(self) -> bool:
        """Say whether the API shows a word of the document."""
        pages = [f"/chat/{chat}" for chat in self.chats] + [
            f"/chat/{chat}/events" for chat in self.chats
        ]
        pages += [
            f"/search?q=turbine+{self.canary}",
            f"/jobs/{self.upload_id}",
            "/jobs?limit=100",
            "/documents?limit=500",
        ]
        for page in pages:
            async with self._session.get(self._url + page) as response:
                text = await response.text()
            if self.canary in (
                text.replace(f'"{self.canary}"', "") if page.startswith("/search") else text
            ):
                return True
        return False

    async def _upload(self) -> None:
        lines = [
            f"The turbine {self.canary} is started with the red lever number {n}." for n in range(8)
        ]
        form = aiohttp.FormData()
        text = f"# Manual {self.canary}\n\n" + "\n\n".join(lines)
        form.add_field(
            "file", text.encode(), filename=f"{self.canary}.md", content_type="text/markdown"
        )
        async with self._session.post(f"{self._url}/documents", data=form) as response:
            body = await response.json()
        self.document_id, self.upload_id = body["id"], body["job_id"]

    async def _ask(self, wait: float) -> None:
        await asyncio.sleep(wait)
        question = {"question": f"How is the turbine started, number {self._rng.randint(1, 9)}?"}
        async with self._session.post(f"{self._url}/chat", json=question) as response:
            chat = (await response.json())["id"]
        self.chats.append(chat)
        if self._rng.random() < 0.5:
            async with self._session.get(f"{self._url}/chat/{chat}/events") as response:
                async for _, _, data in blocks(response):
                    if self.canary in json.dumps(data):
                        self.heard.append(time.time())

    async def _delete(self) -> None:
        async with self._session.delete(f"{self._url}/documents/{self.document_id}") as response:
            job_id = (await response.json())["job_id"]
        if self._rng.random() < 0.3:
            async with self._session.post(f"{self._url}/jobs/{job_id}/cancel") as response:
                self.cancelled = response.status != 409
        end = time.monotonic() + LIMIT
        while self.erased_at is None and time.monotonic() < end:
            async with self._session.get(
                f"{self._url}/documents/{self.document_id}/receipt"
            ) as response:
                if (await response.json())["erased_at"]:
                    self.erased_at = time.time()
            await asyncio.sleep(0.05)

    async def _ended(self, path: str) -> dict[str, Any]:
        while True:
            async with self._session.get(self._url + path) as response:
                body: dict[str, Any] = await response.json()
            if body["status"] in ENDED:
                return body
            await asyncio.sleep(0.05)


class Campaign:
    """Rounds at once over one house."""

    def __init__(
        self, house: Bench, folders: Sequence[Path], report: Report, rng: random.Random
    ) -> None:
        self._url = f"http://127.0.0.1:{house.port}"
        self._folders, self._report, self._rng = folders, report, rng

    async def run(self, rounds: int, at_once: int) -> None:
        """Do so many rounds."""
        slots = asyncio.Semaphore(at_once)
        timeout = aiohttp.ClientTimeout(total=LIMIT + 60)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        ) as session:

            async def one() -> None:
                async with slots:
                    await self._judge(Round(session, self._url, random.Random(self._rng.random())))

            await asyncio.gather(*(one() for _ in range(rounds)))

    async def _judge(self, one: Round) -> None:
        await one.live()
        report = self._report
        report.rounds += 1
        report.questions += len(one.chats)
        report.cancelled += one.cancelled
        if one.erased_at is None:
            report.stuck += 1
            _say(f"document {one.document_id} is not erased after {LIMIT:.0f} s")
            return
        late = [
            heard for heard in one.heard if heard > one.erased_at + 0.05
        ]  # the receipt is polled
        report.streamed += bool(late)
        if await one.shown():
            report.shown += 1
            _say(f"the API shows {one.canary} of document {one.document_id}")
        if places := await asyncio.to_thread(self._places, one.canary.encode()):
            report.left += 1
            _say(f"{one.canary} of document {one.document_id} is left in {places}")
        if report.rounds % 50 == 0:
            _say(f"{report}")

    def _places(self, words: bytes) -> list[str]:
        files = [path for folder in self._folders for path in folder.rglob("*") if path.is_file()]
        found = []
        for path in files:
            try:
                data = path.read_bytes()
            except OSError:
                continue  # Redis has just put another in its place
            if words in data or words.decode().encode("utf-16-le") in data:
                found.append(path.name)
        return found


def run(engine: str, rounds: int, *, at_once: int = 8, seed: int = 1) -> dict[str, Any]:
    """Run the races and return the report."""
    report, rng = Report(engine), random.Random(seed)
    for model in MODELS:
        server = RedisServer(appendonly=True) if engine == "rq" else nullcontext()
        with server as redis:
            settings = {
                "LLM_MODEL": model,
                "RAGQUEUE_EMBEDDER": "none",
                "RAGQUEUE_BACKGROUND_CONCURRENCY": "4",
            }
            settings["RAGQUEUE_QUEUE"] = f"rq+{redis.url}" if redis else "sql"
            with bench(settings) as house:
                house.serve()
                house.work(50)
                folders = [house.folder / "data", house.folder / "vectors"] + (
                    [redis.folder] if redis else []
                )
                asyncio.run(
                    Campaign(house, folders, report, rng).run(rounds // len(MODELS), at_once)
                )
    return asdict(report) | machine()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says; status 1 when something was left."""
    parser = argparse.ArgumentParser(
        prog="dev.py erasures", description="Races deletes against everything that reads."
    )
    parser.add_argument("--engine", choices=("sql", "rq"), default="sql")
    for name, default in (("rounds", 100), ("at-once", 8), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that everything that was started is ended
    found = run(options.engine, options.rounds, at_once=options.at_once, seed=options.seed)
    print(
        json.dumps(found)
        if options.json
        else "\n".join(f"{name:20} {value}" for name, value in found.items())
    )
    return int(any(found[name] for name in ("stuck", "cancelled", "shown", "streamed", "left")))


if __name__ == "__main__":
    sys.exit(main())
