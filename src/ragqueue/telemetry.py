"""Names of metrics; no text of users and no ids stand in labels.

What workers count is added up in the records (`Tally`), so that /metrics of any API process shows all of them.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

Sample = tuple[str, dict[str, str], float]  # name, labels, value
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
_TO_FIRST = "From the submit of a question to its first text"

WORK = CollectorRegistry()
JOBS = Counter("ragqueue_jobs_ended_total", "Jobs that ended", ["kind", "state"], registry=WORK)
RETRIES = Counter("ragqueue_job_retries_total", "Tries of jobs that failed and are tried again", ["kind", "code"], registry=WORK)
RUN_SECONDS = Histogram("ragqueue_run_seconds", "Time of one run of a job", ["kind"], buckets=_SECONDS, registry=WORK)
TOKENS = Counter("ragqueue_tokens_total", "Pieces of text that generators streamed", registry=WORK)
FIRST_TOKEN = Histogram("ragqueue_time_to_first_token_seconds", _TO_FIRST, buckets=_SECONDS, registry=WORK)
STREAMS = Gauge("ragqueue_streams_active", "Event streams that this process serves")
REFUSED = Counter("ragqueue_refused_total", "Requests that this process refused, by error code", ["code"])
GAUGES = {
    "ragqueue_queue_depth": "Jobs that wait, by lane",
    "ragqueue_queue_oldest_seconds": "How long the longest waiting job of a lane has waited",
    "ragqueue_jobs": "Jobs in the records, by lane and state",
    "ragqueue_job_deaths": "Deaths of processes that the jobs in the records saw",
    "ragqueue_job_tries": "Failed tries of the jobs in the records",
    "ragqueue_dead_letters": "Jobs in the records that ended as dead letters",
    "ragqueue_workers": "Worker processes that beat",
}


class Tally:
    """Gives what this process counted since the last call."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], float] = {}

    def deltas(self) -> dict[tuple[str, str], float]:
        """Return the growth of each sample of WORK, by (name, labels as JSON)."""
        samples = (sample for metric in WORK.collect() for sample in metric.samples if not sample.name.endswith("_created"))
        now = {(sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value for sample in samples}
        before, self._before = self._before, now
        return {key: value - before.get(key, 0.0) for key, value in now.items() if value != before.get(key, 0.0)}


class _Shared(Collector):
    """Shows samples under the names and types that the workers count with, and those of the gauges."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def collect(self) -> Iterator[Metric]:
        for metric in (*WORK.collect(), *(Metric(name, text, "gauge") for name, text in GAUGES.items())):
            metric.samples = []
            for sample in self._samples:
                if sample[0].removeprefix(metric.name) in ("", "_total", "_bucket", "_count", "_sum"):
                    metric.add_sample(*sample)
            yield metric


def exposition(sums: Mapping[tuple[str, str], float], gauges: Iterable[Sample]) -> bytes:
    """Return the text of /metrics: this process's own, the sums of the workers, and gauges of the records."""
    registry = CollectorRegistry()
    registry.register(_Shared([*((name, json.loads(labels), value) for (name, labels), value in sorted(sums.items())), *gauges]))
    return generate_latest(REGISTRY) + generate_latest(registry)


class _JsonFormatter(logging.Formatter):
    """Writes one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        said = {"ts": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        return json.dumps(said | ({"error": self.formatException(record.exc_info)} if record.exc_info else {}), ensure_ascii=False)


def configure_logging(level: str, form: str) -> None:
    """Send logs to standard error, as text or as JSON."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("alembic", "asyncio", "httpx2", "openai", "rq.worker"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
