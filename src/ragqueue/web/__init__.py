"""The page: where its files lie."""

from pathlib import Path

_FOLDER = Path(__file__).parent
PAGE = _FOLDER / "index.html"
STATIC = {name: _FOLDER / name for name in ("page.js", "page.css")}
