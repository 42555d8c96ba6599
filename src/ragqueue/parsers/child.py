"""Parse documents in a process of its own, limited and without network; started and killed by the pool only.

A frame is a length (8 bytes, big endian) and that many bytes: a hello, then for each request and file one answer.
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

MEMORY_EXIT = 77  # exit status that the pool reads
_NEW_USER, _NEW_NET, _NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38  # of unshare and prctl
_LOOK = 0.2  # seconds between two looks of the watchdog


def main() -> None:
    """Answer requests until the pipe closes."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # no library can read or write between the frames
        os.dup2(nothing, number)
    for signal_number in (signal.SIGINT, signal.SIGTERM):  # for the parent, which decides what happens to its children
        signal.signal(signal_number, signal.SIG_IGN)
    network = _leave_network()  # before the watchdog: a process with threads cannot leave its user namespace
    _send(answers, {"isolation": f"{_limit_memory(int(sys.argv[1]))}; {network}"})
    os.dup2(nothing, 2)  # until here an error could be seen; a document shall not write into logs
    parsers: dict[str, Any] = {}
    while (frame := _receive(requests)) is not None and (data := _receive(requests)) is not None:
        request = msgspec.json.decode(frame)
        _limit_time(request["seconds"])
        try:
            _send(answers, {"id": request["id"], **_answer(request, data, parsers)})
        except MemoryError:
            os._exit(MEMORY_EXIT)  # what is half done cannot be trusted
        _limit_time(None)


def _answer(request: dict[str, Any], data: bytes, parsers: dict[str, Any]) -> dict[str, Any]:
    target, name, most = request["target"], request["name"], request["max_text"]
    try:
        if target not in parsers:
            module, _, class_name = target.partition(":")
            parsers[target] = getattr(importlib.import_module(module), class_name)()
        parsed = parsers[target].parse(data, name)
        if len(parsed.text) > most:
            raise TooLarge(f"the text of {name!r} has {len(parsed.text):,} characters, the limit is {most:,}: split it")
        return {"parsed": parsed}
    except RagqueueError as error:
        return {"code": error.code, "message": error.message}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the edge of a process: the pool raises it again
        return {"code": "failed", "message": f"{type(error).__name__}: {str(error)[:300]}"}


def _receive(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(8)
    body = pipe.read(int.from_bytes(head, "big"))
    return body if len(head) == 8 and len(body) == int.from_bytes(head, "big") else None


def _send(pipe: BinaryIO, message: object) -> None:
    body = msgspec.json.encode(message)
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
    words = f"memory limit {memory // 1_000_000:,} MB by "
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as sizes:
            _limit("AS", int(sizes.read().split()[0]) * resource.getpagesize() + memory)
        words += "the kernel"
    else:
        threading.Thread(target=_watch, args=(_memory_used() + memory,), daemon=True).start()
        words += "a watchdog"
    if sys.platform == "win32":
        return f"{words}; time limit by the pool"
    _limit("CORE", 0)  # a core file would hold the document
    _limit("FSIZE", 0)
    return f"{words}; time limit by the kernel; no writing of files"


def _limit_time(seconds: float | None) -> None:
    """Start the clock of a document, or stop it; the pool's own is faster, this one works when the pool is gone."""
    if sys.platform != "win32":
        if seconds is not None:
            _limit("CPU", int(sum(os.times()[:2]) + seconds) + 2)
        signal.alarm(0 if seconds is None else int(2 * seconds) + 1)


def _limit(what: str, most: int) -> None:
    import resource

    kind = getattr(resource, f"RLIMIT_{what}")
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _watch(most: int) -> None:
    while _memory_used() <= most:
        time.sleep(_LOOK)
    os._exit(MEMORY_EXIT)


def _memory_used() -> int:
    """Return the bytes that this process uses (macOS, Windows)."""
    if sys.platform == "win32":
        counters = (ctypes.c_size_t * 9)(72)  # PROCESS_MEMORY_COUNTERS on 64 bits: its own size, 8 counters
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), ctypes.byref(counters), 72)
        return int(counters[7])  # PagefileUsage: what it has committed
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    main()
