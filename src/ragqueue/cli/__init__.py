"""The command line: commands are imported when they run, so that `--help` costs nothing."""

import os
import pkgutil
import sys
from typing import Any

import click

from ragqueue.errors import ConfigError, RagqueueError

# name -> (module:function, what it does)
COMMANDS = {
    "demo": ("ragqueue.cli.serve:demo", "Start everything on sample documents and ask a question"),
    "serve": ("ragqueue.cli.serve:serve", "Serve the API and the page; with the `sql` queue a worker, too"),
    "worker": ("ragqueue.cli.serve:worker", "Run worker processes"),
    "ingest": ("ragqueue.cli.ask:ingest", "Bring files and folders in"),
    "ask": ("ragqueue.cli.ask:ask", "Ask a question and stream the answer"),
    "search": ("ragqueue.cli.ask:search", "Show the passages nearest to a question"),
    "docs": ("ragqueue.cli.manage:docs", "List, show and delete documents"),
    "jobs": ("ragqueue.cli.manage:job_commands", "List, show, retry and cancel jobs"),
    "keys": ("ragqueue.cli.manage:key_commands", "Create, list and revoke API keys"),
    "status": ("ragqueue.cli.manage:status", "Show queues, workers and documents"),
    "doctor": ("ragqueue.cli.doctor:doctor", "Check every part and say what mends it"),
    "config": ("ragqueue.cli.doctor:config", "Show the settings and where they come from"),
    "eval": ("ragqueue.cli.evaluate:evaluate", "Measure retrieval on a folder of judged questions"),
}


class LazyGroup(click.Group):
    """Knows the names of its commands without importing them; Ctrl+C ends any of them quietly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> Any:
        return pkgutil.resolve_name(COMMANDS[name][0]) if name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ragqueue")
def root() -> None:
    """Answer questions over a team's own documents, under load, and lose nothing."""


def main(argv: list[str] | None = None) -> None:
    """Run a command; an error of ours becomes one line and an exit status: 2 for the operator, 1 for the rest."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before faiss is loaded; its own call covers one thread only
    try:
        root.main(argv, prog_name="ragqueue")
    except RagqueueError as error:
        print(f"ragqueue: {error.message} [{error.code}]", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
