"""Write the reference pages from the code: `python docs/generate.py`.

A test fails when they differ from it.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click

from ragqueue import errors, telemetry
from ragqueue.answering import grounding
from ragqueue.cli import build
from ragqueue.settings import env_names, whole

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code: change that, not this page. -->\n"


def settings_page() -> str:
    """Return the page of the settings: name, default and meaning of each."""
    lead = (
        "Flags go before the environment, then `.env` in the working folder "
        "(`RAGQUEUE_ENV_FILE` names another, empty: none),\n"
        "then the folder of secrets that `RAGQUEUE_SECRETS` names, then `ragqueue.toml` "
        "(`RAGQUEUE_CONFIG`), then the defaults.\n"
        "`ragqueue config show --origin` shows where each value came from. "
        "An unknown `RAGQUEUE_*` name is refused.\n"
    )
    settings = whole()
    names = env_names(settings)
    rows = []
    for name, field in settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(row(f"`{names[name]}`", default, str(field.description)))
    return page("Settings", lead, table(("name", "default", "what it says"), rows))


def commands_page() -> str:
    """Return the page of the commands: the help of each."""
    lead = (
        "Results go to standard output, progress and logs to standard error. "
        "Exit status: 0 done, 1 failed, 2 the operator must act.\n"
    )
    return page("Commands", lead, "\n".join(helps(build(), "ragqueue")))


def helps(command: click.Command, path: str) -> Iterator[str]:
    """Yield the help of a command and of all below it; `path`: the words that name it."""
    context = click.Context(command, info_name=path, max_content_width=100)
    yield f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from helps(below, f"{path} {name}")


def errors_page() -> str:
    """Return the page of the errors: code, HTTP status, retry, meaning and class of each."""
    lead = (
        "Every error is an RFC 9457 problem document (`application/problem+json`) "
        "with `code` and, for OpenAI's clients, `error`.\n"
        "A failed job carries the same codes, and besides `dead_letter`, `deadline_exceeded`, "
        "`source_deleted`, `answer_erased`, `internal_error`.\n"
    )
    header = ("code", "HTTP", "does a retry help", "meaning", "class")
    rows = [
        row(f"`{code}`", "500", "no", meaning, "`ConfigError`")
        for code, meaning in errors.CONFIG_CODES.items()
    ]
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.RagqueueError) and kind is not errors.RagqueueError:
            rows.append(error_row(name, kind))
    return page("Errors", lead, table(header, sorted(rows)))


def error_row(name: str, kind: type[errors.RagqueueError]) -> str:
    """Return the row of a class of errors."""
    meaning = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
    retryable = "yes" if kind.retryable else "no"
    return row(f"`{kind.code}`", str(kind.status), retryable, meaning, f"`{name}`")


def endpoints_page() -> str:
    """Return the page of the calls of the API, and of what it says about an answer."""
    from ragqueue.api.app import bare_app

    lead = "The full description is at `/openapi.json` of a running server.\n"
    calls = []
    for path, operations in sorted(bare_app().openapi()["paths"].items()):
        for method, operation in operations.items():
            meaning = operation.get("description", "").splitlines()[0]
            calls.append(row(f"`{method.upper()} {path}`", meaning))
    meanings = [row(f"`{word}`", meaning) for word, meaning in grounding.MEANINGS.items()]
    settled = (
        "The `grounding` of an answer is settled when it is written "
        "(in `ragqueue:sources` stands what was judged before):\n"
    )
    return page(
        "Endpoints",
        lead,
        table(("call", "what it does"), calls),
        settled,
        table(("`answer.grounding`", "what it means"), meanings),
    )


def metrics_page() -> str:
    """Return the page of the metrics: name, type and meaning of each."""
    lead = (
        "`GET /metrics` of any API process shows the sums of all worker processes "
        "and the state of the records.\n"
    )
    rows = [row(f"`{name}`", "gauge", meaning) for name, meaning in telemetry.GAUGES.items()]
    for source in (telemetry.WORK, telemetry.STREAMS, telemetry.REFUSED):
        for metric in source.collect():
            name = metric.name
            if metric.type == "counter":
                name += "_total"
            rows.append(row(f"`{name}`", metric.type, metric.documentation))
    return page("Metrics", lead, table(("name", "type", "meaning"), sorted(rows)))


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Iterable[str]) -> str:
    """Return a table of rows that are written already."""
    rule = "|---" * len(header) + "|"
    return "\n".join([row(*header), rule, *rows]) + "\n"


def page(title: str, *parts: str) -> str:
    """Return a page; an empty line stands between its parts."""
    body = "\n".join(parts)
    return f"{NOTE}\n# {title}\n\n{body.rstrip()}\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "errors.md": errors_page,
    "endpoints.md": endpoints_page,
    "metrics.md": metrics_page,
}

if __name__ == "__main__":
    for file, write in PAGES.items():
        (FOLDER / file).write_text(write(), encoding="utf-8")
