"""What a person reads in the log while bytes move: one line at most every five seconds, and one at the end.

2/7 files, 12.3 of 24.0 MiB, 8.1 MiB/s, ETA 2 s, 1 retry
done: 7/7 files (2 already there), 16.2 MiB moved in 3 s, 5.4 MiB/s, 1 retry
done: 5/5 blobs, 16.2 MiB moved in 3 s, 5.4 MiB/s            (of an image that is mirrored: its layers and its config)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from airfreight.errors import TemporaryError

INTERVAL = 5.0  # seconds between two lines
MIB = 1024 * 1024


def _print(line: str) -> None:
    print(line, flush=True)


class Progress:
    """Counts files and bytes, and prints. Every method may be called from any thread.

    Args:
        write: takes one line without its newline.
        clock: monotonic seconds.
        interval: least seconds between two lines; the final line is always printed.
    """

    def __init__(
        self,
        write: Callable[[str], None] = _print,
        clock: Callable[[], float] = time.monotonic,
        interval: float = INTERVAL,
    ) -> None:
        self._write = write
        self._clock = clock
        self._interval = interval
        self._lock = threading.Lock()
        self._files = self._done = self._reused = self._retries = 0
        self._size = self._present = self._moved = 0
        self._called = "files"
        self._started = self._last = clock()

    def start(self, files: int, size: int, reused_files: int, reused_size: int, called: str = "files") -> None:
        """Begin: `files` and `size` (bytes) are those of the whole model, of which some are in the store already.

        Args:
            called: what is counted, where it is not files.
        """
        with self._lock:
            self._files, self._size, self._called = files, size, called
            self._done = self._reused = reused_files
            self._present = reused_size
            self._started = self._last = self._clock()

    def moved(self, count: int) -> None:
        """`count` bytes came from the source. They are present from now on too."""
        with self._lock:
            self._moved += count
            self._present += count

    def present(self, count: int) -> None:
        """`count` more bytes are in the store without having moved in this run: an earlier run sent them, or they were
        copied inside the store. Negative for bytes that were lost, and will be sent again.
        """
        with self._lock:
            self._present += count

    def file_done(self) -> None:
        """One more file is in the store, verified."""
        with self._lock:
            self._done += 1

    def retried(self, error: TemporaryError) -> None:
        """Something failed and will be tried again; told at once, because it explains a pause."""
        with self._lock:
            self._retries += 1
            self._write(f"trying again: {error.message}")

    def tick(self) -> None:
        """Print a line if the last one is old enough."""
        with self._lock:
            now = self._clock()
            if now - self._last >= self._interval:
                self._last = now
                self._write(self._line(now))

    def finish(self) -> None:
        """Print the final line."""
        with self._lock:
            seconds = self._clock() - self._started
            there = f" ({self._reused} already there)" if self._reused else ""
            self._write(
                f"done: {self._done}/{self._files} {self._called}{there}, {_mib(self._moved)} MiB moved in "
                f"{_seconds(seconds)}, {_mib(self._rate(seconds))} MiB/s{self._retry_text()}"
            )

    def _line(self, now: float) -> str:
        present = min(self._present, self._size)
        rate = self._rate(now - self._started)
        left = self._size - present
        eta = _seconds(left / rate) if rate > 0 else "unknown"
        return (
            f"{self._done}/{self._files} {self._called}, {_mib(present)} of {_mib(self._size)} MiB, "
            f"{_mib(rate)} MiB/s, ETA {eta}{self._retry_text()}"
        )

    def _rate(self, seconds: float) -> float:
        return self._moved / seconds if seconds > 0 else 0.0

    def _retry_text(self) -> str:
        if not self._retries:
            return ""
        return f", {self._retries} {'retry' if self._retries == 1 else 'retries'}"


def _mib(count: float) -> str:
    return f"{count / MIB:.1f}"


def _seconds(value: float) -> str:
    """Write a duration as a person would: `12 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
