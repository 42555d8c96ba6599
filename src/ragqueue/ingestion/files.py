"""Find the files that a user names, or that a folder of his holds."""

import os
from collections.abc import Sequence
from pathlib import Path

from ragqueue.errors import NotFound
from ragqueue.parsers.table import EXTENSIONS


def find_files(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return {source: path} of every file. Raises NotFound for a path that is not there.

    A folder gives those with an ending that a parser reads, hidden ones left out.
    """
    files: dict[str, Path] = {}
    for given in map(Path, paths):
        if not given.exists():
            raise NotFound(f"there is no file or folder {str(given)!r}")
        inside = files_in(given) if given.is_dir() else [given]
        for path in inside:
            files[path.as_posix()] = path
    return files


def files_in(folder: Path) -> list[Path]:
    """Return the readable files in a folder and those below it, in order of their paths."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not _is_hidden(path.relative_to(folder))
    ]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
