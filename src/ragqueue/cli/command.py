"""What every command is made of: click's classes, and a look at the texts that were typed."""

from typing import Any

import click

from ragqueue.storable import check_storable


class Command(click.Command):
    """A command that is given no text which cannot be stored."""

    def invoke(self, ctx: click.Context) -> Any:
        """Check the texts, then run. Raises InvalidRequest."""
        for name, value in ctx.params.items():
            if isinstance(value, str):  # a list of paths is told file by file
                check_storable(name, value)
        return super().invoke(ctx)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
