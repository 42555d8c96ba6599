"""A run: one attempt at a job, and what its kind is given to do its work with."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ragqueue.events.pen import Batcher, Pen
from ragqueue.types import Job, Outcome, State


@dataclass(slots=True)
class Run:
    """One attempt at a job, as its kind sees it."""

    job: Job
    batcher: Batcher
    pen: Pen | None = None  # of a kind that writes a log
    partial: Callable[[], Outcome] | None = None  # what is kept when the last try breaks off
    cancelled: bool = False
    finishing: bool = False  # its outcome is being stored: it cannot be cancelled any more
    began: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since the job was made.

        Our own clock is not asked what time it is: it may differ from the store's by hours.
        """
        return self.job.read_at - self.job.created_at + time.monotonic() - self.began

    @property
    def seconds_left(self) -> float:
        """Seconds until the job's deadline, which is on the store's clock, too."""
        return self.job.deadline_at - self.job.created_at - self.age

    def outcome(self, state: State, code: str | None = None, message: str | None = None) -> Outcome:
        """Return an outcome with the text so far, if there is any."""
        result = None
        if self.partial is not None:
            result = self.partial().result
        return Outcome(state=state, result=result, error_code=code, error_message=message)
