"""The command line as one table; what a command needs is imported when it runs, so that `--help` costs nothing."""

import asyncio
import io
import os
import pkgutil
import sys
from functools import partial
from typing import Any

import click

from ragqueue.errors import ConfigError, RagqueueError
from ragqueue.storable import check_storable

_FLAGS = ("data", "host", "port", "processes", "concurrency")  # options that are settings
_HELP = "Answer questions over a team's own documents, under load, and lose nothing."
_flag = partial(click.Option, is_flag=True)
DATA = click.Option(
    ["--data"], type=click.Path(file_okay=False), help="Folder of the database (RAGQUEUE_DATA)"
)
JSON = _flag(["--json", "as_json"], help="Print one JSON object as the last line")
TENANT = click.Option(["--tenant"], default="default", show_default=True, help="Whose")
COLLECTION = click.Option(["--collection"], help="Only documents of this collection")
INTO = click.Option(
    ["--collection"], default="default", help="Collection that the documents belong to"
)
HOST = click.Option(["--host"], help="Address to bind (RAGQUEUE_HOST)")
PORT = click.Option(["--port"], type=int, help="Port to bind, 0 picks a free one (RAGQUEUE_PORT)")
PROCESSES = click.Option(
    ["--processes"], type=click.IntRange(1), help="Worker processes (RAGQUEUE_PROCESSES)"
)
CHATS = click.Option(
    ["--concurrency"],
    type=click.IntRange(1),
    help="Chat jobs that each runs at once (RAGQUEUE_CONCURRENCY)",
)
PASSAGES = click.Option(
    ["--limit"], type=click.IntRange(1, 50), help="Most passages that the answer is written from"
)
HITS = click.Option(
    ["--limit"], type=click.IntRange(1, 100), default=5, show_default=True, help="Passages to show"
)
JOBS = click.Option(
    ["--limit"], type=click.IntRange(1, 10_000), default=50, show_default=True, help="Jobs to show"
)
STATE = click.Option(
    ["--state"],
    type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]),
    help="Only these",
)
KIND = click.Option(["--kind"], help="Only these: ingest, chat or delete")
PATHS = click.Argument(["paths"], nargs=-1, required=True, type=click.Path(exists=True))
FOLDER = click.Argument(["folder"], type=click.Path(exists=True, file_okay=False))
QUESTION, DOCUMENT, JOB, NAME, KEY = (
    click.Argument([name]) for name in ("question", "document_id", "job_id", "name", "key_id")
)
EXIT = _flag(["--exit", "leave"], help="Stop after the answer")
NO_WORKER = _flag(["--no-worker"], help="Run no worker inside, also with the `sql` queue")
ORIGIN = _flag(["--origin"], help="Show where each value comes from")
# name -> (module:function, what it does, its parameters); a group has no function
COMMANDS: dict[str, tuple[str, str, list[click.Parameter]]] = {
    "demo": (
        "demo:demo",
        "Start everything on sample documents and ask a question. Needs no server, key or download.",
        [EXIT, PORT],
    ),
    "serve": (
        "serve:serve",
        "Serve the API and the page; with the `sql` queue a worker, too.",
        [HOST, PORT, NO_WORKER, DATA],
    ),
    "worker": (
        "worker:worker",
        "Run worker processes under a supervisor that restarts them.",
        [PROCESSES, CHATS, DATA],
    ),
    "ingest": (
        "documents:ingest",
        "Bring files and folders in. Waits until they can be asked about.",
        [PATHS, INTO, DATA, JSON],
    ),
    "ask": (
        "ask:ask",
        "Ask a question and stream the answer with its citations.",
        [QUESTION, COLLECTION, PASSAGES, DATA, JSON],
    ),
    "search": (
        "ask:search",
        "Show the passages nearest to a question.",
        [QUESTION, COLLECTION, HITS, DATA, JSON],
    ),
    "docs": ("", "List, show and delete documents.", []),
    "docs list": ("documents:docs_list", "List documents.", [COLLECTION, TENANT, DATA, JSON]),
    "docs show": (
        "documents:docs_show",
        "Show a document.",
        [DOCUMENT, _flag(["--text"], help="Print the canonical text"), TENANT, DATA, JSON],
    ),
    "docs delete": (
        "documents:docs_delete",
        "Delete a document. Everything that quotes it goes, too.",
        [DOCUMENT, TENANT, DATA, JSON],
    ),
    "jobs": ("", "List, show, retry and cancel jobs.", []),
    "jobs list": (
        "jobs:jobs_list",
        "List jobs, newest first.",
        [STATE, KIND, JOBS, TENANT, DATA, JSON],
    ),
    "jobs show": ("jobs:jobs_show", "Show a job.", [JOB, TENANT, DATA, JSON]),
    "jobs retry": (
        "jobs:jobs_retry",
        "Make a new job of a failed or cancelled one.",
        [JOB, TENANT, DATA, JSON],
    ),
    "jobs cancel": ("jobs:jobs_cancel", "Ask for the end of a job.", [JOB, TENANT, DATA, JSON]),
    "keys": ("", "Create, list and revoke API keys.", []),
    "keys create": (
        "keys:keys_create",
        "Make a key and print it. It cannot be shown again.",
        [NAME, TENANT, DATA, JSON],
    ),
    "keys list": ("keys:keys_list", "List keys.", [DATA, JSON]),
    "keys revoke": ("keys:keys_revoke", "End a key's validity, at once.", [KEY, DATA, JSON]),
    "status": ("status:status", "Show queues, workers and documents.", [TENANT, DATA, JSON]),
    "doctor": (
        "doctor:doctor",
        "Check every part and say what mends it. Status 1 when something is wrong.",
        [DATA, JSON],
    ),
    "config": ("", "Show the settings and where they come from.", []),
    "config show": (
        "status:config_show",
        "Print the settings in effect; secrets are hidden.",
        [ORIGIN, DATA, JSON],
    ),
    "eval": (
        "evaluate:evaluate",
        "Measure retrieval on judged questions. Reads corpus.jsonl, queries.jsonl and qrels.tsv.",
        [FOLDER, JSON],
    ),
}


