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
from typing import BinaryIO

import msgspec

from ragqueue.errors import UnreadableDocument
from ragqueue.storable import as_text
from ragqueue.types import Parsed

if sys.platform != "win32":
    import resource

# The id of the request (no other request is answered by what a document left), and what was read
# or why not.
Answer = tuple[str, Parsed | str]
MEMORY_EXIT = 77  # exit status that the pool reads
MAX_TEXT = 10_000_000  # characters of a document
_DOCUMENTS = 200  # that a child reads in its life: native libraries keep what they once took

# Of unshare and prctl.
_NEW_USER = 0x10000000
_NEW_NET = 0x40000000
_NO_NEW_PRIVILEGES = 38


class Request(msgspec.Struct):
    """A document to be read."""

    id: str
    target: str  # "module:Class" of the parser
    name: str
    data: bytes
    seconds: float


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
    hello = msgspec.msgpack.encode(("", _bound(int(sys.argv[1]))))
    # Until here an error could be seen; no library shall read or write between the frames, or
    # into logs.
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    try:
        _answer_requests(requests, answers, hello)
    except MemoryError:
        os._exit(MEMORY_EXIT)  # what is half done cannot be trusted


def _answer_requests(requests: BinaryIO, answers: BinaryIO, hello: bytes) -> None:
    """Write the hello, then an answer for each request. Raises MemoryError."""
    _write(answers, hello)
    for _ in range(_DOCUMENTS):
        size = int.from_bytes(requests.read(8), "big")
        if not size:
            return
        # The request has no name here: its room, too, is free once it is answered.
        _write(answers, msgspec.msgpack.encode(_answer(_read_request(requests, size))))


def _write(answers: BinaryIO, body: bytes) -> None:
    answers.writelines((len(body).to_bytes(8, "big"), body))
    answers.flush()


def _read_request(requests: BinaryIO, size: int) -> Request:
    return msgspec.msgpack.decode(requests.read(size), type=Request)


def _answer(request: Request) -> Answer:
    """Return what the parser read, or in words why it could not. Raises MemoryError."""
    if sys.platform != "win32":
        # The clock of the pool is faster, this one works when the pool is gone.
        _limit(resource.RLIMIT_CPU, int(time.process_time() + request.seconds) + 2)
    try:
        return request.id, _parse(request)
    except MemoryError:
        raise
    except UnreadableDocument as error:
        return request.id, error.message
    except Exception as error:  # noqa: BLE001 - the edge of a process
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        return request.id, f"{request.name!r} cannot be read: its parser failed ({reason})"


def _parse(request: Request) -> Parsed:
    """Return what the parser reads. Raises UnreadableDocument, and whatever the parser raises."""
    parser = pkgutil.resolve_name(request.target)
    parsed: Parsed = parser().parse(request.data, request.name)
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
        blocks.append(block._replace(heading_path=heading_path))
    return parsed._replace(text=as_text(parsed.text), title=as_text(parsed.title), blocks=blocks)


def _bound(memory: int) -> str:
    """Bound this process, its memory to so many bytes above what is in use.

    Return in words what bounds it.
    """
    most = _memory_used() + memory
    words = f"memory limit {memory // 1_000_000:,} MB by"
    if sys.platform != "win32":
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
