"""What waits, who works, and with which settings."""

from ragqueue.cli.call import Call
from ragqueue.errors import without_password
from ragqueue.records import documents, workers
from ragqueue.settings import ENV_NAMES


async def status(call: Call) -> None:
    age = 2 * call.settings.lease
    gauge, alive, counted = await call.records(
        lambda c: (workers.gauge(c, age), workers.alive(c, age), documents.counted(c, call.tenant))
    )
    ready, passages = map(sum, zip((0, 0), *counted.values(), strict=True))
    counts = {f"{lane} {state}": count for (lane, state), count in sorted(gauge.states.items())}
    found = {
        "jobs": counts,
        "oldest_s": gauge.oldest,
        "dead_letters": gauge.totals["dead_letters"],
        "documents": ready,
    }
    call.show(found | {"passages": passages, "workers": alive})


def config_show(call: Call, origin: bool) -> None:
    shown = {
        name: value if isinstance(value, int | float | None) else without_password(value)
        for name, value in call.settings
    }
    call.show(
        {
            ENV_NAMES[name]: {"value": shown[name], "origin": call.origins[name]}
            if origin
            else shown[name]
            for name in shown
        }
    )
