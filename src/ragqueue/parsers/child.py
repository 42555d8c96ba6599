"""Parse documents in a process of its own, limited and without network; started and killed by the pool only.

A frame is a length (8 bytes, big endian) and that much MessagePack: an Answer that says what bounds the child, then one for each Request.
"""

import ctypes
import functools
import os
import pkgutil
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

import msgspec

from ragqueue.errors import RagqueueError, TooLarge, UnreadableDocument
from ragqueue.types import Parsed

if sys.platform != "win32":
    import resource

MEMORY_EXIT = 77  # exit status that the pool reads
_NEW_USER, _NEW_NET, _NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38  # of unshare and prctl
_LOOK = 0.2  # seconds between two looks of the watchdog


class Request(msgspec.Struct):
    id: str
    target: str  # "module:Class" of the parser
    name: str
    data: bytes
    seconds: float
    max_text: int  # characters


class Answer(msgspec.Struct):
    id: str = ""  # of the request: what a document left in the pipe answers no other one
    parsed: Parsed | None = None
    code: str = ""  # of the error
    message: str = ""


def main() -> None:
    """Answer requests until the pipe closes."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # no library can read or write between the frames
        os.dup2(nothing, number)
    for signal_number in (signal.SIGINT, signal.SIGTERM):  # for the parent, which decides what happens to its children
        signal.signal(signal_number, signal.SIG_IGN)
    network = _leave_network()  # before the watchdog: a process with threads cannot leave its user namespace
    _send(answers, msgspec.msgpack.encode(Answer(message=f"{_limit_memory(int(sys.argv[1]))}; {network}")))
    os.dup2(nothing, 2)  # until here an error could be seen; a document shall not write into logs
    while frame := _receive(requests):
        request = msgspec.msgpack.decode(frame, type=Request)
        del frame  # a second copy of the document, which its parser may need the room of
        _limit_time(request.seconds)
        _send(answers, _answer(request))
        _limit_time(None)


def _answer(request: Request) -> bytes:
    try:
        parsed = _parser(request.target).parse(request.data, request.name)
        if len(parsed.text) > request.max_text:
            raise TooLarge(f"the text of {request.name!r} has {len(parsed.text):,} characters, the limit is {request.max_text:,}: split it")
        if not parsed.blocks:
            raise UnreadableDocument(f"{request.name!r} is empty: it holds no text that can be read")
        return msgspec.msgpack.encode(Answer(request.id, parsed))
    except RagqueueError as error:
        code, message = error.code, error.message
    except MemoryError:
        os._exit(MEMORY_EXIT)  # what is half done cannot be trusted
    except Exception as error:  # noqa: BLE001 - the edge of a process: the pool raises it again
        cause = f"{type(error).__name__}: {str(error)[:300]}"
        code, message = UnreadableDocument.code, f"{request.name!r} cannot be read: its parser failed ({cause})"
    return msgspec.msgpack.encode(Answer(request.id, code=code, message=message))


@functools.cache
def _parser(target: str) -> Any:
    return pkgutil.resolve_name(target)()


def _receive(pipe: BinaryIO) -> bytes:
    """Return the next frame; nothing when the pipe ends."""
    size = int.from_bytes(pipe.read(8), "big")
    body = pipe.read(size)
    return body if len(body) == size else b""


def _send(pipe: BinaryIO, body: bytes) -> None:
    pipe.writelines((len(body).to_bytes(8, "big"), body))
    pipe.flush()


def _leave_network() -> str:
    if sys.platform != "linux":
        return "network not cut off: only Linux can"
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    alone = libc.unshare(_NEW_USER | _NEW_NET) == 0 or libc.unshare(_NEW_NET) == 0
    return "no network" if alone else "network not cut off: namespaces are forbidden here"


def _limit_memory(memory: int) -> str:
    """Allow so many bytes above what is in use; return in words who sees to it."""
    by, most = "the kernel" if sys.platform == "linux" else "a watchdog", _memory_used() + memory
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, most)
    else:
        threading.Thread(target=_watch, args=(most,), daemon=True).start()
    words = f"memory limit {memory // 1_000_000:,} MB by {by}; time limit by "
    if sys.platform == "win32":
        return f"{words}the pool"
    _limit(resource.RLIMIT_CORE, 0)  # a core file would hold the document
    _limit(resource.RLIMIT_FSIZE, 0)
    return f"{words}the kernel; no writing of files"


def _limit_time(seconds: float | None) -> None:
    """Start the clock of a document, or stop it; the pool's own is faster, this one works when the pool is gone."""
    if sys.platform != "win32":
        if seconds is not None:
            _limit(resource.RLIMIT_CPU, int(sum(os.times()[:2]) + seconds) + 2)
        signal.alarm(0 if seconds is None else int(2 * seconds) + 1)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _watch(most: int) -> None:
    while _memory_used() <= most:
        time.sleep(_LOOK)
    os._exit(MEMORY_EXIT)


def _memory_used() -> int:
    """Return bytes: of addresses on Linux, the most so far on macOS, committed on Windows."""
    if sys.platform == "win32":
        counters = (ctypes.c_size_t * 9)(72)  # PROCESS_MEMORY_COUNTERS on 64 bits: its own size, 8 counters
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), ctypes.byref(counters), 72)
        return int(counters[7])  # PagefileUsage
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
