"""Write the reference pages from the code: `python docs/generate.py`; a test fails when they differ from it."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ragqueue import errors, telemetry
from ragqueue.answering import grounding
from ragqueue.cli import build
from ragqueue.settings import env_names, whole

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code: change that, not this page. -->\n"


def settings_page() -> str:
    rows = []
    settings = whole()
    names = env_names(settings)
    for name, field in settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{names[name]}` | {default} | {field.description} |")
    lead = (
        "Flags go before the environment, then `.env` in the working folder (`RAGQUEUE_ENV_FILE` names another, empty: none),\n"
        "then the folder of secrets that `RAGQUEUE_SECRETS` names, then `ragqueue.toml` (`RAGQUEUE_CONFIG`), then the defaults.\n"
        "`ragqueue config show --origin` shows where each value came from. An unknown `RAGQUEUE_*` name is refused.\n"
    )
    return page(
        "Settings", lead + "\n| name | default | what it says |\n|---|---|---|\n" + "\n".join(rows)
    )


def commands_page() -> str:
    lead = "Results go to standard output, progress and logs to standard error. Exit status: 0 done, 1 failed, 2 the operator must act.\n\n"
    return page("Commands", lead + "\n".join(click_pages(build(), "ragqueue")))


def click_pages(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path, max_content_width=100)
    yield f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        yield from click_pages(below, f"{path} {name}")


def errors_page() -> str:
    rows = [
        f"| `{code}` | 500 | no | {meaning} | `ConfigError` |"
        for code, meaning in errors.CONFIG_CODES.items()
    ]
    for name, found in inspect.getmembers(errors, inspect.isclass):
        if issubclass(found, errors.RagqueueError) and found is not errors.RagqueueError:
            meaning = inspect.cleandoc(found.__doc__ or "").splitlines()[0]
            rows.append(
                f"| `{found.code}` | {found.status} | {'yes' if found.retryable else 'no'} | {meaning} | `{name}` |"
            )
    lead = (
        "Every error is an RFC 9457 problem document (`application/problem+json`) with `code` and, for OpenAI's clients, `error`.\n"
        "A failed job carries the same codes, and besides `dead_letter`, `deadline_exceeded`, `source_deleted`, `answer_erased`, `internal_error`.\n"
    )
    return page(
        "Errors",
        lead
        + "\n| code | HTTP | does a retry help | meaning | class |\n|---|---|---|---|---|\n"
        + "\n".join(sorted(rows)),
    )


def endpoints_page() -> str:
    from ragqueue.api.app import bare_app

    app = bare_app()
    rows = []
    for path, operations in sorted(app.openapi()["paths"].items()):
        for method, operation in operations.items():
            rows.append(
                f"| `{method.upper()} {path}` | {operation.get('description', '').splitlines()[0]} |"
            )
    lead = "The full description is at `/openapi.json` of a running server.\n"
    calls = "\n| call | what it does |\n|---|---|\n" + "\n".join(rows)
    words = "\n".join(f"| `{word}` | {meaning} |" for word, meaning in grounding.MEANINGS.items())
    told = "\n\nThe `grounding` of an answer is settled when it is written (in `ragqueue:sources` stands what was judged before):\n"
    return page(
        "Endpoints",
        lead + calls + told + "\n| `answer.grounding` | what it means |\n|---|---|\n" + words,
    )


def metrics_page() -> str:
    rows = [f"| `{name}` | gauge | {text} |" for name, text in telemetry.GAUGES.items()]
    for metric in [
        *telemetry.WORK.collect(),
        *telemetry.STREAMS.collect(),
        *telemetry.REFUSED.collect(),
    ]:
        name = metric.name + ("_total" if metric.type == "counter" else "")
        rows.append(f"| `{name}` | {metric.type} | {metric.documentation} |")
    lead = "`GET /metrics` of any API process shows the sums of all worker processes and the state of the records.\n"
    return page(
        "Metrics", lead + "\n| name | type | meaning |\n|---|---|---|\n" + "\n".join(sorted(rows))
    )


def page(title: str, body: str) -> str:
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
