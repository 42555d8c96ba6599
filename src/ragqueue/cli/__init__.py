"""The command line: which commands there are, in which order, and how one ends.

Every file of this folder imports at its top only what is light, and what a command needs beyond
that inside the function that runs: `ragqueue --help` loads all of these files and takes 0.1 s of
CPU; with all that the commands need it would take 1.4 s.
"""

import io
import os
import sys
from typing import Any

import click

from ragqueue.cli import (
    ask,
    backup,
    config,
    demo,
    doctor,
    documents,
    evaluate,
    ingest,
    jobs,
    keys,
    search,
    serve,
    status,
    worker,
)
from ragqueue.errors import ConfigError, RagqueueError

COMMANDS: tuple[click.Command, ...] = (
    demo.demo,
    serve.serve,
    worker.worker,
    ingest.ingest,
    ask.ask,
    search.search,
    documents.docs_group,
    jobs.jobs_group,
    keys.keys_group,
    status.status,
    doctor.doctor,
    config.config_group,
    backup.backup,
    backup.restore,
    evaluate.evaluate,
)
INTERRUPTED = 130  # the exit status of what Ctrl+C ended, as a shell has it


class Root(click.Group):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was typed; Ctrl+C ends it quietly."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def build() -> click.Group:
    """Return the root group with every command, in the order of the reference."""
    root = Root(
        "ragqueue",
        help="Answer questions over a team's own documents, under load, and lose nothing.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        root.add_command(command)
    return click.version_option(package_name="ragqueue")(root)


def main(argv: list[str] | None = None) -> None:
    """Run a command.

    An error of ours becomes one line and an exit status: 2 for the operator, 1 for the rest.
    """
    # Before faiss is loaded; its own call covers one thread only.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name of a file can be anything, and output never raises.
            stream.reconfigure(errors="backslashreplace")
    try:
        build().main(argv, prog_name="ragqueue")
    except RagqueueError as error:
        print(f"ragqueue: {error.message} [{error.code}]", file=sys.stderr)
        if isinstance(error, ConfigError):
            sys.exit(2)
        sys.exit(1)
