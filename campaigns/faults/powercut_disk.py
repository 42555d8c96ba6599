"""A disk that lost its power: what a folder may hold, given what was written and what was synced.

Everything that was synced is there. Of the rest each write is kept, dropped or torn at 512-byte
sectors, file by file; names that were made, moved or removed since the folder's last sync came
about in order, up to some point.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

SECTOR = 512
HEADER = struct.Struct("=IIQQqQ")


class Kind(IntEnum):
    """What powercut.c records, and the writer's own promises."""

    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC_BEGIN = 4
    SYNC_END = 5
    UNLINK = 6
    RENAME = 7
    PROMISE = 8


class Record(NamedTuple):
    """One act on the folder."""

    kind: int
    name: str
    file: int  # its inode
    thread: int
    offset: int  # of a truncation the new size, of a promise its stage
    data: memoryview


def promise(name: str, stage: int) -> bytes:
    """Return the record by which a writer notes what it has promised, between its acts."""
    encoded = name.encode()
    return HEADER.pack(Kind.PROMISE, len(encoded), 0, 0, stage, 0) + encoded


def parse(log: bytes) -> Iterator[Record]:
    """Yield the records of a log."""
    view = memoryview(log)
    at = 0
    while at < len(log):
        kind, name_size, file, thread, offset, size = HEADER.unpack_from(log, at)
        at += HEADER.size
        name = str(view[at : at + name_size], "utf-8")
        at += name_size
        yield Record(kind, name, file, thread, offset, view[at : at + size])
        at += size


class Change(NamedTuple):
    """A write, or a truncation to `offset` when there is no data."""

    number: int
    offset: int
    data: memoryview | None


@dataclass(slots=True)
class File:
    """What is certainly on the disk, and what may be."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)


class Disk:
    """Follows the records one by one; at any moment it can say what a cut would leave."""

    def __init__(self) -> None:
        self._number = 0
        self._files: dict[int, File] = {}
        self._live: dict[str, File] = {}  # names as the processes see them
        self._names: dict[str, File] = {}  # names that are certainly on the disk
        # Moves of names since the folder's last sync: name -> its file, None where it goes.
        self._moves: list[dict[str, File | None]] = []
        self._folder = 0  # its inode
        self._begun: dict[int, int] = {}  # thread -> number at which its sync began

    def follow(self, record: Record) -> None:
        """Take note of one act."""
        self._number += 1
        match record.kind:
            case Kind.OPEN:
                self._open(record)
            case Kind.WRITE:
                self._change(record, record.data)
            case Kind.TRUNCATE:
                self._change(record, None)
            case Kind.SYNC_BEGIN:
                self._begun[record.thread] = self._number
            case Kind.SYNC_END:
                self._sync(record.file, self._begun.pop(record.thread))
            case Kind.UNLINK:
                self._move({record.name: None})
            case Kind.RENAME:
                new_name = str(record.data, "utf-8")
                self._move({record.name: None, new_name: self._live[record.name]})

    def after_cut(self, rng: random.Random) -> dict[str, bytes]:
        """Return one folder that the power cut may have left."""
        names = dict(self._names)
        survivors = rng.randint(0, len(self._moves))
        for move in self._moves[:survivors]:
            _rename(names, move)
        return {name: bytes(_torn(file, rng)) for name, file in names.items()}

    def inode(self, name: str) -> int:
        """Return the inode behind a name, 0 when there is none."""
        named = self._live.get(name)
        for inode, file in self._files.items():
            if file is named:
                return inode
        return 0

    def whole(self) -> dict[str, bytes]:
        """Return the folder as the processes saw it last."""
        return {name: bytes(_whole(file)) for name, file in self._live.items()}

    def _open(self, record: Record) -> None:
        if not record.name:
            self._folder = record.file
            return
        live = self._live.get(record.name)
        if live is not None and live is self._files[record.file]:
            return
        # The number of a removed file is used again: the old content must not come back with it.
        file = File()
        self._files[record.file] = file
        self._move({record.name: file})

    def _change(self, record: Record, data: memoryview | None) -> None:
        change = Change(self._number, record.offset, data)
        self._files[record.file].pending.append(change)

    def _move(self, move: dict[str, File | None]) -> None:
        _rename(self._live, move)
        self._moves.append(move)

    def _sync(self, file: int, began: int) -> None:
        if file == self._folder:
            for move in self._moves:
                _rename(self._names, move)
            self._moves.clear()
            return
        synced = self._files[file]
        # Pending changes stand in order, so that what is safe is a beginning of them.
        safe = [change for change in synced.pending if change.number < began]
        for change in safe:
            _apply(synced.durable, change.offset, change.data)
        del synced.pending[: len(safe)]


def _rename(names: dict[str, File], move: dict[str, File | None]) -> None:
    for name, file in move.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _whole(file: File) -> bytearray:
    image = bytearray(file.durable)
    for change in file.pending:
        _apply(image, change.offset, change.data)
    return image


def _apply(image: bytearray, offset: int, data: memoryview | None) -> None:
    if data is None:
        del image[offset:]
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    if data is not None:
        image[offset : offset + len(data)] = data


def _torn(file: File, rng: random.Random) -> bytearray:
    """Apply a random part of what was not synced.

    Each file has its own luck, so the order between files is lost as well.
    """
    image = bytearray(file.durable)
    luck = rng.choice((0.0, 0.0, 0.5, 0.9, 1.0))
    for change in file.pending:
        if rng.random() < luck:
            _apply(image, change.offset, change.data)
        elif change.data is not None and 0 < luck < 1:
            _tear(image, change.offset, change.data, rng)
    return image


def _tear(image: bytearray, offset: int, data: memoryview, rng: random.Random) -> None:
    """Keep half of the sectors, or none.

    The disk may learn the new size before the bytes.
    """
    share = rng.choice((0.0, 0.5))
    at = 0
    while at < len(data):
        step = SECTOR - (offset + at) % SECTOR
        if rng.random() < share:
            _apply(image, offset + at, data[at : at + step])
        at += step
    end = offset + len(data)
    if rng.random() < 0.25 and end > len(image):
        image.extend(bytes(end - len(image)))
