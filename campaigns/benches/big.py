"""`bench ingest --big`: what two large documents do to streams and to `POST /chat` meanwhile."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.house import PAGES, QUESTION, Bench, bench, events, machine, quantile, request

STREAMS = 20
RATE = 20  # tokens a second
IDLE_S = 20.0  # seconds for which the streams are watched before
LONGEST_S = 240.0  # that the two documents may take
SIZE = 10_000_000  # bytes of each document
PROBES_S = 5.0  # `POST /chat` a second meanwhile
BEAT = 3.0  # seconds between two beats of a worker, the default
MISSED = BEAT + 2.0  # seconds without a beat after which one was missed
LINE = "A lease of worker {n} lasts ten seconds and is renewed long before it runs out again"


@dataclass
class Watched:
    """What was seen while nothing, or something, came in."""

    gaps: list[float] = field(default_factory=list)  # ms that an event came later than its rate
    posts: list[float] = field(default_factory=list)  # ms
    missed_beats: int = 0


def measure() -> dict[str, object]:
    """Return what `--json` prints."""
    seconds = int(IDLE_S + LONGEST_S + 60)
    env = {
        "RAGQUEUE_QUEUE": "sql",
        "RAGQUEUE_EMBEDDER": "none",
        "LLM_MODEL": f"scripted:rate={RATE}&tokens={RATE * seconds}&stamp=1",
    }
    with bench(env) as house:
        house.run("status", "--json")
        house.serve()
        house.work(STREAMS + 20)
        idle, busy, took = asyncio.run(watch(house))
    return {
        "idle_stall_p99_ms": round(quantile(idle.gaps, 0.99), 1),
        "idle_stall_max_ms": round(max(idle.gaps), 1),
        "loop_stall_p99_ms": round(quantile(busy.gaps, 0.99), 1),
        "loop_stall_max_ms": round(max(busy.gaps), 1),
        "idle_post_p99_ms": round(quantile(idle.posts, 0.99), 1),
        "post_p99_ms": round(quantile(busy.posts, 0.99), 1),
        "missed_beats": busy.missed_beats,
        "took_s": round(took, 1),
        **machine(),
    }


async def watch(house: Bench) -> tuple[Watched, Watched, float]:
    """Watch the streams, first alone, then while the documents come in; seconds that they took."""
    text, pdf = large_text(), large_pdf()  # now: what takes long here would look like a stall
    for page in PAGES:  # one of them holds the answer
        await upload(house, page.name, page.read_bytes(), "text/markdown")
    idle = Watched()
    busy = Watched()
    seen = [idle]  # what is being filled now
    streams = [asyncio.create_task(follow(house, n, seen)) for n in range(STREAMS)]
    await asyncio.sleep(3.0)
    others = [asyncio.create_task(probe(house, seen)), asyncio.create_task(beats(house, seen))]
    idle.gaps.clear()
    await asyncio.sleep(IDLE_S)
    seen[0] = busy
    began = time.monotonic()
    await asyncio.gather(
        upload(house, "big.txt", text, "text/plain"),
        upload(house, "big.pdf", pdf, "application/pdf"),
    )
    took = time.monotonic() - began
    for task in [*streams, *others]:
        task.cancel()
    await asyncio.gather(*streams, *others, return_exceptions=True)
    return idle, busy, took


async def follow(house: Bench, n: int, seen: list[Watched]) -> None:
    """Note how much later than its rate each event of one stream comes."""
    body = {"question": f"{QUESTION} ({n})"}
    _, reader, writer = await request(house.port, "POST", "/chat", body, "text/event-stream")
    last = None
    try:
        async for _, event in events(reader):
            if "delta" not in event:
                continue
            now = time.perf_counter()
            if last is not None:
                seen[0].gaps.append(max(0.0, (now - last - 1 / RATE) * 1000))
            last = now
    finally:
        writer.close()


async def probe(house: Bench, seen: list[Watched]) -> None:
    """Post questions that nobody reads, and cancel them."""
    while True:
        began = time.perf_counter()
        _, reader, writer = await request(house.port, "POST", "/chat", {"question": QUESTION})
        accepted = json.loads(await reader.read())
        writer.close()
        seen[0].posts.append((time.perf_counter() - began) * 1000)
        _, _, writer = await request(house.port, "POST", accepted["links"]["cancel"])
        writer.close()
        await asyncio.sleep(max(0.0, 1 / PROBES_S - (time.perf_counter() - began)))


async def beats(house: Bench, seen: list[Watched]) -> None:
    """Count the beats that the worker missed."""
    connection = sqlite3.connect(Path(house.env["RAGQUEUE_DATA"]) / "records.sqlite3")
    is_late = False
    while True:
        (beat_at,) = connection.execute("select max(beat_at) from workers").fetchone()
        was_late, is_late = is_late, time.time() - beat_at > MISSED
        if is_late and not was_late:
            seen[0].missed_beats += 1
        await asyncio.sleep(0.2)


async def upload(house: Bench, name: str, data: bytes, media_type: str) -> None:
    """Bring a document in and wait until it is ready. Raises SystemExit when it cannot be."""
    disposition = f'form-data; name="file"; filename="{name}"'
    fields = [f"Content-Disposition: {disposition}", f"Content-Type: {media_type}"]
    head = "\r\n".join(["--B", *fields, "", ""])
    body = head.encode() + data + b"\r\n--B--\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    lines = [
        "POST /documents HTTP/1.1",
        "host: localhost",
        "content-type: multipart/form-data; boundary=B",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    job_id = json.loads(answer.partition(b"\r\n\r\n")[2])["job_id"]
    await until(lambda: has_ended(house, name, job_id))


async def has_ended(house: Bench, name: str, job_id: str) -> bool:
    _, reader, writer = await request(house.port, "GET", f"/jobs/{job_id}")
    job = json.loads(await reader.read())
    writer.close()
    if job["status"] in ("failed", "cancelled"):
        raise SystemExit(f"{name} could not be read: {job['error']}")
    return bool(job["status"] == "completed")


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + LONGEST_S
    while not await is_so():
        if time.monotonic() > end:
            raise SystemExit(f"a document took more than {LONGEST_S:.0f} s")
        await asyncio.sleep(0.5)


def large_text() -> bytes:
    """Return 10 MB of sentences in paragraphs."""
    lines = []
    size = 0
    n = 0
    while size < SIZE - 200:
        end = ".\n\n" if n % 8 == 7 else ". "
        lines.append(LINE.format(n=n) + end)
        size += len(lines[-1])
        n += 1
    return "".join(lines).encode()


def large_pdf() -> bytes:
    """Return a PDF of 10 MB whose pages hold nothing but text, uncompressed."""
    pages = []
    size = 0
    n = 0
    while size < SIZE - 20_000:
        rows = [f"({LINE.format(n=n + i)}.) Tj T*" for i in range(50)]
        pages.append("BT /F1 9 Tf 12 TL 40 780 Td\n" + "\n".join(rows) + "\nET")
        size += len(pages[-1]) + 220
        n += 50
    return assembled(pages)


def assembled(pages: list[str]) -> bytes:
    """Return a PDF with these contents, a page each."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, page in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        box = "/MediaBox [0 0 595 842]"
        contents = f"/Contents {5 + 2 * i} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} {resources} {contents} >>")
        objects.append(f"<< /Length {len(page)} >>\nstream\n{page}\nendstream")
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += "".join(f"{place:010} 00000 n \n" for place in places).encode()
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R >>"
    out += f"trailer {trailer}\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)
