"""The command line: commands are imported when they run, so that `--help` costs nothing."""

import importlib
import sys
from typing import Any

import click

# name -> (module:function, what it does)
COMMANDS = {
    "demo": ("ragqueue.cli.demo:demo", "Start everything on sample documents and ask a question"),
    "serve": ("ragqueue.cli.serve:serve", "Serve the API and the page; with the `sql` queue a worker, too"),
    "worker": ("ragqueue.cli.serve:worker", "Run worker processes"),
    "ingest": ("ragqueue.cli.ask:ingest", "Bring files and folders in"),
    "ask": ("ragqueue.cli.ask:ask", "Ask a question and stream the answer"),
    "search": ("ragqueue.cli.ask:search", "Show the passages nearest to a question"),
    "docs": ("ragqueue.cli.manage:docs", "List, show and delete documents"),
    "jobs": ("ragqueue.cli.manage:jobs", "List, show, retry and cancel jobs"),
    "keys": ("ragqueue.cli.manage:keys", "Create, list and revoke API keys"),
    "status": ("ragqueue.cli.manage:status", "Show queues, workers and documents"),
    "doctor": ("ragqueue.cli.doctor:doctor", "Check every part and say what mends it"),
    "config": ("ragqueue.cli.doctor:config", "Show the settings and where they come from"),
    "eval": ("ragqueue.cli.evaluate:evaluate", "Measure retrieval on a folder of judged questions"),
}


class LazyGroup(click.Group):
    """Knows the names of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, function = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ragqueue")
def root() -> None:
    """Answer questions over a team's own documents, under load, and lose nothing."""


def main(argv: list[str] | None = None) -> Any:
    """Run a command; an error of ours becomes one line and an exit status: 2 for the operator, 1 for the rest."""
    from ragqueue.errors import ConfigError, RagqueueError

    try:
        return root.main(argv, prog_name="ragqueue", standalone_mode=True)
    except RagqueueError as error:
        print(f"ragqueue: {error.message} [{error.code}]", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
