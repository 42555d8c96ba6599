"""Names of metrics; no text of users and no ids stand in labels.

What workers count is added up in the records (`take_counts`), so that /metrics of any API process
shows all of them.
"""

import json
import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
_ENDINGS = ("", "_total", "_bucket", "_count", "_sum")  # that Prometheus gives a name
_TO_FIRST = "From the submit of a question to its first text"

WORK = CollectorRegistry()
_taken: dict[
    tuple[str, str], float
] = {}  # what was added to the records already: two workers of a process count once
_taking = threading.Lock()
_taker = False  # whether a beat of this process brings its counts into the records
JOBS = Counter("ragqueue_jobs_ended_total", "Jobs that ended", ["kind", "state"], registry=WORK)
RETRIES = Counter(
    "ragqueue_job_retries_total",
    "Tries of jobs that failed and are tried again",
    ["kind", "code"],
    registry=WORK,
)
RUN_SECONDS = Histogram(
    "ragqueue_run_seconds", "Time of one run of a job", ["kind"], buckets=_SECONDS, registry=WORK
)
TOKENS = Counter("ragqueue_tokens_total", "Pieces of text that generators streamed", registry=WORK)
FIRST_TOKEN = Histogram(
    "ragqueue_time_to_first_token_seconds", _TO_FIRST, buckets=_SECONDS, registry=WORK
)
LOOP_FAILURES = Counter(
    "ragqueue_loop_failures_total",
    "Surprises in background loops, which went on",
    ["loop"],
    registry=WORK,
)
STREAMS = Gauge("ragqueue_streams_active", "Event streams that this process serves")
REFUSED = Counter(
    "ragqueue_refused_total", "Requests that this process refused, by error code", ["code"]
)
GAUGES = {
    "ragqueue_queue_depth": "Jobs that wait, by lane",
    "ragqueue_queue_oldest_seconds": "How long the longest waiting job of a lane has waited",
    "ragqueue_jobs": "Jobs in the records, by lane and state",
    "ragqueue_job_deaths": "Deaths of processes that the jobs in the records saw",
    "ragqueue_job_tries": "Failed tries of the jobs in the records",
    "ragqueue_dead_letters": "Jobs in the records that ended as dead letters",
    "ragqueue_workers": "Worker processes that beat",
}


Counts = dict[tuple[str, str], float]  # by (name, labels as JSON)


def untaken() -> Counts:
    """Return what this process counted in WORK and nobody has taken yet."""
    grown = Counts()
    for metric in WORK.collect():
        for sample in metric.samples:
            key = (sample.name, json.dumps(sample.labels, sort_keys=True))
            before = _taken.get(key, 0.0)
            if sample.value != before and not sample.name.endswith("_created"):
                grown[key] = sample.value - before
    return grown


def take_counts() -> Counts:
    """Return what this process counted in WORK since the last call.

    It is for whoever adds it to the records.
    """
    global _taker
    with _taking:
        _taker = True
        counts = untaken()
        _add(counts, 1)
    return counts


def give_back(counts: Counts) -> None:
    """Take counts back that could not be added to the records: the next call returns them again."""
    with _taking:
        _add(counts, -1)


def _add(counts: Counts, sign: int) -> None:
    for key, value in counts.items():
        _taken[key] = _taken.get(key, 0.0) + sign * value


class _Shared(Collector):
    """Shows samples under the names and types that the workers count with, and the gauges."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        gauges = [Metric(name, text, "gauge") for name, text in GAUGES.items()]
        for metric in [*WORK.collect(), *gauges]:
            names = {metric.name + ending for ending in _ENDINGS}
            metric.samples = [sample for sample in self._samples if sample.name in names]
            yield metric


def exposition(
    sums: Mapping[tuple[str, str], float], gauges: Iterable[tuple[str, dict[str, str], float]]
) -> bytes:
    """Return the text of /metrics.

    It holds this process's own metrics, the sums of the workers, and gauges of the records.
    """
    totals = dict(sums)
    if not _taker:
        # Of a process that only serves, nobody takes the counts. Else the sums tell all: a total
        # that is added up from two places at two moments can fall, which Prometheus takes for a
        # restart.
        for key, value in untaken().items():
            totals[key] = totals.get(key, 0.0) + value
    samples = [
        Sample(name, json.loads(labels), value) for (name, labels), value in sorted(totals.items())
    ]
    samples += [Sample(name, labels, value) for name, labels, value in gauges]
    return generate_latest(REGISTRY) + generate_latest(_Shared(samples))


class _JsonFormatter(logging.Formatter):
    """Writes one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(level: str, form: str) -> None:
    """Send logs to standard error, as text or as JSON."""
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        logging.getLogger().handlers[0].setFormatter(_JsonFormatter())
    for noisy in ("alembic", "asyncio", "httpx2", "openai", "rq.worker"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
