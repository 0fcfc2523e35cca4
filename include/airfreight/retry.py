"""Trying again, in one place: the only code of the transfer that loops over failures and sleeps.

Whoever saw the status code raised `TemporaryError` (or `ThrottledError`, when the server said how long to wait); stores
and sources do not retry. `Patience` decides whether and when to try again:

    attempt 1 fails -> wait about 1 s -> attempt 2 fails -> about 2 s -> 4 s -> 8 s -> ... -> give up and raise

A wait is drawn between half and the whole of its step (jitter), so that many pods do not come back at the same moment;
a server's Retry-After is the least that is waited.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from airfreight.errors import TemporaryError

Result = TypeVar("Result")


class ThrottledError(TemporaryError):
    """The server asked to wait: 429 or 503 with Retry-After.

    Attributes:
        retry_after: seconds the server wants to be left alone, >= 0.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(0.0, retry_after)


class HeldError(TemporaryError):
    """Another run is at this file and holds its lease. Not tried again by `Patience.call`: the engine does other files
    first, then looks whether the lease is still renewed.

    Attributes:
        seconds: until the lease runs out if it is not renewed, >= 0.
        lease: changes whenever the lease is renewed (an ETag, a count, a time).
    """

    def __init__(self, message: str, seconds: float, lease: str) -> None:
        super().__init__(message)
        self.seconds = max(0.0, seconds)
        self.lease = lease


class LostError(TemporaryError):
    """What was written of an upload is gone: the server forgot it, or can only take it whole and the connection broke.
    Not tried again by `Patience.call`, for writing the same part again mends nothing: the engine begins the whole
    bundle again, as often as `Patience` allows.
    """


class StoppedError(Exception):
    """Somebody else failed or a signal came, so this work ends too. Never shown: the first error is."""


@dataclass(frozen=True)
class Patience:
    """How often and how long to try again.

    Attributes:
        attempts: tries of one operation before its error is raised, the first included.
        base: seconds of the first wait; each further one is twice as long.
        longest: seconds; no wait of our own choosing is longer.
        longest_asked: seconds; a server that asks for more is not waited for. The hub's rate-limit window is 300 s.
        deadline: moment on `clock` after which nothing is tried again, or None.
        stop: set by whoever wants all work to end; waits end at once.
        wait: waits for the event, at most the given seconds.
        clock: monotonic seconds.
        on_retry: told the error before each wait.
    """

    attempts: int = 6
    base: float = 1.0
    longest: float = 60.0
    longest_asked: float = 330.0
    deadline: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    wait: Callable[[threading.Event, float], object] = threading.Event.wait
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    on_retry: Callable[[TemporaryError], None] = lambda _: None

    def call(self, operation: Callable[[], Result]) -> Result:
        """Return what `operation` returns, trying again on `TemporaryError`; any other error passes at once, and so do
        `HeldError` and `LostError`, which repeating does not mend.

        The operation must be safe to repeat, also when its first try succeeded unnoticed.
        """
        attempts = Attempts(self)
        while True:
            try:
                return operation()
            except LostError:
                raise
            except TemporaryError as error:
                attempts.wait_after(error)

    def check(self) -> None:
        """Return if work may go on. Cheap: called for every chunk, so that a source that drips bytes also has an end.

        Raises:
            StoppedError: `stop` is set.
            TemporaryError: the deadline has passed.
        """
        if self.stop.is_set():
            raise StoppedError
        if self.deadline is not None and self.clock() > self.deadline:
            raise TemporaryError("The time for the whole copy is over: run it again, it goes on from here.")


class Attempts:
    """The count of failures of one operation."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._failures = 0

    def wait_after(self, error: TemporaryError) -> None:
        """Wait before the next attempt.

        Raises:
            TemporaryError: `error` itself, when this was the last attempt, the wait would be too long, or another run
                is at work.
            StoppedError: stopped meanwhile.
        """
        if isinstance(error, HeldError):
            raise error
        patience = self._patience
        self._failures += 1
        step = min(patience.longest, patience.base * 2.0 ** (self._failures - 1))
        wait = step * (0.5 + 0.5 * patience.random())
        if isinstance(error, ThrottledError):
            if error.retry_after > patience.longest_asked:
                raise error
            wait += error.retry_after
        late = patience.deadline is not None and patience.clock() + wait > patience.deadline
        if self._failures >= patience.attempts or late:
            raise error
        patience.on_retry(error)
        patience.wait(patience.stop, wait)
        patience.check()

    def reset(self) -> None:
        """Forget the failures so far: the operation made real progress."""
        self._failures = 0
