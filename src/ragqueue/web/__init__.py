"""The page: where its files lie."""

from pathlib import Path

PAGE = Path(__file__).with_name("index.html")
STATIC = {name: PAGE.with_name(name) for name in ("page.js", "page.css")}
