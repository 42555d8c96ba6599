"""Delete documents while they are read and answered from, and look for what is left of them.

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from campaigns.faults.clients import blocks
from campaigns.faults.evidence import STATUSES
from campaigns.house import Bench, bench, machine, print_report, say
from campaigns.services import RedisServer

LIMIT = 120.0  # seconds that an erasure may take on a busy machine
MODELS = ("extractive", "scripted:rate=30&tokens=40")  # one quotes, one takes its time
ENGINES = ("sql", "rq")
POLL = 0.05  # seconds
HARM = ("stuck", "cancelled", "shown", "streamed", "left")  # what no round may count


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
        self._session = session
        self._url = url
        self._rng = rng
        self.canary = "canary" + uuid.uuid4().hex[:12]  # stands in the document and nowhere else
        self.document_id = ""
        self.upload_id = ""
        self.chats: list[str] = []  # ids of the questions' jobs
        self.heard: list[float] = []  # when a stream brought a word of the document
        self.erased_at: float | None = None
        self.cancelled = False

    async def live(self) -> None:
        """Upload, ask, delete at some moment, and wait for the receipt."""
        await self._upload()
        if self._rng.random() < 0.8:  # else it is deleted while it is being read
            await self._wait_for_end(f"/jobs/{self.upload_id}")
        async with asyncio.TaskGroup() as group:
            for _ in range(self._rng.choice((1, 2, 5, 10))):
                group.create_task(self._ask(self._rng.uniform(0, 0.6)))
            await asyncio.sleep(self._rng.uniform(0.02, 0.9))
            await self._delete()
        for chat in self.chats:
            await self._wait_for_end(f"/chat/{chat}")

    async def is_shown(self) -> bool:
        """Say whether the API shows a word of the document."""
        pages = [f"/chat/{chat}" for chat in self.chats]
        pages += [f"/chat/{chat}/events" for chat in self.chats]
        pages += [f"/jobs/{self.upload_id}", "/jobs?limit=100", "/documents?limit=500"]
        for page in pages:
            if self.canary in await self._page(page):
                return True
        hits = await self._page(f"/search?q=turbine+{self.canary}")
        # The word alone, as a whole string, would be the question's, told back.
        return self.canary in hits.replace(f'"{self.canary}"', "")

    async def _page(self, path: str) -> str:
        async with self._session.get(self._url + path) as response:
            return await response.text()

    async def _upload(self) -> None:
        paragraphs = [f"# Manual {self.canary}"]
        for n in range(8):
            sentence = f"The turbine {self.canary} is started with the red lever number {n}."
            paragraphs.append(sentence)
        text = "\n\n".join(paragraphs)
        form = aiohttp.FormData()
        form.add_field(
            "file", text.encode(), filename=f"{self.canary}.md", content_type="text/markdown"
        )
        async with self._session.post(f"{self._url}/documents", data=form) as response:
            body = await response.json()
        self.document_id = body["id"]
        self.upload_id = body["job_id"]

    async def _ask(self, wait: float) -> None:
        await asyncio.sleep(wait)
        question = {"question": f"How is the turbine started, number {self._rng.randint(1, 9)}?"}
        async with self._session.post(f"{self._url}/chat", json=question) as response:
            accepted = await response.json()
        chat = accepted["id"]
        self.chats.append(chat)
        if self._rng.random() < 0.5:
            await self._listen(f"{self._url}/chat/{chat}/events")

    async def _listen(self, url: str) -> None:
        async with self._session.get(url) as response:
            async for _, _, data in blocks(response):
                if self.canary in json.dumps(data):
                    self.heard.append(time.time())

    async def _delete(self) -> None:
        document = f"{self._url}/documents/{self.document_id}"
        async with self._session.delete(document) as response:
            accepted = await response.json()
        if self._rng.random() < 0.3:
            await self._try_to_cancel(accepted["job_id"])
        end = time.monotonic() + LIMIT
        while self.erased_at is None and time.monotonic() < end:
            async with self._session.get(f"{document}/receipt") as response:
                receipt = await response.json()
            if receipt["erased_at"]:
                self.erased_at = time.time()
            await asyncio.sleep(POLL)

    async def _try_to_cancel(self, job_id: str) -> None:
        async with self._session.post(f"{self._url}/jobs/{job_id}/cancel") as response:
            self.cancelled = response.status != 409

    async def _wait_for_end(self, path: str) -> None:
        while True:
            async with self._session.get(self._url + path) as response:
                job = await response.json()
            if job["status"] in STATUSES:
                return
            await asyncio.sleep(POLL)


class Campaign:
    """Rounds at once over one house."""

    def __init__(
        self, house: Bench, folders: Sequence[Path], report: Report, rng: random.Random
    ) -> None:
        self._url = f"http://127.0.0.1:{house.port}"
        self._folders = folders
        self._report = report
        self._rng = rng

    async def run(self, rounds: int, at_once: int) -> None:
        """Do so many rounds."""
        slots = asyncio.Semaphore(at_once)
        timeout = aiohttp.ClientTimeout(total=LIMIT + 60)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            tasks = [self._do_round(session, slots) for _ in range(rounds)]
            await asyncio.gather(*tasks)

    async def _do_round(self, session: aiohttp.ClientSession, slots: asyncio.Semaphore) -> None:
        async with slots:
            round_ = Round(session, self._url, random.Random(self._rng.random()))
            await round_.live()
            await self._judge(round_)

    async def _judge(self, round_: Round) -> None:
        report = self._report
        report.rounds += 1
        report.questions += len(round_.chats)
        if round_.cancelled:
            report.cancelled += 1
        if round_.erased_at is None:
            report.stuck += 1
            say(f"document {round_.document_id} is not erased after {LIMIT:.0f} s")
            return
        erased_by = round_.erased_at + POLL  # the receipt is polled
        if any(at > erased_by for at in round_.heard):
            report.streamed += 1
        if await round_.is_shown():
            report.shown += 1
            say(f"the API shows {round_.canary} of document {round_.document_id}")
        places = await asyncio.to_thread(self._places_of, round_.canary)
        if places:
            report.left += 1
            say(f"{round_.canary} of document {round_.document_id} is left in {places}")
        if report.rounds % 50 == 0:
            say(f"{report}")

    def _places_of(self, word: str) -> list[str]:
        """Return the names of the files that hold a word."""
        paths: list[Path] = []
        for folder in self._folders:
            paths += [path for path in folder.rglob("*") if path.is_file()]
        forms = (word.encode(), word.encode("utf-16-le"))
        places = []
        for path in paths:
            try:
                data = path.read_bytes()
            except OSError:
                continue  # Redis has just put another in its place
            if any(form in data for form in forms):
                places.append(path.name)
        return places


def run(engine: str, rounds: int, *, at_once: int = 8, seed: int = 1) -> dict[str, Any]:
    """Run the races and return the report."""
    report = Report(engine)
    rng = random.Random(seed)
    for model in MODELS:
        with _house(engine, model) as (house, folders):
            campaign = Campaign(house, folders, report, rng)
            asyncio.run(campaign.run(rounds // len(MODELS), at_once))
    return asdict(report) | machine()


@contextmanager
def _house(engine: str, model: str) -> Iterator[tuple[Bench, list[Path]]]:
    """Give an API and a worker, and the folders that everything is stored in."""
    with ExitStack() as stack:
        settings = {
            "LLM_MODEL": model,
            "RAGQUEUE_EMBEDDER": "none",
            "RAGQUEUE_BACKGROUND_CONCURRENCY": "4",
            "RAGQUEUE_QUEUE": "sql",
        }
        folders = []
        if engine == "rq":
            redis = stack.enter_context(RedisServer(appendonly=True))
            settings["RAGQUEUE_QUEUE"] = f"rq+{redis.url}"
            folders.append(redis.folder)
        house = stack.enter_context(bench(settings))
        folders += [house.folder / "data", house.folder / "vectors"]
        house.serve()
        house.work(50)
        yield house, folders


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says; status 1 when something was left."""
    parser = argparse.ArgumentParser(
        prog="dev.py erasures", description="Races deletes against everything that reads."
    )
    parser.add_argument("--engine", choices=ENGINES, default="sql")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    # So that everything that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = run(options.engine, options.rounds, at_once=options.at_once, seed=options.seed)
    print_report(report, as_json=options.json)
    return 1 if any(report[name] for name in HARM) else 0


if __name__ == "__main__":
    sys.exit(main())
