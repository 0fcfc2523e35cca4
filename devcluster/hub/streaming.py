"""The body of a file: which bytes were asked for, and how they go out, with a fault when one is due."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .faults import Fault

BLOCK_BYTES = 1 << 20
"""How much is handed to the kernel at once; counters are exact to the byte all the same."""
SLOW_STEP_S = 0.05
RANGE_PATTERN = re.compile(r"bytes=(\d*)-(\d*)")


class UnsatisfiableRangeError(ValueError):
    """The range starts behind the end of the file: the answer is 416."""


class CutError(ConnectionError):
    """A fault ended this response before its announced length: the connection must be closed."""


@dataclass(frozen=True)
class Span:
    """Bytes `start` (included) to `end` (not included) of a file; `partial` says whether a range was asked for."""

    start: int
    end: int
    partial: bool

    @property
    def length(self) -> int:
        """Length in bytes."""
        return self.end - self.start


def parse_range(header: str | None, size: int) -> Span:
    """Return the bytes a Range header asks for out of a file of `size` bytes.

    A header that is absent, malformed or names several ranges means the whole file (a server may
    ignore ranges: RFC 9110, 14.2).

    Raises:
        UnsatisfiableRangeError: no byte of the file lies in the range.
    """
    match = RANGE_PATTERN.fullmatch(header.replace(" ", "")) if header else None
    if not match or match.groups() == ("", ""):
        return Span(0, size, partial=False)
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return Span(0, size, partial=False)
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise UnsatisfiableRangeError(header)
    return Span(start, end, partial=True)


def stretched(span: Span, size: int, fault: Fault | None) -> tuple[int, Span, int]:
    """Return what to tell and send where a fault lies about the length: the size to tell, the bytes of the file to send
    and how many zeros after them.
    """
    by = fault.by_bytes if fault is not None and fault.kind == "length" else 0
    return size + by, Span(span.start, span.end + min(0, by), span.partial), max(0, by)


def send_span(
    connection: socket.socket,
    path: Path,
    span: Span,
    *,
    fault: Fault | None,
    count: Callable[[int], None],
    stopping: threading.Event,
) -> None:
    """Send one span of a file, one block at a time.

    `count` is told of bytes before they leave, and of a negative number when some then did not, so that whoever has
    received a response finds it counted.

    Raises:
        CutError: a fault of kind `cut` struck.
        OSError: the client went away.
    """
    with path.open("rb") as file:
        for start, end in _pieces(span, fault):
            if fault and fault.kind in ("cut", "stall") and start == span.start + fault.after_bytes:
                _interrupt(fault, stopping)
            if fault and fault.kind == "corrupt" and start == fault.after_bytes:
                file.seek(start)
                count(1)
                connection.sendall(bytes([file.read(1)[0] ^ 0xFF]))
                continue
            _send_piece(connection, file, start, end, count)
            if fault and fault.kind == "slow" and stopping.wait((end - start) / fault.bytes_per_second):
                raise CutError("the server is closing")


def _pieces(span: Span, fault: Fault | None) -> Iterator[tuple[int, int]]:
    """Cut a span into blocks, with an edge where the fault strikes."""
    edges: set[int] = set()
    step = BLOCK_BYTES
    if fault and fault.kind in ("cut", "stall"):
        edges = {span.start + fault.after_bytes}
    elif fault and fault.kind == "corrupt":
        edges = {fault.after_bytes, fault.after_bytes + 1}
    elif fault and fault.kind == "slow":
        step = max(1, int(fault.bytes_per_second * SLOW_STEP_S))
    start = span.start
    while start < span.end:
        end = min([start + step, span.end, *(edge for edge in edges if edge > start)])
        yield start, end
        start = end


def _interrupt(fault: Fault, stopping: threading.Event) -> None:
    if fault.kind == "cut" or stopping.wait(fault.seconds):
        raise CutError(f"cut after {fault.after_bytes} bytes")


def _send_piece(connection: socket.socket, file: BinaryIO, start: int, end: int, count: Callable[[int], None]) -> None:
    count(end - start)
    file.seek(start)
    try:
        connection.sendfile(file, start, end - start)
    except OSError:
        count(file.tell() - end)  # sendfile leaves the position behind the last byte that was sent
        raise
