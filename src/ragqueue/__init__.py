"""Answers questions over a team's own documents, under load, and loses nothing."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Ragqueue"]


def __getattr__(name: str) -> Any:
    if name == "Ragqueue":  # imported on demand: `ragqueue --help` must not load numpy
        from ragqueue.embedded import Ragqueue

        return Ragqueue
    raise AttributeError(f"module 'ragqueue' has no attribute {name!r}")
