"""Parse documents in a process of its own, limited and without network.

It is started and killed by the pool only.
"""

import ctypes
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeVar

import msgspec
from msgspec import structs

from ragqueue.errors import UnreadableDocument
from ragqueue.storable import as_text
from ragqueue.types import Block, Parsed, Row

if sys.platform != "win32":
    import resource

BLOCKS_AT_ONCE = 2000  # in one frame: to decode more at once holds the parent's interpreter
ROWS_AT_ONCE = 500
T = TypeVar("T")
MEMORY_EXIT = 77  # exit status that the pool reads
YIELDING = 10  # added to its niceness: who waits for an answer comes before who waits for a file
MAX_TEXT = 10_000_000  # characters of a document
_DOCUMENTS = 200  # that a child reads in its life: native libraries keep what they once took

# Of unshare and prctl.
_NEW_USER = 0x10000000
_NEW_NET = 0x40000000
_NO_NEW_PRIVILEGES = 38


class Request(msgspec.Struct):
    """A document to be read; its bytes follow."""

    id: str
    target: str  # "module:Class" of the parser
    cut: str  # "module:function" that cuts what it reads
    name: str
    size: int  # bytes
    seconds: float


class Head(msgspec.Struct):
    """What was read, but for the blocks and rows, which follow in frames of their own."""

    text: str
    title: str
    pages: int | None
    language: str
    blocks: int  # how many follow
    rows: int


# With each comes the id of its request: no other request is answered by what a document left.
Body = Head | list[Block] | list[Row] | str  # a text alone says why nothing was read


def main() -> None:
    """Say what bounds the child, then answer requests until the pipe closes.

    A frame is a length (8 bytes, big endian) and MessagePack.
    """
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    # These are for the parent, which decides what happens to its children.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    # Before the bounds: the model of languages is unpacked into a temporary file.
    pkgutil.resolve_name(sys.argv[2])()
    hello = _bound(int(sys.argv[1]))
    # Until here an error could be seen; no library shall read or write between the frames, or
    # into logs.
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    try:
        _answer_requests(requests, answers, hello)
    except MemoryError:
        os._exit(MEMORY_EXIT)  # what is half done cannot be trusted


def _answer_requests(requests: BinaryIO, answers: BinaryIO, hello: str) -> None:
    """Write the hello, then the frames of the answer to each request. Raises MemoryError."""
    _write(answers, "", hello)
    for _ in range(_DOCUMENTS):
        size = int.from_bytes(requests.read(8), "big")
        if not size:
            return
        request = _read_request(requests, size)
        _answer(request, requests.read(request.size), answers)


def _write(answers: BinaryIO, request_id: str, body: Body) -> None:
    frame = msgspec.msgpack.encode((request_id, body))
    answers.writelines((len(frame).to_bytes(8, "big"), frame))
    answers.flush()


def _read_request(requests: BinaryIO, size: int) -> Request:
    return msgspec.msgpack.decode(requests.read(size), type=Request)


def _answer(request: Request, data: bytes, answers: BinaryIO) -> None:
    """Write what was read and cut, or in words why it could not be. Raises MemoryError."""
    if sys.platform != "win32":
        # The clock of the pool is faster, this one works when the pool is gone.
        _limit(resource.RLIMIT_CPU, int(time.process_time() + request.seconds) + 2)
    try:
        parsed = _parse(request, data)
        title, language, rows = pkgutil.resolve_name(request.cut)(parsed, request.name)
    except MemoryError:
        raise
    except UnreadableDocument as error:
        _write(answers, request.id, error.message)
        return
    except Exception as error:  # noqa: BLE001 - the edge of a process
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        problem = f"{request.name!r} cannot be read: its parser failed ({reason})"
        _write(answers, request.id, problem)
        return
    head = Head(
        text=parsed.text,
        title=title,
        pages=parsed.pages,
        language=language,
        blocks=len(parsed.blocks),
        rows=len(rows),
    )
    _write(answers, request.id, head)
    for blocks in _parts(parsed.blocks, BLOCKS_AT_ONCE):
        _write(answers, request.id, blocks)
    for part in _parts(rows, ROWS_AT_ONCE):
        _write(answers, request.id, part)


def _parts(items: Sequence[T], at_once: int) -> Iterator[list[T]]:
    for start in range(0, len(items), at_once):
        yield list(items[start : start + at_once])


def _parse(request: Request, data: bytes) -> Parsed:
    """Return what the parser reads. Raises UnreadableDocument, and whatever the parser raises."""
    parser = pkgutil.resolve_name(request.target)
    parsed: Parsed = parser().parse(data, request.name)
    if len(parsed.text) > MAX_TEXT:
        raise UnreadableDocument(
            f"the text of {request.name!r} has {len(parsed.text):,} characters, "
            f"the limit is {MAX_TEXT:,}: split it"
        )
    return _storable(parsed)


def _storable(parsed: Parsed) -> Parsed:
    """Return what was read with texts that the records can hold; offsets stay."""
    blocks = []
    for block in parsed.blocks:
        heading_path = tuple(map(as_text, block.heading_path))
        blocks.append(structs.replace(block, heading_path=heading_path))
    return structs.replace(
        parsed, text=as_text(parsed.text), title=as_text(parsed.title), blocks=blocks
    )


def _bound(memory: int) -> str:
    """Bound this process, its memory to so many bytes above what is in use.

    Return in words what bounds it.
    """
    most = _memory_used() + memory
    words = f"memory limit {memory // 1_000_000:,} MB by"
    if sys.platform != "win32":
        os.nice(YIELDING)
        _limit(resource.RLIMIT_CORE, 0)  # a core file would hold the document
        _limit(resource.RLIMIT_FSIZE, 0)
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(most,), daemon=True).start()
        return f"{words} a watchdog; network not cut off: only Linux can"
    _limit(resource.RLIMIT_AS, most)
    if _cut_network():
        return f"{words} the kernel; no network"
    return f"{words} the kernel; network not cut off: namespaces are forbidden here"


def _cut_network() -> bool:
    """Move this process into an empty network of its own; return whether the kernel let it."""
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    alone: bool = libc.unshare(_NEW_USER | _NEW_NET) == 0 or libc.unshare(_NEW_NET) == 0
    return alone


def _limit(kind: int, most: int) -> None:
    """Lower the soft limit of a resource, never above the hard one."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, hard))


def _watch(most: int) -> None:
    """End this process once it uses more than so many bytes."""
    while _memory_used() <= most:
        time.sleep(0.2)
    os._exit(MEMORY_EXIT)


def _memory_used() -> int:
    """Return bytes: of addresses on Linux, the most so far on macOS, committed on Windows."""
    if sys.platform == "win32":
        # PROCESS_MEMORY_COUNTERS on 64 bits: its own size, 8 counters.
        counters = (ctypes.c_size_t * 9)(72)
        this_process = ctypes.c_void_p(-1)
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(this_process, ctypes.byref(counters), 72)
        return int(counters[7])  # PagefileUsage
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm") as sizes:
        pages = int(sizes.read().split()[0])
    return pages * resource.getpagesize()
