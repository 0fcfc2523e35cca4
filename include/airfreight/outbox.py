"""The parts of one file on their way: filled by one thread, sent by others, in memory that is used again and again.

    filled and hashed ──▶ part 7 ──▶ sending: part 6, part 5, part 4 ──▶ the memory of part 3 is free for part 8

Only so many parts are under way that the oldest is never more than the window ahead of what the store confirmed. That
bounds the memory, and what must be sent again after a kill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait

MIB = 1024 * 1024
WINDOW = 48 * MIB  # bytes of one file that are sent but not yet confirmed
MEMORY = 144 * MIB  # bytes of parts of all files together, as long as each file can have two parts


def parts_at_once(part_size: int, parallel: int, files: int) -> int:
    """Return how many parts of one file may be under way, besides the one that is filled.

    Args:
        part_size: bytes.
        parallel: what the upload takes at most (`Upload.parallel`).
        files: under way at the same moment.
    """
    return max(1, min(parallel, WINDOW // part_size, MEMORY // (files * part_size) - 1))


class Outbox:
    """Sends the parts of one file; used by the one thread that fills them.

    Args:
        send: sends one part: its bytes, the state of the hash after it, the byte of the file where it begins.
        pool: whose threads call `send`.
        limit: how many parts may be under way now.
    """

    def __init__(
        self, send: Callable[[memoryview, str | None, int], None], pool: Executor, limit: Callable[[], int]
    ) -> None:
        self._send = send
        self._pool = pool
        self._limit = limit
        self._sending: deque[tuple[Future[None], memoryview]] = deque()
        self._free: list[memoryview] = []

    def room(self, size: int) -> memoryview:
        """Return memory for the next part, of `size` bytes; its content is undefined."""
        whole = self._free.pop() if self._free else memoryview(bytearray(size))
        return whole if len(whole) >= size else memoryview(bytearray(size))

    def post(self, room: memoryview, size: int, state: str | None, at: int) -> None:
        """Send the first `size` bytes of `room`. Waits while too many parts are under way.

        Raises:
            the error of an earlier part.
        """
        while len(self._sending) >= self._limit():
            self._take_back()
        self._sending.append((self._pool.submit(self._send, room[:size], state, at), room))

    def settle(self) -> None:
        """Wait until all parts are sent.

        Raises:
            the error of the oldest part that failed.
        """
        while self._sending:
            self._take_back()

    def close(self) -> None:
        """Wait until nobody uses the memory any more. What is under way arrives or fails, and nothing is raised: the
        next run need not send it.
        """
        wait([future for future, _ in self._sending])

    def _take_back(self) -> None:
        future, room = self._sending.popleft()
        future.result()
        self._free.append(room)
