"""What waits, who works, and with which settings."""

from typing import Any

from sqlalchemy import Connection

from ragqueue.cli.call import Call
from ragqueue.errors import without_password
from ragqueue.records import documents, gauges, workers
from ragqueue.settings import env_names


async def status(call: Call) -> None:
    """Show queues, workers and documents."""
    lately = 2 * call.settings.lease  # seconds

    def look(connection: Connection) -> tuple[gauges.Gauge, list[dict[str, Any]], Any]:
        gauge = gauges.gauge(connection, lately)
        alive = workers.alive(connection, lately)
        return gauge, alive, documents.counted(connection, call.tenant)

    gauge, alive, by_language = await call.records(look)
    states = sorted(gauge.states.items())
    call.show(
        {
            "jobs": {f"{lane} {state}": count for (lane, state), count in states},
            "oldest_s": gauge.oldest,
            "dead_letters": gauge.totals["dead_letters"],
            "documents": sum(count for count, _ in by_language.values()),
            "passages": sum(passages for _, passages in by_language.values()),
            "workers": alive,
        }
    )


def config_show(call: Call, origin: bool) -> None:
    """Print the settings in effect; secrets are hidden."""
    names = env_names(type(call.settings))
    values = {}
    for name, setting in call.settings:
        value = setting
        if not isinstance(value, int | float | None):
            value = without_password(value)
        if origin:
            value = {"value": value, "origin": call.origins[name]}
        values[names[name]] = value
    call.show(values)
