"""Gates: what must hold before a candidate is live, each with what was wanted and what was found; pure.

A gate is `passed`, `failed`, or `not proven` where the check could not be made: a gate that did not run is never shown
as passed. Beside the gates stand measurements, compared with those of the release before; what got worse by more than a
fifth is flagged, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from airfreight.errors import GateError
from airfreight.observation import one_line

REGRESSION = 0.20  # of the former value


class Verdict(StrEnum):
    """How a gate ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes:
        name: such as "chat" or "ttft".
        wanted, found: for the table; short.
        sentence: what is wrong and what to change; empty where nothing is.
    """

    name: str
    verdict: Verdict
    wanted: str
    found: str
    sentence: str = ""

    def result(self) -> dict[str, str]:
        """Return it as JSON."""
        return {key: str(value) for key, value in asdict(self).items()}


class FailedGatesError(GateError):
    """A gate failed without which nothing else can be asked.

    Attributes:
        gates: those that were judged, the one that failed last.
    """

    def __init__(self, message: str, gates: Sequence[Gate]) -> None:
        super().__init__(message)
        self.gates = tuple(gates)


@contextmanager
def must_pass(name: str, wanted: str, judged: Sequence[Gate]) -> Iterator[None]:
    """Turn a GateError into a gate that failed, behind those that were judged before it.

    Raises:
        FailedGatesError: with the error's sentence.
    """
    try:
        yield
    except GateError as error:
        failed = Gate(name, Verdict.FAILED, wanted, one_line(error.message, 160), error.message)
        raise FailedGatesError(error.message, (*judged, failed)) from None


def startup_gate(sentence: str) -> Gate:
    """Return the gate of a release that did not come up: its pods were never ready, so nothing was asked.

    Args:
        sentence: of the wait for it.
    """
    return Gate("startup", Verdict.FAILED, "ready, and one chat", one_line(sentence, 160), sentence)


def gate(name: str, holds: bool | None, wanted: str, found: str, sentence: str) -> Gate:
    """Return a gate with its verdict; `holds` is None where the check could not be made."""
    if holds is None:
        return Gate(name, Verdict.NOT_PROVEN, wanted, found, sentence)
    return Gate(name, Verdict.PASSED if holds else Verdict.FAILED, wanted, found, "" if holds else sentence)


def check(gates: Iterable[Gate]) -> None:
    """Raise GateError with the sentence of the first gate that failed, and the names of the others."""
    failed = [one for one in gates if one.verdict is Verdict.FAILED]
    if failed:
        others = ", ".join(one.name for one in failed[1:])
        raise GateError(failed[0].sentence + (f" ({others} failed too)" if others else ""))


def gates_table(gates: Sequence[Gate]) -> str:
    """Return the gates as a table for a log."""
    rows = [
        ("gate", "verdict", "wanted", "found"),
        *((one.name, str(one.verdict), one.wanted, one.found) for one in gates),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]]).rstrip()
        for row in rows
    )


@dataclass(frozen=True)
class Change:
    """One measurement beside that of the release before.

    Attributes:
        before: None when there is nothing to compare with.
        worse: by how much of the former value it got worse; negative when it got better; None without one.
    """

    name: str
    now: float
    before: float | None
    worse: float | None

    @property
    def regressed(self) -> bool:
        """Whether it got worse by more than a fifth."""
        return self.worse is not None and self.worse > REGRESSION

    def result(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "regressed": self.regressed}


# Of these more is better; of all others, which are seconds, less is.
MORE_IS_BETTER = frozenset({"tokens_per_s"})
# Below this a difference is the clock's: Kubernetes' times have whole seconds.
LEAST_DIFFERENCE = {"ttft_s": 0.02, "tokens_per_s": 0.5}
LEAST_SECONDS = 2.0


def compare(now: Mapping[str, float | None], before: Mapping[str, float | None] | None) -> list[Change]:
    """Compare measurements by name with those of the release before; what was not measured now is left out."""
    return [_change(name, value, (before or {}).get(name)) for name, value in now.items() if value is not None]


def _change(name: str, now: float, before: float | None) -> Change:
    if before is None or before <= 0:
        return Change(name, now, before, None)
    difference = before - now if name in MORE_IS_BETTER else now - before
    if abs(difference) < LEAST_DIFFERENCE.get(name, LEAST_SECONDS):
        difference = 0.0
    return Change(name, now, before, round(difference / before, 3))
