"""Snapshots of a space on the disk: FAISS's index, and behind it the numbers of its chunks.

The name of a file says up to which removal and which chunk it follows the records, so that names
sort by age, and the CRC-32 of what it holds.
"""

import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragqueue.errors import StoreFull
from ragqueue.indexes.faiss_view import View, build_index, load_faiss
from ragqueue.records import chunks

PARTIAL_AGE = 60.0  # seconds without a write after which nobody writes a partial file any more
TOLERANCE = 1e-3  # of a cosine that is compared with the records


def write(folder: Path, parts: Sequence[chunks.News]) -> View:
    """Write a snapshot of all that a space holds, delete the others, and return its view.

    A space that holds nothing has no snapshot. Raises StoreFull.
    """
    if not parts:
        _delete_all_but(folder, 0)
        return View()
    view = _build(parts)
    _save(folder, view)
    # Two processes may do this at once: the last one sees what both wrote,
    # and keeps what knows of more removals.
    _delete_all_but(folder, 1)
    return view


def _build(parts: Sequence[chunks.News]) -> View:
    numbers = np.concatenate([part.numbers for part in parts])
    index = build_index(np.concatenate([part.vectors for part in parts]))
    return View(
        numbers=numbers,
        indexes=(index,),
        number=int(numbers[-1]),
        removal=parts[0].removal,
        base=len(numbers),
    )


def _save(folder: Path, view: View) -> None:
    """Write the file of a view whole, or not at all. Raises StoreFull."""
    index = load_faiss().serialize_index(view.indexes[0]).data
    numbers = view.numbers.astype("<i8").data
    checksum = zlib.crc32(numbers, zlib.crc32(index))
    path = folder / f"{view.removal:020}-{view.number:020}-{checksum:08x}.faiss"
    partial = folder / f"{os.urandom(8).hex()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(index)
            file.write(numbers)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        discard(partial)
        raise StoreFull(
            f"the snapshot cannot be written to {str(folder)!r} ({error.strerror}): "
            "free some space there"
        ) from error


def _delete_all_but(folder: Path, count: int) -> None:
    """Delete all snapshots but the `count` newest, and the files of writers that are gone."""
    for path in newest_first(folder)[count:]:
        discard(path)
    for path in folder.glob("*.partial"):
        discard(path, age=PARTIAL_AGE)


def newest_first(folder: Path) -> list[Path]:
    """Return the snapshots of a space."""
    return sorted(folder.glob("*.faiss"), reverse=True)


def last_number(path: Path) -> int:
    """Return the number of the last chunk that a snapshot holds, as its name says."""
    return int(path.stem.split("-")[1])


def load(path: Path, living: NDArray[np.int64], removal: int, probes: chunks.News) -> View | None:
    """Return what lives of a snapshot.

    `living` are the chunks, up to its last one, that have a vector in the records; `probes` some
    of them. The records are followed up to this removal. None when the snapshot is damaged, lacks
    what the records held then, or holds other vectors. Raises OSError.
    """
    data = np.fromfile(path, np.uint8)
    # FAISS itself noticed 3 of 60 flipped bits; CRC-32 notices every one.
    if f"{zlib.crc32(data.data):08x}" != path.stem.split("-")[2]:
        return None
    index = load_faiss().deserialize_index(data)  # which leaves what follows it
    numbers = data[-8 * index.ntotal :].view("<i8")
    view = View(
        numbers=np.where(np.isin(numbers, living), numbers, -1),
        indexes=(index,),
        number=int(living[-1]),
        removal=removal,
        base=len(numbers),
    )
    if view.size != len(living) or not _holds(view, probes):
        return None
    return view


def _holds(view: View, probes: chunks.News) -> bool:
    """Say whether a view holds the vectors that the records do.

    After a backup was restored, or the records begun anew, the same numbers name other chunks.
    """
    if probes.vectors.shape[1] != view.indexes[0].d:
        return False
    vectors = probes.vectors.astype(np.float32)
    for number, vector in zip(probes.numbers.tolist(), vectors, strict=True):
        if number > view.number:
            continue
        _, cosine = view.search(vector, 1, allowed=[number])[0]
        is_same = abs(cosine - float(vector @ vector)) <= TOLERANCE
        if not is_same:
            return False
    return True


def discard(path: Path, *, age: float = 0.0) -> None:
    """Delete a file that nobody has written for `age` seconds.

    One that is in use (Windows) goes the next time.
    """
    with suppress(OSError):
        if not age or time.time() - path.stat().st_mtime > age:
            path.unlink()