def run(target: str, as_json: bool | None = None, tenant: str = "default", **words: Any) -> None:
    """Import a function, often async, and run it with a `Call` and its own options; Ctrl+C ends it quietly."""
    from ragqueue.cli.call import Call

    for name, word in {"tenant": tenant, **words}.items():
        if isinstance(word, str):  # a list of paths is told file by file
            check_storable(name, word)
    call = Call({name: words.pop(name) for name in _FLAGS if name in words}, as_json, tenant)
    try:
        running = pkgutil.resolve_name(f"ragqueue.cli.{target}")(call, **words)
        if running is not None:
            asyncio.run(running)
    except KeyboardInterrupt:
        sys.exit(130)


def build() -> click.Group:
    """Return the table as commands of click."""
    groups = {
        "": click.Group(
            "ragqueue", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]}
        )
    }
    for path, (target, text, params) in COMMANDS.items():
        parent, _, name = path.rpartition(" ")
        if target:
            groups[parent].add_command(
                click.Command(name, callback=partial(run, target), help=text, params=params)
            )
        else:
            groups[""].add_command(groups.setdefault(path, click.Group(name, help=text)))
    return click.version_option(package_name="ragqueue")(groups[""])


def main(argv: list[str] | None = None) -> None:
    """Run a command; an error of ours becomes one line and an exit status: 2 for the operator, 1 for the rest."""
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # before faiss is loaded; its own call covers one thread only
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a name of a file can be anything, and output never raises
    try:
        build().main(argv, prog_name="ragqueue")
    except RagqueueError as error:
        print(f"ragqueue: {error.message} [{error.code}]", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
