"""What is on the disk after a power cut: 200 cuts here, 10,000 in the long form."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from campaigns.faults import powercut, powercut_recorder
from campaigns.faults.powercut_disk import HEADER, Disk, Kind, Record, parse, promise
from campaigns.faults.powercut_writer import FINISHED, answer_of
from tests.needs import missing

CUTS = 200


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return powercut_recorder.build(tmp_path_factory.mktemp("recorder"))
    except powercut_recorder.PowercutError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def log(library: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("run")
    return powercut_recorder.record(folder, library, random.Random(5), None)


@pytest.mark.campaign
@pytest.mark.usefixtures("library")
def test_no_promise_is_lost_and_no_database_corrupt() -> None:
    found = powercut.run(CUTS)

    assert (found["cuts"], found["lost"], found["corrupt"]) == (CUTS, 0, 0)
    assert found["acked"] > CUTS
    assert found["checkpoints"] > 0


@pytest.mark.campaign
@pytest.mark.usefixtures("library")
def test_promises_committed_like_events_are_lost() -> None:
    assert powercut.run(CUTS, "full_commit")["lost"] > 0


@pytest.mark.campaign
def test_a_disk_that_ignores_syncs_of_the_database_corrupts_it(log: bytes, tmp_path: Path) -> None:
    forgetful = _without_syncs_of_checkpoints(log)

    counts = powercut.replay(forgetful, tmp_path / "cut", random.Random(5), CUTS)

    assert counts["corrupt"] > 0


def test_an_answer_that_is_torn_or_another_ones_is_a_promise_gone() -> None:
    whole = json.dumps(answer_of("w0-1"))

    found = [
        powercut._gone("w0-1", FINISHED, FINISHED, body)
        for body in (whole, whole[:-9] + "\0" * 9, json.dumps(answer_of("w0-2")), None)
    ]

    assert found == [0, 1, 1, 1]


def _without_syncs_of_checkpoints(log: bytes) -> bytes:
    """Drop the syncs of the main file.

    So a checkpoint may be torn after its write-ahead log was begun anew.
    """
    acts = list(parse(log))
    opened = [act for act in acts if act.kind == Kind.OPEN and act.name == "records.sqlite3"]
    main = opened[0].file
    syncs = (Kind.SYNC_BEGIN, Kind.SYNC_END)
    kept = [act for act in acts if act.file != main or act.kind not in syncs]
    return b"".join(_pack(act) for act in kept)


def _pack(act: Record) -> bytes:
    name = act.name.encode()
    head = HEADER.pack(act.kind, len(name), act.file, act.thread, act.offset, len(act.data))
    return head + name + act.data


def _act(
    kind: Kind,
    name: str = "",
    *,
    file: int = 7,
    thread: int = 1,
    offset: int = 0,
    data: bytes = b"",
) -> Record:
    return Record(kind, name, file, thread, offset, memoryview(data))


FOLDER = 1
NAMED = [
    _act(Kind.OPEN, file=FOLDER),
    _act(Kind.OPEN, "a"),
    _act(Kind.SYNC_BEGIN, file=FOLDER),
    _act(Kind.SYNC_END, file=FOLDER),
]


def _after(*acts: Record) -> Iterator[dict[str, bytes]]:
    disk = Disk()
    for act in acts:
        disk.follow(act)
    return (disk.after_cut(random.Random(seed)) for seed in range(200))


def test_a_synced_write_is_always_there() -> None:
    acts = [*NAMED, _act(Kind.WRITE, data=b"x" * 2000), _act(Kind.SYNC_BEGIN), _act(Kind.SYNC_END)]

    assert all(left == {"a": b"x" * 2000} for left in _after(*acts))


def test_an_unsynced_write_is_kept_dropped_or_torn() -> None:
    lefts = {left["a"] for left in _after(*NAMED, _act(Kind.WRITE, data=b"x" * 2000))}

    assert {b"", b"x" * 2000} < lefts


def test_a_tear_runs_along_sectors() -> None:
    synced = [_act(Kind.WRITE, data=b"x" * 2048), _act(Kind.SYNC_BEGIN), _act(Kind.SYNC_END)]

    write = _act(Kind.WRITE, offset=100, data=b"y" * 1436)
    lefts = [left["a"] for left in _after(*NAMED, *synced, write)]

    sectors = [(set(left[100:512]), set(left[512:1024]), set(left[1024:1536])) for left in lefts]
    assert all(len(values) == 1 for left in sectors for values in left)
    assert any(left[0] != left[1] for left in sectors)


def test_a_write_during_a_sync_is_not_safe() -> None:
    write = _act(Kind.WRITE, thread=2, data=b"x")
    acts = [*NAMED, _act(Kind.SYNC_BEGIN), write, _act(Kind.SYNC_END)]

    assert any(left["a"] == b"" for left in _after(*acts))


def test_a_sync_that_has_not_ended_keeps_nothing() -> None:
    acts = [*NAMED, _act(Kind.WRITE, data=b"x"), _act(Kind.SYNC_BEGIN)]

    assert any(left["a"] == b"" for left in _after(*acts))


def test_a_new_name_may_be_gone_until_its_folder_is_synced() -> None:
    lefts = [left.keys() for left in _after(*NAMED, _act(Kind.OPEN, "b", file=8))]

    assert any("b" in left for left in lefts)
    assert any("b" not in left for left in lefts)


def test_a_removed_file_may_be_back_with_its_content() -> None:
    written = [_act(Kind.WRITE, data=b"x"), _act(Kind.SYNC_BEGIN), _act(Kind.SYNC_END)]

    lefts = list(_after(*NAMED, *written, _act(Kind.UNLINK, "a"), _act(Kind.OPEN, "b")))

    assert {"a": b"x"} in lefts
    assert {"b": b""} in lefts


def test_a_promise_stands_in_the_log_as_it_was_made() -> None:
    (act,) = parse(promise("w0-1", 3))

    assert (act.kind, act.name, act.offset) == (Kind.PROMISE, "w0-1", 3)


def test_a_recorder_that_missed_a_write_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "records.sqlite3").write_bytes(b"unseen")

    problem = r"missed writes to \['records.sqlite3'\]"
    with pytest.raises(powercut_recorder.PowercutError, match=problem):
        powercut_recorder.check_complete(tmp_path, b"")


def test_a_machine_without_a_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)

    with pytest.raises(powercut_recorder.PowercutError, match="apt-get install gcc"):
        powercut_recorder.build(tmp_path)
