"""The settings, and where they come from."""

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Group
from ragqueue.errors import without_password


@click.group("config", cls=Group)
def config_group() -> None:
    """Show the settings and where they come from."""


@config_group.command("show")
@click.option("--origin", is_flag=True, help="Show where each value comes from")
@options.data
@options.json
def config_show(origin: bool, data: str | None, as_json: bool) -> None:
    """Print the settings in effect; secrets are hidden."""
    from ragqueue.settings import env_names

    call = Call({"data": data}, as_json=as_json)
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
