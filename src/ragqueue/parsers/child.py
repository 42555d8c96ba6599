"""Parse documents in a process of its own, limited and without network; started and killed by the pool only."""

import ctypes
import os
import pkgutil
import signal
import sys
import threading
import time

import msgspec

from ragqueue.errors import UnreadableDocument
from ragqueue.storable import as_text
from ragqueue.types import Parsed

if sys.platform != "win32":
    import resource

Answer = tuple[
    str, Parsed | str
]  # id of the request (no other one is answered by what a document left), what was read or why not
MEMORY_EXIT = 77  # exit status that the pool reads
MAX_TEXT = 10_000_000  # characters of a document
_DOCUMENTS = 200  # that a child reads in its life: native libraries keep what they once took
_NEW_USER, _NEW_NET, _NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38  # of unshare and prctl


class Request(msgspec.Struct):
    id: str
    target: str  # "module:Class" of the parser
    name: str
    data: bytes
    seconds: float


def main() -> None:
    """Say what bounds the child, then answer requests until the pipe closes; a frame is a length (8 bytes, big endian) and MessagePack."""
    requests, answers, nothing = (
        os.fdopen(os.dup(0), "rb"),
        os.fdopen(os.dup(1), "wb"),
        os.open(os.devnull, os.O_RDWR),
    )
    for signal_number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # for the parent, which decides what happens to its children
        signal.signal(signal_number, signal.SIG_IGN)
    body = msgspec.msgpack.encode(("", _bound(int(sys.argv[1]))))
    for number in (
        0,
        1,
        2,
    ):  # until here an error could be seen; no library shall read or write between the frames, or into logs
        os.dup2(nothing, number)
    try:
        for _ in range(_DOCUMENTS + 1):
            answers.writelines((len(body).to_bytes(8, "big"), body))
            answers.flush()
            body = b""  # the next document may need the room
            if not (size := int.from_bytes(requests.read(8), "big")):
                return
            body = msgspec.msgpack.encode(
                _answer(msgspec.msgpack.decode(requests.read(size), type=Request))
            )
    except MemoryError:
        os._exit(MEMORY_EXIT)  # what is half done cannot be trusted


def _answer(request: Request) -> Answer:
    name = repr(request.name)
    if (
        sys.platform != "win32"
    ):  # the clock of the pool is faster, this one works when the pool is gone
        _limit(resource.RLIMIT_CPU, int(time.process_time() + request.seconds) + 2)
    try:
        parsed: Parsed = pkgutil.resolve_name(request.target)().parse(request.data, request.name)
        if len(parsed.text) > MAX_TEXT:
            raise UnreadableDocument(
                f"the text of {name} has {len(parsed.text):,} characters, the limit is {MAX_TEXT:,}: split it"
            )
        return request.id, _storable(parsed)
    except MemoryError:
        raise
    except UnreadableDocument as error:
        return request.id, error.message
    except Exception as error:  # noqa: BLE001 - the edge of a process
        return (
            request.id,
            f"{name} cannot be read: its parser failed ({type(error).__name__}: {str(error)[:300]})",
        )


def _storable(parsed: Parsed) -> Parsed:
    """Return it with texts that the records can hold; offsets stay."""
    blocks = [
        block._replace(heading_path=tuple(map(as_text, block.heading_path)))
        for block in parsed.blocks
    ]
    return parsed._replace(text=as_text(parsed.text), title=as_text(parsed.title), blocks=blocks)


def _bound(memory: int) -> str:
    """Bound this process, its memory to so many bytes above what is in use; return in words what does."""
    most, words = _memory_used() + memory, f"memory limit {memory // 1_000_000:,} MB by "
    if sys.platform != "win32":
        _limit(resource.RLIMIT_CORE, 0)  # a core file would hold the document
        _limit(resource.RLIMIT_FSIZE, 0)
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(most,), daemon=True).start()
        return f"{words}a watchdog; network not cut off: only Linux can"
    _limit(resource.RLIMIT_AS, most)
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    alone = libc.unshare(_NEW_USER | _NEW_NET) == 0 or libc.unshare(_NEW_NET) == 0
    return f"{words}the kernel; " + (
        "no network" if alone else "network not cut off: namespaces are forbidden here"
    )


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _watch(most: int) -> None:
    while _memory_used() <= most:
        time.sleep(0.2)
    os._exit(MEMORY_EXIT)


def _memory_used() -> int:
    """Return bytes: of addresses on Linux, the most so far on macOS, committed on Windows."""
    if sys.platform == "win32":
        counters = (ctypes.c_size_t * 9)(
            72
        )  # PROCESS_MEMORY_COUNTERS on 64 bits: its own size, 8 counters
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(
            ctypes.c_void_p(-1), ctypes.byref(counters), 72
        )
        return int(counters[7])  # PagefileUsage
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * resource.getpagesize()
