"""The workflows: valid by their schema, on every system and Python that is promised."""

import subprocess
import sys
from pathlib import Path

from ragqueue import __version__

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github" / "workflows"


def test_each_workflow_is_one_by_the_schema_of_workflows() -> None:
    files = [str(path) for path in sorted(FOLDER.glob("*.yml"))]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]

    done = subprocess.run(
        [*command, "vendor.github-workflows", *files],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )

    assert files
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_promised_system_and_python_runs_the_tests() -> None:
    text = (FOLDER / "test.yml").read_text(encoding="utf-8")

    assert "os: [ubuntu-latest, windows-latest, macos-latest]" in text
    assert 'python: ["3.11", "3.12", "3.13", "3.14"]' in text
    assert "run: python dev.py test" in text


def test_a_release_takes_its_version_from_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    release = (FOLDER / "release.yml").read_text(encoding="utf-8")

    assert 'dynamic = ["version"]' in project
    assert "src/ragqueue/__init__.py" in release
    assert f'__version__ = "{__version__}"' in (ROOT / "src/ragqueue/__init__.py").read_text()
