import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import types
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from rq import Queue, SimpleWorker
from rq.command import send_shutdown_command, send_stop_job_command
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import Worker

from campaigns.house import clean_environment
from campaigns.services import RedisServer
from ragqueue.errors import ConfigError, InvalidRequest, Unavailable
from ragqueue.queues.base import ring_of
from ragqueue.queues.ring_job import HANDLER, RETRIES, RingJob
from ragqueue.queues.rq import RQQueue
from ragqueue.testing.contracts.engines import LIMIT, Handled, QueueContract, rings, until, working
from ragqueue.types import Ring
from tests.needs import require_redis

CHAT = "rq:queue:ragqueue-chat"


@pytest.fixture
async def queue(redis_server: RedisServer) -> AsyncIterator[RQQueue]:
    redis_server.flush()
    queue = RQQueue(f"rq+{redis_server.url}")
    yield queue
    await queue.close()


@pytest.fixture
async def other(queue: RQQueue, redis_server: RedisServer) -> AsyncIterator[RQQueue]:
    other = RQQueue(redis_server.url)
    yield other
    await other.close()


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


class TestRQQueue(QueueContract):
    pass


async def test_a_ring_travels_whole(queue: RQQueue) -> None:
    ring = Ring(
        job_id="a" * 32, lane="background", database="the-database", stamp=1234.5, front=True
    )
    handled = Handled()

    await queue.ring([ring])
    async with working(queue, handled, "background"):
        await until(lambda: handled.rings)

    assert handled.rings == [ring]


async def test_rings_at_the_front_keep_their_order(queue: RQQueue) -> None:
    late, urgent = rings(2), rings(3, front=True)
    handled = Handled()

    await queue.ring([*late, *urgent])
    async with working(queue, handled, concurrency=1):
        await until(lambda: len(handled.rings) == 5)

    assert handled.rings == [*urgent, *late]


async def test_a_delivery_that_is_done_leaves_nothing_in_redis(
    queue: RQQueue, raw: redis.Redis
) -> None:
    handled = Handled()

    async with working(queue, handled):
        await queue.ring(rings(5))
        await until(lambda: len(handled.rings) == 5)
        await until(lambda: not raw.keys("rq:job:*") and not raw.keys("rq:exec*"))

    assert raw.llen(f"{CHAT}:intermediate") == 0


async def test_a_handle_that_keeps_failing_is_rung_again_a_few_times(
    queue: RQQueue, raw: redis.Redis
) -> None:
    [ring] = rings(1)
    handled = Handled(failing=ring.job_id)

    async with working(queue, handled):
        await queue.ring([ring])
        await until(lambda: raw.zcard("rq:failed:ragqueue-chat") == 1)

    assert len(handled.rings) == 1 + RETRIES
    [key] = raw.keys(f"rq:job:{ring.job_id}-*")
    assert 0 < raw.ttl(key) <= 3600


async def test_a_worker_is_seen_by_rq(
    queue: RQQueue, redis_server: RedisServer, raw: redis.Redis
) -> None:
    handled = Handled(closed=True)

    async with working(queue, handled):
        await queue.ring(rings(2))
        await until(lambda: handled.running == 2)
        [worker] = Worker.all(connection=raw)
        info = await asyncio.to_thread(_rq, "info", "-u", redis_server.url, "--by-queue")
        executions = worker.get_current_executions()
        started = Queue("ragqueue-chat", connection=raw).started_job_registry.count
        handled.gate.set()
    await queue.close()

    assert worker.name in info
    assert len(executions) == 2
    assert started == 2
    assert Worker.all(connection=raw) == []


async def test_rq_can_suspend_and_resume_a_worker(queue: RQQueue, raw: redis.Redis) -> None:
    handled = Handled()

    async with working(queue, handled):
        await until(lambda: _blocked(raw))
        suspend(raw)
        await until(lambda: queue._workers[0]._suspended and not _blocked(raw))
        await queue.ring(rings(1))
        assert await queue.depth("chat") == 1
        resume(raw)
        await until(lambda: handled.rings)


