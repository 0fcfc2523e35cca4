"""Every error Airfreight raises on purpose, and the exit code it stands for.

    AirfreightError            the root; never raised itself
    ├── RequestError      2    the request is wrong; asking again changes nothing
    ├── IntegrityError    3    the bytes are wrong; nothing became visible
    ├── GateError         4    the model failed a gate: it is there, and it is not good
    └── TemporaryError   75    try again: a network, a server or a cluster that heals (EX_TEMPFAIL of sysexits.h)

A message is one sentence that says what is wrong and what to change. Whoever saw the cause picks the kind; the command
line turns the kind into an exit code, and the Airflow operator turns the exit code into "retry" or "fail for good".
"""

from __future__ import annotations

from typing import ClassVar


class AirfreightError(Exception):
    """Root of all errors raised on purpose.

    Args:
        message: one sentence, for a person: what is wrong and what to change. It must never hold a secret.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(AirfreightError):
    """The request is wrong: a bad name, a missing right, a model that does not exist. Never retried."""

    exit_code = 2


class IntegrityError(AirfreightError):
    """The bytes are not those of the manifest. Nothing was published. Never retried."""

    exit_code = 3


class GateError(AirfreightError):
    """The model was deployed and failed a gate. Never retried as it is."""

    exit_code = 4


class TemporaryError(AirfreightError):
    """Something that heals stood in the way: a time-out, 429, 5xx, a refused connection. Retried."""

    exit_code = 75


FOR_GOOD: tuple[type[AirfreightError], ...] = (RequestError, IntegrityError, GateError)
"""What trying again does not mend."""

_KINDS: tuple[type[AirfreightError], ...] = (*FOR_GOOD, TemporaryError)
BY_EXIT_CODE: dict[int, type[AirfreightError]] = {kind.exit_code: kind for kind in _KINDS}
