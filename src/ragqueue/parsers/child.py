"""Parse documents in a process of their own, limited and without network; the pool starts it and kills it.

Each frame on its pipes is a length (8 bytes, big endian) and that many bytes. It says hello, then answers each pair of
frames (request, file) with one frame. It imports only what its documents need.
"""

import ctypes
import importlib
import os
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

import msgspec

from ragqueue.errors import RagqueueError, TooLarge

MEMORY_EXIT, TIME_EXIT = 77, 78  # exit statuses that the pool reads
_CLONE_NEWUSER, _CLONE_NEWNET, _NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38
_LOOK = 0.2  # seconds between two looks of the watchdog


class Request(msgspec.Struct):
    """What the pool asks for; the bytes of the file follow in a frame of their own."""

    name: str
    target: str  # "module:Class"
    seconds: float
    max_text: int  # characters


def main() -> None:
    """Answer requests until the pipe closes."""
    requests, answers = _own_pipes()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which decides what happens to its children
        signal.signal(number, signal.SIG_IGN)
    network = _leave_network()  # before the watchdog: a process with threads cannot leave its user namespace
    limits = _Limits(int(sys.argv[1]))
    _send(answers, {"isolation": f"{limits.words}, {network}"})
    os.dup2(0, 2)  # until here errors could be seen; a document shall not write into logs
    parsers: dict[str, Any] = {}
    while (frame := _receive(requests)) is not None and (data := _receive(requests)) is not None:
        request = msgspec.json.decode(frame, type=Request)
        limits.begin(request.seconds)
        try:
            _send(answers, _answer(request, data, parsers))
        except MemoryError:
            os._exit(MEMORY_EXIT)  # who knows what is half done: only a new process can be trusted
        limits.end()


def _answer(request: Request, data: bytes, parsers: dict[str, Any]) -> dict[str, Any]:
    try:
        if request.target not in parsers:
            module, _, name = request.target.partition(":")
            parsers[request.target] = getattr(importlib.import_module(module), name)()
        parsed = parsers[request.target].parse(data, request.name)
        if len(parsed.text) > request.max_text:
            raise TooLarge(f"the text of {request.name!r} has {len(parsed.text):,} characters, the limit is {request.max_text:,}: split it")
        return {"parsed": parsed}
    except RagqueueError as error:
        return {"code": error.code, "message": error.message}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the edge of a process: the pool raises it again
        return {"code": "failed", "message": f"{type(error).__name__}: {str(error)[:300]}"}


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take the pipes to the pool away from stdin and stdout, so that no library can read or write there."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return requests, answers


def _receive(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(8)
    body = pipe.read(int.from_bytes(head, "big")) if len(head) == 8 else b""
    return body if len(head) == 8 and len(body) == int.from_bytes(head, "big") else None


def _send(pipe: BinaryIO, message: object) -> None:
    body = msgspec.json.encode(message)
    pipe.write(len(body).to_bytes(8, "big"))
    pipe.write(body)
    pipe.flush()


def _leave_network() -> str:
    if sys.platform != "linux":
        return "network not cut off (only Linux can)"
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWNET) == 0:
        return "no network"
    return "network not cut off (namespaces are forbidden here)"


class _Limits:
    """Bounds memory and time: by the kernel where it can, else by a thread that watches."""

    def __init__(self, memory: int) -> None:
        self._deadline = float("inf")
        self.words = f"memory limit {memory // 1_000_000:,} MB by "
        if sys.platform != "win32":
            import resource

            _limit(resource.RLIMIT_CORE, 0)  # a core file would hold the document
            _limit(resource.RLIMIT_FSIZE, 0)
        if sys.platform == "linux":
            with open("/proc/self/statm") as sizes:
                _limit(resource.RLIMIT_AS, int(sizes.read().split()[0]) * resource.getpagesize() + memory)
            self.words += "the kernel, time limit by the kernel, no writing of files"
        else:
            threading.Thread(target=self._watch, args=(_memory_used() + memory,), daemon=True).start()
            self.words += "a watchdog, time limit by " + ("a watchdog" if sys.platform == "win32" else "the kernel, no writing of files")

    def begin(self, seconds: float) -> None:
        """Start the clock of a document; the pool's own clock is shorter, this one works when the pool is gone."""
        self._deadline = time.monotonic() + 2 * seconds
        if sys.platform != "win32":
            import resource

            _limit(resource.RLIMIT_CPU, int(sum(os.times()[:2]) + seconds) + 2)
            signal.alarm(int(2 * seconds) + 1)

    def end(self) -> None:
        self._deadline = float("inf")
        if sys.platform != "win32":
            signal.alarm(0)

    def _watch(self, most: int) -> None:
        while True:
            time.sleep(_LOOK)
            if _memory_used() > most:
                os._exit(MEMORY_EXIT)
            if time.monotonic() > self._deadline:
                os._exit(TIME_EXIT)


def _limit(kind: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _memory_used() -> int:
    """Return the bytes that this process uses, where the kernel keeps no limit for us (macOS, Windows)."""
    if sys.platform == "win32":
        counters = (ctypes.c_size_t * 9)(72)  # PROCESS_MEMORY_COUNTERS on 64 bits: its own size, 8 counters
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), ctypes.byref(counters), 72)
        return int(counters[7])  # PagefileUsage: what it has committed
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    main()
