"""A part on its way through botocore and urllib3, without a copy of it and in blocks of a sensible size.

botocore (1.44) reads a body through once for its checksum, and urllib3 (2) sends what is a file in blocks of 16 KiB,
each with its own turn for the interpreter's lock and its own poll: 65,000 for a GiB. So just before it is sent the body
is exchanged for a row of larger blocks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any, cast

# Not larger: the time-out of a connection (5 s) is that of one block too, and slow networks must be able to keep it.
BLOCK = 128 * 1024


class Readable(io.RawIOBase):
    """A part as a file, without a copy of it: botocore (1.44, `crt/auth.py`) copies a whole bytearray to sign it."""

    def __init__(self, part: bytearray | memoryview) -> None:
        super().__init__()
        self._view = memoryview(part)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        count = max(0, min(len(target), len(self._view) - self._position))
        target[:count] = self._view[self._position : self._position + count]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def blocks(self) -> Blocks:
        """Return the same bytes for `urllib3`, from their beginning."""
        return Blocks(self._view)


class Blocks:
    """The bytes of a part, block by block, as often as they are asked for: what urllib3 sends of an iterable."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._view), BLOCK):
            yield self._view[start : start + BLOCK]

    def seek(self, offset: int) -> None:
        """Begin again; botocore asks for it before it sends the same request once more, and only with 0."""


def in_blocks(request: Any, **_: Any) -> None:
    """Exchange the body of a request; for botocore's event `before-send.s3`."""
    if isinstance(request.body, Readable):
        request.body = request.body.blocks()


def body_of(part: bytearray | memoryview) -> IO[bytes]:
    """Return a part as the body of a request."""
    return cast("IO[bytes]", Readable(part))  # a file in all but the name its type stubs ask for
