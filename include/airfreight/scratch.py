"""A working directory that goes at the end, also when the end was a kill: then the next run removes it.

A killed process leaves what it wrote, and on a volume that outlives its pod. So every working directory has a lock,
which ends with whoever holds it, and a directory whose lock nobody holds is removed by the next one to come:

    TMPDIR/airfreight-build.lock          held while directories are made and removed
    TMPDIR/airfreight-build-x1y2/lock     held by the process that works there
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from airfreight.errors import RequestError


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Give an empty directory below TMPDIR, called `prefix` and something, and remove it with all that is in it.

    Raises:
        RequestError: nothing can be written there.
    """
    place = Path(tempfile.gettempdir())
    with ExitStack() as stack:
        try:
            with _locked(place / f"{prefix}.lock"):
                _sweep(place, prefix)
                work = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=place))
                stack.callback(shutil.rmtree, work, ignore_errors=True)
                stack.enter_context(_locked(work / "lock"))
        except OSError as error:
            raise RequestError(
                f"Nothing can be written to {place} ({error.strerror}): mount a volume for building, and name it in "
                "TMPDIR."
            ) from error
        yield work


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which ends with this process however it ends (flock(2)).

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _sweep(place: Path, prefix: str) -> None:
    for found in place.glob(f"{prefix}-*"):
        with suppress(OSError), _locked(found / "lock", wait=False):
            shutil.rmtree(found, ignore_errors=True)
