"""The options that several commands have, each a decorator."""

import click

data = click.option(
    "--data", type=click.Path(file_okay=False), help="Folder of the database (RAGQUEUE_DATA)"
)
json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line"
)
tenant = click.option("--tenant", default="default", show_default=True, help="Whose")
collection = click.option("--collection", help="Only documents of this collection")
port = click.option("--port", type=int, help="Port to bind, 0 picks a free one (RAGQUEUE_PORT)")
