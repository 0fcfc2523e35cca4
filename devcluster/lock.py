"""One `up` or `down` at a time on a machine: network, addresses and /run are shared by all of its users and caches."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.shell import DevClusterError
from devcluster.steps import say

PATH = Path("/run/airfreight-devcluster.lock")  # never removed: a lock on a removed file would exclude nobody


@contextmanager
def lock(path: Path = PATH) -> Iterator[None]:
    """Hold the machine's lock, after waiting for who has it; the kernel frees it when this process ends, however.

    Raises:
        DevClusterError: this user may not take it.
    """
    try:
        file = path.open("a")
    except PermissionError as error:
        raise DevClusterError("You are not root: run this with sudo.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("  · another `up` or `down` is at work; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
