"""No cost that grows with the past: each statement of the system is planned on an index."""

import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from campaigns.services import PostgresServer
from ragqueue.embedded import Ragqueue
from ragqueue.errors import QueueFull
from ragqueue.jobs.submit import Bounds
from ragqueue.records import gauges, jobs
from ragqueue.records.schema import migrate, open_records, open_server
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
# Partial indexes of the jobs that live: PostgreSQL takes any of them when it believes that few do.
LIVING = {
    "jobs_cancelled",
    "jobs_leased",
    "jobs_oldest",
    "jobs_owner",
    "jobs_queued_deadline",
    "jobs_rung",
    "jobs_running_deadline",
    "jobs_unrung",
    "jobs_waiting",
}
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


async def live_once(folder: Path, database_url: str | None = None) -> None:
    """Let everything happen once: documents, answers, a cancel, an erasure, every look, metrics."""
    page = folder / "lease.md"
    page.write_text("# Lease\n\nA lease lasts ten seconds.\n")
    settings = {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "embedder": "none",
        "queue": "sql",
        "beat": 0.1,
        "drain": 0.0,
        "database_url": database_url,
    }
    async with Ragqueue(settings=settings) as ragqueue, AsyncExitStack() as stack:
        parts = ragqueue.runtime
        if not parts.queue.works_inside:
            await stack.enter_async_context(parts.working())
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
    assert wrong == {}


def test_a_scan_of_a_table_that_grows_is_noticed(tmp_path: Path) -> None:
    connection = sqlite_module.connect(tmp_path / "records.sqlite3")
    add_functions(connection)
    connection.execute("create table jobs (id, state)")

    found = scans(connection, "select id from jobs j where state = ?", ("queued",))

    connection.close()
    assert found == ["SCAN j"]


# A past that the planner has figures of: where there is next to nothing, one index is as good as
# another.
PAST = """
insert into jobs (tenant, id, kind, lane, state, payload, attempt, tries, deaths, place, run_at,
    deadline_at, cancel_requested, created_at, started_at, ended_at)
select 'default', 'past' || i, 'chat', 'chat', case when i %% 10 = 0 then 'queued' else 'succeeded'
    end, '{}', 1, 0, 0, i, i, i, false, i, i, case when i %% 10 = 0 then null else i end
from generate_series(1, 20000) i;
update jobs set kind = 'ingest', document_id = 'd' || id where place <= 2000;
insert into events (job_id, seq, type, data, at)
select 'past' || i, n, 'x', '{}', 0 from generate_series(1, 2000) i, generate_series(1, 10) n;
insert into quotes (tenant, document_id, job_id)
select 'default', 'd' || i %% 50, 'past' || i from generate_series(1, 20000) i;
insert into answers (tenant, job_id, attempt, body, created_at)
select 'default', 'past' || i, 1, '{}', 0 from generate_series(1, 20000) i;
insert into chunks (tenant, collection, generation, document_id, reading, start, "end",
    heading_path, language, tokens, length)
select 'default', 'default', 'keywords', 'd' || i %% 50, 1, 0, 1, '[]', 'en',
    '_mark w' || i %% 900, 1
from generate_series(1, 20000) i;
insert into versions (tenant, document_id, version, text, blocks, sha256, created_at)
select 'default', 'd' || i, 1, 'x', '[]', '', 0 from generate_series(1, 5000) i;
insert into documents (tenant, id, collection, source, media_type, title, version, state, sha256,
    language, chunks, created_at, updated_at)
select 'default', 'd' || i, 'default', 'd' || i, '', '', 1, 'ready', '', 'en', 1, 0, 0
from generate_series(1, 5000) i;
insert into removals (tenant, collection, generation, number, at)
select 'default', 'default', 'keywords', i, i from generate_series(1, 20000) i;
analyze"""


async def test_each_statement_is_planned_on_an_index_of_postgresql(
    tmp_path: Path, executed: Executed, postgres_server: PostgresServer
) -> None:
    url = f"{postgres_server.url}?schema=plans"
    records = open_server(url)
    migrate(records.engine)
    executed.clear()  # a migration may read all

    await live_once(tmp_path, url)

    ran = dict(executed)
    verbs = ("select", "insert", "update", "delete", "with")
    with records.engine.connect() as connection:
        for statement in PAST.split(";"):
            connection.exec_driver_sql(statement)
        wrong = {
            statement: found
            for statement, parameters in ran.items()
            if statement.strip().lower().startswith(verbs)
            and (found := unindexed(plan_of(connection, statement, parameters)))
        }
    records.close()
    assert len(ran) > 60  # the whole system ran
    assert wrong == {}


def plan_of(connection: Connection, statement: str, parameters: Any) -> dict[str, Any]:
    """Return the plan that PostgreSQL makes of a statement."""
    explain = f"explain (format json) {statement}"
    plan: dict[str, Any] = connection.exec_driver_sql(explain, parameters).scalar_one()[0]["Plan"]
    return plan


def unindexed(node: dict[str, Any]) -> list[str]:
    """Return the nodes of a plan that read a whole table or index which grows with the past."""
    found = []
    kind = node["Node Type"]
    table = node.get("Relation Name", "")
    index = node.get("Index Name", "")
    whole_index = kind.startswith("Index") and not node.get("Index Cond")
    if kind == "Seq Scan" and table not in SMALL:
        found.append(f"{kind} {table}")
    if whole_index and table not in SMALL and index not in TO_DO | LIVING:
        found.append(f"{kind} {index}")
    for child in node.get("Plans", ()):
        found += unindexed(child)
    return found
