"""What waits, and who works."""

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ragqueue.records.gauges import Gauge


class Snapshot(NamedTuple):
    """What the records say at one moment."""

    gauge: "Gauge"
    workers: list[dict[str, Any]]
    languages: dict[str, tuple[int, int]]  # language -> (documents, passages) of the tenant


@click.command("status", cls=Command)
@options.tenant
@options.data
@options.json
def status(tenant: str, data: str | None, as_json: bool) -> None:
    """Show queues, workers and documents."""
    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    lately = 2 * call.settings.lease  # seconds
    snapshot = asyncio.run(call.read(_look, tenant, lately))
    jobs = sorted(snapshot.gauge.states.items())
    counts = snapshot.languages.values()
    call.show(
        {
            "jobs": {f"{lane} {state}": count for (lane, state), count in jobs},
            "oldest_s": snapshot.gauge.oldest,
            "dead_letters": snapshot.gauge.totals["dead_letters"],
            "documents": sum(documents for documents, _ in counts),
            "passages": sum(passages for _, passages in counts),
            "workers": snapshot.workers,
        }
    )


def _look(connection: "Connection", tenant: str, lately: float) -> Snapshot:
    from ragqueue.records import documents, gauges, workers

    return Snapshot(
        gauge=gauges.gauge(connection, lately),
        workers=workers.alive(connection, lately),
        languages=documents.counted(connection, tenant),
    )
