"""No cost that grows with the past: each statement of the system is planned on an index."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from ragqueue.embedded import Ragqueue
from ragqueue.errors import QueueFull
from ragqueue.jobs.submit import Bounds
from ragqueue.records import gauges, jobs
from ragqueue.records.schema import migrate, open_records
from ragqueue.records.sqlite import add_functions, sqlite_module

# What may be read whole, for it does not grow with the past: what lives now, tallies and keys.
SMALL = {
    "tallies",
    "counters",
    "workers",
    "api_keys",
    "facts",
    "spaces",
    "alembic_version",
    "readings",
}
# Partial indexes that hold nothing but what somebody must still do.
TO_DO = {"jobs_dead_letters", "documents_erasing"}
Executed = dict[str, Any]  # statement -> its last parameters


@pytest.fixture
def executed() -> Iterator[Executed]:
    """Collect every statement that any engine of this process runs."""
    collected: Executed = {}

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        collected[statement] = parameters[0] if many else parameters

    event.listen(Engine, "before_cursor_execute", note)
    yield collected
    event.remove(Engine, "before_cursor_execute", note)


async def live_once(folder: Path) -> None:
    """Let everything happen once: documents, answers, a cancel, an erasure, every look, metrics."""
    page = folder / "lease.md"
    page.write_text("# Lease\n\nA lease lasts ten seconds.\n")
    settings = {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "embedder": "none",
        "queue": "sql",
        "beat": 0.1,
    }
    async with Ragqueue(settings=settings) as ragqueue:
        parts = ragqueue.runtime
        await ragqueue.ingest(page)
        page.write_text("# Lease\n\nA lease lasts twelve seconds.\n")
        await ragqueue.ingest(page)
        answer = await ragqueue.ask("How long does a lease last?")
        await ragqueue.search("lease")
        for state, kind, after in (("queued", "chat", (1.0, "a")), (None, None, None)):
            await parts.records.read(
                jobs.listed, "default", state=state, kind=kind, after=after, limit=10
            )
        await parts.records.read(gauges.gauge, 10.0)
        await ragqueue.delete(answer.citations[0].document_id)
        parts.submitter._bounds = Bounds(of_all=0, of_tenant=0)
        with pytest.raises(QueueFull):
            await parts.submitter.submit("default", "chat", {"question": "?"})
        for step, _ in parts.reconciler.looks():
            await step()
        await parts.records.note(jobs.ring_lost, "chat", empty=False, age=0.0, looked=0.0)
        await parts.records.write(jobs.request_cancel, "default", "nobody")
        await parts.records.write(jobs.release)
        await parts.records.write(jobs.release, "nobody")


def scans(connection: Any, statement: str, parameters: Any) -> list[str]:
    """Return the steps of a statement's plan that read a whole table or index."""
    plan = connection.execute(f"explain query plan {statement}", parameters).fetchall()
    steps = [row[3] for row in plan if row[3].startswith("SCAN ")]
    return [step for step in steps if not is_bounded(step)]


def is_bounded(step: str) -> bool:
    table = step.split()[1]
    index = re.search(r"INDEX (\w+)", step)
    if "VIRTUAL TABLE" in step or "CONSTANT ROW" in step or table in SMALL:
        return True
    return index is not None and index[1] in TO_DO


async def test_each_statement_is_planned_on_an_index(tmp_path: Path, executed: Executed) -> None:
    records = open_records(tmp_path / "data")
    migrate(records.engine)
    records.close()
    executed.clear()  # a migration may read all

    await live_once(tmp_path)

    connection = sqlite_module.connect(tmp_path / "data" / "records.sqlite3")
    add_functions(connection)
    verbs = ("select", "insert", "update", "delete", "with")
    wrong = {
        statement: found
        for statement, parameters in executed.items()
        if statement.strip().lower().startswith(verbs)
        and (found := scans(connection, statement, parameters))
    }
    connection.close()

    assert len(executed) > 60  # the whole system ran
    assert not wrong


def test_a_scan_of_a_table_that_grows_is_noticed(tmp_path: Path) -> None:
    connection = sqlite_module.connect(tmp_path / "records.sqlite3")
    add_functions(connection)
    connection.execute("create table jobs (id, state)")

    found = scans(connection, "select id from jobs j where state = ?", ("queued",))

    connection.close()
    assert found == ["SCAN j"]
