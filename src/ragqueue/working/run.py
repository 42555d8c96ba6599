"""A run: what a kind of job is given to do its work with."""

from collections.abc import Callable
from dataclasses import dataclass

from ragqueue.events.pen import Batcher, Pen
from ragqueue.types import Job, Outcome, State


@dataclass(slots=True)
class Run:
    """One attempt at a job, as its kind sees it."""

    job: Job
    batcher: Batcher
    pen: Pen | None = None
    partial: Callable[[], Outcome] | None = (
        None  # what is kept when the last try fails in the middle
    )
    cancelled: bool = False
    finishing: bool = False

    def kept(self, state: State, code: str | None = None, message: str | None = None) -> Outcome:
        """Return an outcome with the text so far, if there is any."""
        return Outcome(state, self.partial().result if self.partial else None, code, message)
