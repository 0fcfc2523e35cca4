"""How much disk a command holds at most: the blocks of all files below a directory, looked at while it runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY_S = 0.2
BLOCK = 512  # bytes of st_blocks, whatever the file system (stat(2))


class Peak:
    """The most bytes seen so far, above what was there at the beginning."""

    def __init__(self) -> None:
        self.bytes = 0


def used(directory: Path) -> int:
    """Bytes of disk below a directory, on its own file system: what is mounted there would count twice."""
    home = directory.stat().st_dev
    total, left = 0, [str(directory)]
    while left:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # it is at work
                    if status.st_dev == home:
                        total += status.st_blocks * BLOCK
                        if entry.is_dir(follow_symlinks=False):
                            left.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return total


@contextmanager
def watched(directory: Path) -> Iterator[Peak]:
    """Look five times a second until the block ends, and once at its end."""
    before, peak, over = used(directory), Peak(), threading.Event()

    def look() -> None:
        while True:
            last = over.wait(EVERY_S)
            peak.bytes = max(peak.bytes, used(directory) - before)
            if last:
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
