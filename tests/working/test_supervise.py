"""The pulse of a worker process: it is sent whatever the process waits for.

It learns when nobody listens.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest

from ragqueue.working.supervise import pulse


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process of Windows")
def test_a_process_that_waits_still_pulses_and_one_that_nobody_hears_is_asked_to_end() -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        threading.Thread(target=pulse, args=(sender, os.getppid()), daemon=True).start()
        for _ in range(2):  # while this thread does nothing but wait
            assert receiver.poll(10)
            receiver.recv_bytes()
        receiver.close()
        end = time.monotonic() + 10
        while not told.is_set() and time.monotonic() < end:
            time.sleep(0.01)
        assert told.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