async def test_rq_can_shut_a_worker_down(queue: RQQueue, raw: redis.Redis) -> None:
    async with working(queue, Handled()) as task:
        await until(lambda: queue._workers and queue._workers[0].pubsub_thread)
        send_shutdown_command(raw, queue._workers[0].name)
        async with asyncio.timeout(LIMIT):
            await task


async def test_a_ring_that_arrives_as_a_worker_stops_is_put_back(
    queue: RQQueue, raw: redis.Redis
) -> None:
    handled = Handled()

    async with working(queue, handled) as task:
        await until(lambda: _blocked(raw))
        queue._workers[0]._stopping.set()
        await queue.ring(rings(1))
        async with asyncio.timeout(LIMIT):
            await task

    assert await queue.depth("chat") == 1
    assert raw.llen(f"{CHAT}:intermediate") == 0


async def test_rq_can_stop_a_delivery(queue: RQQueue, raw: redis.Redis) -> None:
    handled = Handled(closed=True)

    async with working(queue, handled):
        await queue.ring(rings(2))
        await until(lambda: handled.running == 2)
        [stopped, _] = Queue("ragqueue-chat", connection=raw).started_job_registry.get_job_ids()
        send_stop_job_command(raw, stopped, JSONSerializer)
        await until(lambda: handled.running == 1)
        await until(lambda: raw.zcard("rq:failed:ragqueue-chat") == 1)
        assert raw.hget(f"rq:job:{stopped}", "status") == JobStatus.STOPPED.encode()
        handled.gate.set()

    assert len(handled.rings) == 2


