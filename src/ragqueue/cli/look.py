"""What a command is given, and the commands that need no more than that: little is imported, so they are quick."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from ragqueue.errors import NotFound, without_password
from ragqueue.jobs.views import job_view
from ragqueue.records import documents, jobs, keys, workers
from ragqueue.records.schema import migrate, open_records
from ragqueue.settings import ENV_NAMES, load
from ragqueue.telemetry import configure_logging

UNBROKEN = 100_000  # columns of what is no terminal: who reads a pipe wants whole lines


class Call:
    """One command as it was called: its settings, whose records it looks at, and how it prints (`as_json` None: it has no `--json`)."""

    def __init__(self, flags: Mapping[str, Any], as_json: bool | None, tenant: str) -> None:
        self.flags, self.as_json, self.tenant = flags, as_json, tenant
        self.settings, self.origins = load(flags)
        configure_logging("ERROR" if as_json is not None else self.settings.log_level, self.settings.log_format)

    def show(self, value: Mapping[str, Any], *columns: str) -> None:
        """Print an object as one line of JSON; for people as a table of its fields, and one of each list with these columns."""
        if self.as_json:
            return print(json.dumps(value, ensure_ascii=False), flush=True)
        fields = [{"field": name, "value": found} for name, found in value.items() if not isinstance(found, list)]
        for rows in filter(None, (fields, *(found for found in value.values() if isinstance(found, list)))):
            names = columns or list(rows[0])
            table = Table(*(Column(name, no_wrap=name == "id") for name in names), box=None, header_style="bold", pad_edge=False)
            for row in rows:
                table.add_row(*(_cell(row[name]) for name in names))
            width = None if sys.stdout.isatty() else UNBROKEN
            Console(width=width, soft_wrap=True, markup=False, emoji=False, highlight=False).print(table)

    async def records(self, function: Callable[..., Any], *args: Any, wanted: str = "", write: bool = False) -> Any:
        """Return `function(connection, *args)` of the records. Raises NotFound when what is wanted is not there."""
        with closing(open_records(self.settings.data)) as records:
            migrate(records.engine)
            found = await (records.write if write else records.read)(function, *args)
        if wanted and not found:
            raise NotFound(f"there is no {wanted}: `list` shows what there is")
        return found


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {found}" for name, found in value.items())
    return "" if value is None else str(value)


async def docs_list(call: Call, collection: str | None) -> None:
    found = await call.records(lambda c: documents.listed(c, call.tenant, collection=collection, after="", limit=100_000))
    call.show({"documents": [document._asdict() for document in found]}, "id", "collection", "source", "state", "chunks", "error")


async def docs_show(call: Call, document_id: str, text: bool) -> None:
    document = await call.records(documents.get, call.tenant, document_id, wanted=f"document {document_id!r}")
    if not text:
        return call.show(document._asdict())
    print((await call.records(documents.text_of, call.tenant, document_id, None, wanted=f"text of {document_id!r}"))[0])


async def jobs_list(call: Call, state: str | None, kind: str | None, limit: int) -> None:
    found = await call.records(lambda c: jobs.listed(c, call.tenant, state=state, kind=kind, after=None, limit=limit))
    call.show({"jobs": [job_view(job) for job in found]}, "id", "kind", "status", "attempt", "tries", "deaths", "error")


async def jobs_show(call: Call, job_id: str) -> None:
    call.show(job_view(await call.records(jobs.get, call.tenant, job_id, wanted=f"job {job_id!r}")))


async def keys_create(call: Call, name: str) -> None:
    key = await call.records(keys.create, call.tenant, name, write=True)
    call.show({"key": key, "tenant": call.tenant, "name": name}) if call.as_json else print(key)


async def keys_list(call: Call) -> None:
    call.show({"keys": await call.records(keys.listed)}, "id", "tenant", "name", "revoked_at")


async def keys_revoke(call: Call, key_id: str) -> None:
    await call.records(keys.revoke, key_id, wanted=f"valid key {key_id!r}", write=True)
    call.show({"revoked": key_id})


async def status(call: Call) -> None:
    age = 2 * call.settings.lease
    gauge, alive, counted = await call.records(lambda c: (workers.gauge(c, age), workers.alive(c, age), documents.counted(c, call.tenant)))
    ready, passages = map(sum, zip((0, 0), *counted.values(), strict=True))
    counts = {f"{lane} {state}": count for (lane, state), count in sorted(gauge.states.items())}
    found = {"jobs": counts, "oldest_s": gauge.oldest, "dead_letters": gauge.totals["dead_letters"], "documents": ready}
    call.show(found | {"passages": passages, "workers": alive})


def config_show(call: Call, origin: bool) -> None:
    shown = {name: value if isinstance(value, int | float | None) else without_password(value) for name, value in call.settings}
    call.show({ENV_NAMES[name]: {"value": shown[name], "origin": call.origins[name]} if origin else shown[name] for name in shown})
