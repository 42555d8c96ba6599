"""What a kill loop found."""

from collections.abc import Sequence
from dataclasses import dataclass

from campaigns.faults.kill_plan import LEASE
from campaigns.faults.witness import Times
from campaigns.house import quantile


@dataclass
class Report:
    """What `faults --json` prints; times in seconds."""

    engine: str
    jobs: int
    ended: int = 0
    kills: int = 0
    stops: int = 0
    host_kills: int = 0
    full_disks: int = 0
    broker_restarts: int = 0
    lost: int = 0
    doubled_answers: int = 0
    stream_gaps: int = 0
    stream_doubles: int = 0
    zombie_writes: int = 0
    wrongly_dead: int = 0
    lease_s: float = LEASE
    recovery_p50_s: float | None = None
    recovery_p99_s: float | None = None
    recovery_host_p99_s: float | None = None
    reclaim_p50_s: float | None = None
    reclaim_p99_s: float | None = None

    def take_times(self, times: Times) -> None:
        """Take the quantiles in."""
        self.recovery_p50_s = _quantile(times.recovery, 0.5)
        self.recovery_p99_s = _quantile(times.recovery, 0.99)
        self.recovery_host_p99_s = _quantile(times.recovery_host, 0.99)
        self.reclaim_p50_s = _quantile(times.reclaim, 0.5)
        self.reclaim_p99_s = _quantile(times.reclaim, 0.99)


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(quantile(values, share), 3) if values else None