async def test_a_worker_outlives_a_redis_that_is_killed_and_comes_back_empty(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with _own_redis() as (server, queue):
        handled = Handled(closed=True)
        async with working(queue, handled):
            await queue.ring(rings(3))
            await until(lambda: handled.running == 3)
            server.kill()
            handled.gate.set()
            await until(lambda: handled.running == 0)
            with pytest.raises(Unavailable):
                await queue.ring(rings(1))
            server.start()
            [last] = rings(1)
            await queue.ring([last])
            await until(lambda: last.job_id in handled.ids)
            name = queue._workers[0].name
            with redis.Redis.from_url(server.url) as client:
                await until(lambda: _worker_names(client) == [name])
                await until(lambda: not client.keys("rq:job:*") and not queue._workers[0]._running)

    messages = [record.message for record in caplog.records if "rq.unavail" in record.message]
    assert [message.partition(":")[0] for message in messages] == ["rq.unavailable"]


async def test_a_ring_that_redis_kept_over_its_death_is_delivered() -> None:
    async with _own_redis(appendonly=True) as (server, queue):
        wanted = rings(5)
        await queue.ring(wanted)
        server.kill()
        handled = Handled()
        async with working(queue, handled):
            server.start()
            await until(lambda: set(handled.ids) == {ring.job_id for ring in wanted})


async def test_a_worker_registers_again_after_flushall(
    queue: RQQueue, redis_server: RedisServer, raw: redis.Redis
) -> None:
    handled = Handled(closed=True)

    async with working(queue, handled):
        await queue.ring(rings(2))
        await until(lambda: handled.running == 2)
        redis_server.flush()
        handled.gate.set()
        await until(lambda: Worker.all(connection=raw))
        [last] = rings(1)
        await queue.ring([last])
        await until(lambda: last.job_id in handled.ids)
        await until(lambda: not raw.keys("rq:job:*"))

    assert Worker.all(connection=raw, queue=Queue("ragqueue-chat", connection=raw)) != []


async def test_a_worker_waits_for_a_redis_that_is_not_there_yet() -> None:
    require_redis()
    server = RedisServer()
    queue = RQQueue(server.url)
    handled = Handled()
    try:
        async with working(queue, handled):
            await asyncio.to_thread(server.start)
            await queue.ring(rings(1))
            await until(lambda: handled.rings)
    finally:
        await queue.close()
        server.stop()


async def test_the_books_go_on_after_an_end_that_cannot_be_written(
    queue: RQQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("what stands in Redis can be anything")

    monkeypatch.setattr(RingJob, "retry", broken)
    first, second = rings(2)
    handled = Handled(failing=first.job_id)

    async with working(queue, handled):
        for ring in (first, second):
            await queue.ring([ring])
            await until(lambda ring=ring: ring.job_id in handled.ids)  # type: ignore[misc]
        await until(lambda: not queue._workers[0]._running)


class Pickled:
    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self._canary}",)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that appears when hostile code is run, or merely imported.

    No test that uses it passes then.
    """
    appeared = tmp_path / "canary"
    (tmp_path / "hostile_code.py").write_text(
        f"open({str(appeared)!r}, 'w')\ndef run(*args):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield appeared
    sys.modules.pop("hostile_code", None)
    assert not appeared.exists()


def hostile(canary: Path) -> dict[str, dict[str, bytes | str]]:
    """Hashes of RQ jobs that somebody with a way into Redis wrote."""

    def call(name: object, *args: object, instance: object = None) -> bytes:
        return json.dumps([name, instance, args, {}]).encode()

    good = call(HANDLER, "job", "chat", "database", 1.0, False)
    return {
        "pickle": {"data": pickle.dumps(Pickled(canary))},
        "pickled-result": {
            "data": good[:-5],
            "result": pickle.dumps(Pickled(canary)),
            "meta": pickle.dumps(Pickled(canary)),
        },
        "os-system": {
            "data": call("os.system", f"touch {canary}"),
            "retries_left": "1000000",
            "failure_ttl": "-1",
        },
        "import": {"data": call("hostile_code.run")},
        "method": {"data": call("format", instance="{}")},
        "callback": {
            "data": call("nothing.at.all"),
            "failure_callback_name": "hostile_code.run",
            "success_callback_name": "hostile_code.run",
        },
        "arguments": {"data": call(HANDLER, ["a"], "chat", "database", 1.0, False)},
        "no-arguments": {"data": call(HANDLER)},
        "not-finite": {
            "data": b'["%s", null, ["a", "chat", "d", NaN, false], {}]' % HANDLER.encode()
        },
        "name": {"data": call({"a": 1})},
        "text": {"data": b"not json"},
        "deep": {"data": b"[" * 100_000},
        "no-data": {"origin": "ragqueue-chat"},
        "numbers": {"data": good, "timeout": "soon", "result_ttl": "x"},
        "status": {"data": good, "status": "hostile"},
    }


async def test_hostile_jobs_run_no_code_and_stop_no_worker(
    queue: RQQueue, raw: redis.Redis, canary: Path
) -> None:
    jobs = hostile(canary)
    for name, fields in jobs.items():
        raw.hset(f"rq:job:{name}", mapping=fields)  # type: ignore[arg-type]
    raw.set("rq:job:string", "not a hash")
    raw.rpush(
        CHAT, *jobs, "string", "unknown", "a:b:c", "", "spaces in it", b"\xff\xfe", "x" * 100_000
    )
    handled = Handled()

    async with working(queue, handled):
        await until(lambda: queue._workers)
        channel = f"rq:pubsub:{queue._workers[0].name}"
        await until(lambda: raw.pubsub_numsub(channel)[0][1])
        for message in (b"\xff", "not json", "[]", '{"command": {}}', "{}"):
            raw.publish(channel, message)
        [last] = rings(1)
        await queue.ring([last])
        await until(lambda: last.job_id in handled.ids)
        await until(
            lambda: raw.llen(f"{CHAT}:intermediate") == 0 and not queue._workers[0]._running
        )

    assert handled.rings == [last]
    assert await queue.depth("chat") == 0


async def test_maintenance_survives_what_stands_in_redis(
    queue: RQQueue, raw: redis.Redis, canary: Path
) -> None:
    abandoned = hostile(canary)["callback"] | {"status": "started", "retries_left": "1"}
    raw.hset("rq:job:abandoned", mapping=abandoned)  # type: ignore[arg-type]
    raw.zadd("rq:wip:ragqueue-chat", {"abandoned:execution": 1, b"\xff": 1})
    raw.rpush(f"{CHAT}:intermediate", b"\xff")
    handled = Handled()

    async with working(queue, handled):
        await until(lambda: queue._workers and queue._workers[0].last_cleaned_at)
        await queue.ring(rings(1))
        await until(lambda: handled.rings)


@pytest.mark.parametrize(
    "name", ["pickle", "pickled-result", "os-system", "import", "callback", "method"]
)
async def test_the_job_class_refuses_hostile_jobs_under_a_stock_worker(
    queue: RQQueue, raw: redis.Redis, canary: Path, name: str
) -> None:
    fields = hostile(canary)[name] | {"origin": "ragqueue-chat"}
    raw.hset(f"rq:job:{name}", mapping=fields)  # type: ignore[arg-type]
    raw.rpush(CHAT, name)

    await asyncio.to_thread(_simple_worker, raw)

    assert raw.zscore("rq:failed:ragqueue-chat", name) is not None


def test_callbacks_and_webhooks_in_redis_are_not_read(raw: redis.Redis) -> None:
    hook = {
        "url": "http://127.0.0.1:1/",
        "job_status": "failed",
        "method": "GET",
        "headers": None,
        "timeout": 1,
    }
    fields: dict[str, bytes | str] = {"data": b"[]", "webhooks": json.dumps([hook])}
    for name in ("success", "failure", "stopped"):
        fields[f"{name}_callback_name"] = "os.system"
    raw.hset("rq:job:hooked", mapping=fields)

    job = RingJob.fetch("hooked", connection=raw)

    read = (job.webhooks, job.success_callback, job.failure_callback, job.stopped_callback)
    assert read == ([], None, None, None)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["a"],
        ["a", "lane", "d", 1.0, False],
        ["a", "chat", "d", "1", False],
        ["a", "chat", "d", 1.0, 0],
        [None, "chat", "d", 1.0, False],
        "abcde",
    ],
)
def test_what_is_no_ring_is_refused(args: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="no ring"):
        ring_of(args)


async def test_a_broker_belongs_to_one_database(queue: RQQueue, other: RQQueue) -> None:
    await queue.claim_database("first")
    await other.claim_database("first")

    with pytest.raises(ConfigError, match="REDIS_URL") as caught:
        await other.claim_database("second")
    assert caught.value.code == "database_mismatch"
    assert "RAGQUEUE_DATA" in caught.value.message
    assert "'first'" in caught.value.message


async def test_a_broker_that_is_away_is_unavailable_and_no_message_shows_its_password() -> None:
    queue = RQQueue("rq+redis://user:hunter2@127.0.0.1:1/0?password=hunter3")

    for attempt in (queue.ring(rings(1)), queue.depth("chat"), queue.claim_database("database")):
        with pytest.raises(Unavailable, match=r"redis://\*{4}@127\.0\.0\.1:1/0") as caught:
            await attempt
        assert "hunter" not in caught.value.message
    await queue.close()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A double of the wiring; `handled` is what its worker was given."""
    keeper = SimpleNamespace(broken_loop="", end_with=lambda end: None, check=lambda: None)
    double = SimpleNamespace(
        handled=[], drained=0, lanes={"chat": 3, "background": 1}, keeper=keeper
    )

    class DoubleWorker:
        def start(self) -> None: ...

        async def handle(self, ring: Ring) -> None:
            double.handled.append(ring)

        async def drain(self, seconds: float) -> None:
            double.drained += 1

    @asynccontextmanager
    async def open_runtime(settings: object) -> AsyncIterator[SimpleNamespace]:
        yield double

    double.worker = lambda lanes: DoubleWorker()
    settings = SimpleNamespace(drain=0.0)
    _install(monkeypatch, "ragqueue.wiring", open_runtime=open_runtime)
    _install(monkeypatch, "ragqueue.settings", load=lambda: (settings, {}))
    return double


def _install(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)


async def test_a_stock_simple_worker_runs_our_rings(
    queue: RQQueue, raw: redis.Redis, runtime: SimpleNamespace
) -> None:
    wanted = rings(3)
    await queue.ring(wanted)

    await asyncio.to_thread(_simple_worker, raw)

    assert runtime.handled == wanted
    assert runtime.drained == 3
    assert not raw.keys("rq:job:*")


async def test_a_stock_worker_without_our_job_class_runs_our_rings_too(
    queue: RQQueue, raw: redis.Redis, runtime: SimpleNamespace
) -> None:
    await queue.ring(rings(1))

    await asyncio.to_thread(_simple_worker, raw, Job)

    assert len(runtime.handled) == 1


# What a stock launcher runs, with a double of the wiring that prints what it was given.
LAUNCHER = """
    import contextlib, os, signal, sys, types
    if "--without-posix" in sys.argv:
        sys.argv.remove("--without-posix")
        for name in ("fork", "wait4", "posix_spawn", "killpg", "getpgid", "setpgrp"):
            delattr(os, name)
        for name in ("SIGALRM", "alarm", "SIGKILL"):
            delattr(signal, name)

    class Worker:
        def start(self): print("started", flush=True)
        async def handle(self, ring): print("handled", ring.job_id, flush=True)
        async def drain(self, seconds): print("drained", flush=True)

    @contextlib.asynccontextmanager
    async def open_runtime(settings):
        yield types.SimpleNamespace(
            lanes={"chat": 3, "background": 1},
            worker=lambda lanes: Worker(),
            keeper=types.SimpleNamespace(
                broken_loop="", end_with=lambda end: None, check=lambda: None
            ),
        )

    wiring = types.ModuleType("ragqueue.wiring")
    wiring.open_runtime = open_runtime
    sys.modules["ragqueue.wiring"] = wiring
    from rq.cli import main
    main()
"""


@contextmanager
def _launched(
    url: str, *args: str, worker: str = "AsyncWorker"
) -> "Iterator[subprocess.Popen[str]]":
    words = ["worker", "-w", f"ragqueue.entrypoints.rq.{worker}", "-u", url, *args]
    command = [sys.executable, "-c", textwrap.dedent(LAUNCHER), *words]
    env = clean_environment() | {"RAGQUEUE_ENV_FILE": "", "REDIS_URL": url}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_stock_launcher_starts_our_worker_and_a_signal_ends_it(
    queue: RQQueue, redis_server: RedisServer, raw: redis.Redis
) -> None:
    wanted = rings(2)
    await queue.ring(wanted)

    with _launched(redis_server.url, "-q", "--with-scheduler", "ragqueue-chat") as process:
        assert process.stdout is not None
        seen = [await asyncio.to_thread(process.stdout.readline) for _ in range(3)]
        [worker] = Worker.all(connection=raw)
        await until(lambda: raw.keys("rq:scheduler:*"))
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.to_thread(process.communicate, None, LIMIT)

    assert worker.queue_names() == ["ragqueue-chat"]
    assert seen[0] == "started\n"
    assert {line.split()[1] for line in seen[1:]} == {ring.job_id for ring in wanted}
    assert out == "drained\n"
    assert process.returncode == 0, err
    assert Worker.all(connection=raw) == []


async def test_the_stock_launcher_works_in_burst_mode_without_posix(
    queue: RQQueue, redis_server: RedisServer
) -> None:
    await queue.ring(rings(5))

    with _launched(redis_server.url, "--burst", "ragqueue-chat", "--without-posix") as process:
        out, err = await asyncio.to_thread(process.communicate, None, LIMIT)

    assert out.count("handled") == 5
    assert process.returncode == 0, err


@pytest.mark.parametrize("worker", ["SimpleWorker", "Worker"])
async def test_our_other_workers_run_rings_of_both_queues_whatever_the_launcher_says(
    queue: RQQueue, redis_server: RedisServer, raw: redis.Redis, worker: str
) -> None:
    wanted = [*rings(2), *rings(1, lane="background")]
    await queue.ring(wanted)
    options = ["--burst", "--with-scheduler", "-S", "pickle", "-j", "rq.job.Job"]
    queues = ["ragqueue-chat", "ragqueue-background"]

    with _launched(redis_server.url, *options, *queues, worker=worker) as process:
        out, err = await asyncio.to_thread(process.communicate, None, LIMIT)

    handled = {line.split()[1] for line in out.splitlines() if line.startswith("handled")}
    assert handled == {ring.job_id for ring in wanted}
    assert process.returncode == 0, err
    assert not raw.keys("rq:job:*")


async def test_a_simple_worker_runs_rings_without_posix_and_a_forking_one_is_refused(
    queue: RQQueue, redis_server: RedisServer
) -> None:
    await queue.ring(rings(2))
    options = ["--burst", "ragqueue-chat", "--without-posix"]

    with _launched(redis_server.url, *options, worker="Worker") as process:
        _, refused = await asyncio.to_thread(process.communicate, None, LIMIT)
    with _launched(redis_server.url, *options, worker="SimpleWorker") as simple:
        out, err = await asyncio.to_thread(simple.communicate, None, LIMIT)

    assert (process.returncode, refused.count("\n"), "SimpleWorker" in refused) == (2, 1, True)
    assert (simple.returncode, out.count("handled")) == (0, 2), err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ragqueue-chat", "ragqueue-background"], "exactly one"),
        (["default"], "ragqueue-chat and ragqueue-background, not default"),
        (["--max-jobs", "3", "ragqueue-chat"], "--max-jobs"),
    ],
)
async def test_what_our_worker_cannot_do_is_said(
    queue: RQQueue, redis_server: RedisServer, args: list[str], message: str
) -> None:
    with _launched(redis_server.url, *args) as process:
        _, err = await asyncio.to_thread(process.communicate, None, LIMIT)

    assert message in err
    assert err.count("\n") <= 2  # RQ says of some that they listen
    assert (process.returncode, "Traceback" in err) == (2, False)


