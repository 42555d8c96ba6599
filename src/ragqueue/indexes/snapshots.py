"""Files of a replica: written whole, named for what they hold and for their checksum, verified at every load.

Without the checksum FAISS noticed 3 of 60 flipped bits.
"""

import hashlib
import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragqueue.errors import StoreFull

PARTIAL_AGE = 60.0  # seconds without a write after which nobody writes a partial file any more
_NAME = re.compile(r"(\d+)-(\d+)-([0-9a-f]{64})\.faiss")

logger = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """An index as bytes, the chunk number of each of its places, and up to where it follows the records."""

    numbers: NDArray[np.int64]
    data: NDArray[np.uint8]
    last_number: int
    last_removal: int


def save(folder: Path, snapshot: Snapshot) -> Path:
    """Write a snapshot: all of it or nothing is there afterwards, whatever happens. Raises StoreFull."""
    head = len(snapshot.numbers).to_bytes(8, "little") + snapshot.numbers.astype("<i8").tobytes()
    checksum = hashlib.sha256(head)
    checksum.update(snapshot.data.data)
    path = folder / f"{snapshot.last_number}-{snapshot.last_removal}-{checksum.hexdigest()}.faiss"
    partial = folder / f"{os.urandom(8).hex()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(head)
            file.write(snapshot.data.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StoreFull(f"the snapshot cannot be written to {str(folder)!r} ({error.strerror}): free some space there") from error
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return path


def load(path: Path) -> Snapshot | None:
    """Return a snapshot, None with a warning when it is not what its name says."""
    match = _NAME.fullmatch(path.name)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        logger.warning("index.snapshot_unreadable %s: %s", path.name, error)
        return None
    if match is None or hashlib.sha256(data.data).hexdigest() != match[3]:
        logger.warning("index.snapshot_damaged %s", path.name)
        return None
    end = 8 + 8 * int.from_bytes(data[:8].tobytes(), "little")
    return Snapshot(data[8:end].view("<i8"), data[end:], int(match[1]), int(match[2]))


def found(folder: Path) -> list[Path]:
    """Return the snapshots of a folder, newest first."""
    return sorted((path for path in folder.glob("*.faiss") if _NAME.fullmatch(path.name)), key=_age, reverse=True)


def prune(folder: Path, written: Path | None, last_removal: int, *, erase: bool) -> None:
    """Delete the snapshots that one just written replaces, but for the last that a reader may be opening; with `erase` that too.

    Two processes may do this at once: each looks after it wrote, so one of them sees what the other left with removed vectors.
    """
    others = [path for path in found(folder) if path != written]
    if written is not None and any(_age(path)[1] > last_removal for path in others):
        discard(written)
    older = [path for path in others if _age(path)[1] <= last_removal]
    for path in older if erase or written is None else older[1:]:
        discard(path)
    for path in folder.glob("*.partial"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > PARTIAL_AGE:
                path.unlink()


def discard(path: Path) -> None:
    """Delete a snapshot; one that is in use (Windows) goes the next time."""
    with suppress(OSError):
        path.unlink()


def _age(path: Path) -> tuple[int, int, str]:
    number, removal, checksum = path.stem.split("-")
    return int(number), int(removal), checksum
