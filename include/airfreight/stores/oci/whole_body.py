"""The bodies of uploads: several buffers as one, and one body that is fed over time.

Nothing is joined: a part of 16 MiB with a header before it and zeros behind is sent from where it lies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from queue import SimpleQueue

import httpx2

from airfreight.errors import TemporaryError
from airfreight.retry import LostError
from airfreight.stores.oci.answers import Answer
from airfreight.stores.oci.wire import Wire

# Small enough that what a socket does not take at once is not copied over and over (httpcore2 slices the rest).
PIECE = 128 * 1024
Buffer = bytes | bytearray | memoryview


class Bytes:
    """Some buffers as one sequence of bytes."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._views = [memoryview(buffer) for buffer in buffers if len(buffer)]
        self._edges = list(accumulate((len(view) for view in self._views), initial=0))

    def __len__(self) -> int:
        return self._edges[-1]

    def part(self, start: int, end: int) -> Bytes:
        """Return the bytes from `start` up to `end`, of the same memory."""
        return Bytes(
            [
                view[max(0, start - first) : max(0, end - first)]
                for view, (first, _) in zip(self._views, pairwise(self._edges), strict=True)
            ]
        )

    def pieces(self) -> Iterator[bytes]:
        """Yield them as a request's body wants them."""
        for view in self._views:
            for start in range(0, len(view), PIECE):
                yield bytes(view[start : start + PIECE])


class WholeBody:
    """One PATCH that carries a whole blob, fed from outside: a thread of its own sends what `put` hands over.

    The answer comes after the last byte, so a part that `put` took is sent, and perhaps not there.

    Args:
        timeout: of the request; its read part is how long the answer may take after the last byte.
    """

    def __init__(self, wire: Wire, location: str, size: int, action: str, timeout: httpx2.Timeout) -> None:
        self._wire = wire
        self._action = action
        self._timeout = timeout
        self._parts: SimpleQueue[Bytes | None] = SimpleQueue()
        self._taken: SimpleQueue[bool] = SimpleQueue()  # True: a part was taken; False: the request is over
        self._sent = False
        self._abandoned = False
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(location, size), name="airfreight-upload", daemon=True)
        self._thread.start()

    def put(self, part: Bytes) -> None:
        """Hand over the next bytes and wait until they are sent.

        Raises:
            AirfreightError: the request ended before that; TemporaryError where it broke.
        """
        self._parts.put(part)
        if not self._taken.get():
            raise self._failure()

    def end(self) -> Answer:
        """Wait for the answer, after the last byte.

        Raises:
            AirfreightError: as `put`.
        """
        self._parts.put(None)
        self._thread.join()
        if self._answer is None:
            raise self._failure()
        return self._answer

    def abandon(self) -> None:
        """Break the request off."""
        self._abandoned = True
        self._parts.put(None)
        self._thread.join()

    def _failure(self) -> Exception:
        return self._error or TemporaryError(
            f"The registry {self._wire.image.registry} ended a request before it was sent whole: try again."
        )

    def _run(self, location: str, size: int) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        try:
            self._answer = self._wire.ask(
                "PATCH", location, self._wire.push, self._action, {201, 202, 204},
                headers=headers, content=self._body, timeout=self._timeout,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  # raised in the thread that waits
            self._error = error
        self._taken.put(False)

    def _body(self) -> Iterator[bytes]:
        if self._sent:
            raise LostError(
                f"The registry {self._wire.image.registry} asks for a layer once more that it takes only whole: "
                "it is sent again from its beginning."
            )
        self._sent = True
        while (part := self._parts.get()) is not None:
            yield from part.pieces()
            self._taken.put(True)
        if self._abandoned:
            raise TemporaryError(f"An upload to the registry {self._wire.image.registry} was broken off.")
