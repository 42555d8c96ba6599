"""Parsers that misbehave, named to the pool by "module:Class".

Each does so only in its child process.
"""

import contextlib
import ctypes
import os
import sys
import time
from pathlib import Path

import msgspec

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser
from ragqueue.types import Block, Parsed


class Echo(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        text = data.decode()
        return Parsed(text=text, blocks=[Block(kind="paragraph", start=0, end=len(text))])


class Pid(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        text = str(os.getpid())
        return Parsed(text=text, blocks=[Block(kind="paragraph", start=0, end=len(text))])


class Niceness(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        text = str(os.nice(0))
        return Parsed(text=text, blocks=[Block(kind="paragraph", start=0, end=len(text))])


class Greedy(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        return Parsed(text="x" * int(data), blocks=[])


class Endless(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        while True:
            pass


class Sleeper(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        while True:
            time.sleep(60)


class Exits(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        sys.exit(3)


class Segfault(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        ctypes.string_at(0)
        raise AssertionError("unreachable")


class SecondCrashes(Parser):
    """Dies on the second document that a process sees: the first one poisoned it."""

    seen = 0

    def parse(self, data: bytes, name: str) -> Parsed:
        type(self).seen += 1  # each document has a parser of its own
        if self.seen == 2:
            os.abort()
        return Echo().parse(data, name)


class Buggy(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        raise KeyError("left")


class Refuses(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        raise UnreadableDocument(f"{name!r} is odd")


class Overlapping(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        return Parsed(
            text="abcdef",
            blocks=[
                Block(kind="paragraph", start=0, end=4),
                Block(kind="paragraph", start=3, end=6),
            ],
        )


class Nonsense(Parser):
    """Writes into every pipe it can find, as a file that took the process over might."""

    frame = b"{]"

    def parse(self, data: bytes, name: str) -> Parsed:
        for number in range(3, 20):
            with contextlib.suppress(OSError):
                os.write(number, len(self.frame).to_bytes(8, "big") + self.frame)
        return Echo().parse(b"x", name)


class Forges(Nonsense):
    frame = msgspec.msgpack.encode(("00", "lies"))


class Chatty(Parser):
    """Prints, as libraries do."""

    def parse(self, data: bytes, name: str) -> Parsed:
        print("noise")
        os.write(1, b"noise")
        os.write(2, b"noise")
        return Echo().parse(data, name)


class Dials(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        import socket

        with socket.create_connection(("127.0.0.1", int(data)), timeout=5):
            return Echo().parse(b"connected", name)


class Writes(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        Path(data.decode()).write_text("written")
        return Echo().parse(b"written", name)


class Environment(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        return Echo().parse(repr(sorted(os.environ)).encode(), name)


class NoText(Parser):
    """Finds what is no text, as a damaged PDF may hold it."""

    def parse(self, data: bytes, name: str) -> Parsed:
        return Parsed(
            text="a\x00b \ud800",
            blocks=[Block(kind="heading", start=0, end=3, heading_path=("a\x00b",))],
            title="\udfff",
        )