def _simple_worker(raw: redis.Redis, job_class: type[Job] = RingJob) -> None:
    worker = SimpleWorker(
        ["ragqueue-chat"],
        connection=raw,
        job_class=job_class,
        serializer=JSONSerializer,
        name=uuid.uuid4().hex,
    )
    worker.request_stop = lambda *_: None  # type: ignore[method-assign]
    # It is not in the main thread.
    worker._install_signal_handlers = lambda: None  # type: ignore[method-assign]
    worker.death_penalty_class = __import__("rq.timeouts").timeouts.TimerDeathPenalty
    worker.work(burst=True)


def _rq(*args: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "rq.cli", *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    ).stdout


def _worker_names(raw: redis.Redis) -> list[str]:
    return [worker.name for worker in Worker.all(connection=raw)]


def _blocked(raw: redis.Redis) -> bool:
    return any(client["cmd"] == "blmove" and "b" in client["flags"] for client in raw.client_list())


@asynccontextmanager
async def _own_redis(*, appendonly: bool = False) -> AsyncIterator[tuple[RedisServer, RQQueue]]:
    require_redis()
    server = RedisServer(appendonly=appendonly).start()
    queue = RQQueue(server.url)
    try:
        yield server, queue
    finally:
        await queue.close()
        server.stop()
