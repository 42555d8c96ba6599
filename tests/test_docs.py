"""The documentation says what the code does.

References are generated, snippets run, links lead somewhere.
"""

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from campaigns.house import SAMPLES
from campaigns.services import RedisServer
from ragqueue.errors import CONFIG_CODES, RagqueueError

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["settings.md", "commands.md", "errors.md", "endpoints.md", "metrics.md"]
)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    generated = generator().PAGES[name]()

    page = ROOT / "docs" / "reference" / name
    assert page.read_text(encoding="utf-8") == generated, "run `python docs/generate.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(SAMPLES.glob("*.md")), ids=lambda page: page.name)
def test_a_sample_shows_its_code_and_no_include_line(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert re.findall(r"^[ \t]*(?:\{[*!%].*|\.\. \w+::.*|--8<--.*)$", text, re.MULTILINE) == []
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0


def test_every_error_has_a_code_of_its_own() -> None:
    def below(kind: type[RagqueueError]) -> Iterator[type[RagqueueError]]:
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    ours = [kind for kind in below(RagqueueError) if kind.__module__ == "ragqueue.errors"]
    codes = [*CONFIG_CODES, *(kind.code for kind in ours)]
    assert len(codes) == len(set(codes))


def snippets(page: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"<!-- snippet: \w+ -->\n```python\n(.*?)```", text, re.DOTALL))


def test_the_snippets_of_rq_on_redis_run(tmp_path: Path) -> None:
    from campaigns.house import bench
    from tests.needs import require_redis

    require_redis()
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        settings = {"RAGQUEUE_QUEUE": "", "REDIS_URL": server.url, "LLM_MODEL": "extractive"}
        house = stack.enter_context(bench(settings))
        del house.env["RAGQUEUE_QUEUE"]
        house.serve()
        house.work(20)
        house.run("ingest", str(SAMPLES / "query-params.md"))
        code = f"URL = 'http://127.0.0.1:{house.port}'\n" + snippets("docs/how-to/rq-on-redis.md")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )

    assert done.returncode == 0, done.stderr
    assert "default value" in done.stdout


def test_the_page_of_the_architecture_names_files_that_are_there() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", page))

    missing = {name for name in named if not (ROOT / "src" / "ragqueue" / name).exists()}

    assert len(named) > 25
    assert missing - {"src/ragqueue/", "base.py"} == set()


def test_the_page_of_the_architecture_draws_the_layers_in_their_order() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    drawing = page.partition("```text")[2].partition("```")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    firsts = [layer.split("|")[0].strip() for layer in layers if not layer.startswith("_")]
    places = [re.search(rf"\b{room}(?:/|\.py)", drawing) for room in firsts]

    assert all(places), dict(zip(firsts, places, strict=True))
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts)
